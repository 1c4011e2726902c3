"""Where a container's cgroup is, and which of the implementations of `Cgroup` it takes.

`open_cgroup` decides that for a new container and touches nothing; `Cgroup.create` makes it. `load_cgroup` takes hold
of it again from what `Cgroup.saved` returned. Each implementation is imported only where it is used.
"""

from __future__ import annotations

import os

from pysandbox.errors import InvalidArgument, Unavailable

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Mapping
    from typing import Any

    from pysandbox.cgroup.cgroup import Cgroup
    from pysandbox.cgroup.layout import Layout


def open_cgroup(cgroups_path: str, container_id: str, *, systemd: bool = False, layout: Layout | None = None) -> Cgroup:
    """Decide where a container's cgroup is, without making it. `layout` is the host's, read when not given.

    `cgroups_path` is `linux.cgroupsPath`. Absolute: from the root of each hierarchy. Relative, and empty (then the
    container's id counts): below this process's own cgroup, on v2 beside it, as a cgroup with processes cannot hand out
    controllers. With `systemd` it is `slice:prefix:name`. Raises InvalidArgument, and Unavailable without cgroups.
    """
    from pysandbox.cgroup.layout import read_layout

    layout = layout or read_layout()
    if systemd:
        return _open_scope(cgroups_path, container_id, layout)
    check_path(cgroups_path)
    return _place(layout, cgroups_path or container_id, container_id)


def _open_scope(cgroups_path: str, container_id: str, layout: Layout) -> Cgroup:
    from pysandbox.cgroup.systemd import SystemdCgroup, expand_slice, parse_unit

    slice_, unit = parse_unit(cgroups_path, container_id)
    if not os.path.isdir("/run/systemd/system"):  # sd_booted(3)
        raise Unavailable("systemd cgroup flag passed, but systemd support for managing cgroups is not available")
    inner = _place(layout, f"{expand_slice(slice_)}/{unit}", container_id)
    return SystemdCgroup(inner, slice_, unit)


def _place(layout: Layout, path: str, container_id: str) -> Cgroup:
    paths = layout.place(path)
    if layout.unified_only:
        from pysandbox.cgroup.v2 import CgroupV2

        return CgroupV2(paths[""], container_id, layout)
    from pysandbox.cgroup.v1 import CgroupV1

    return CgroupV1(paths, container_id, layout)


def load_cgroup(saved: Mapping[str, Any]) -> Cgroup:
    """Take hold of a cgroup again. `saved` is what `Cgroup.saved` returned."""
    directories = _load_directories(saved)
    if "unit" not in saved:
        return directories
    from pysandbox.cgroup.systemd import SystemdCgroup

    return SystemdCgroup(directories, saved["slice"], saved["unit"])


def _load_directories(saved: Mapping[str, Any]) -> Cgroup:
    if saved["version"] == 2:
        from pysandbox.cgroup.v2 import CgroupV2

        return CgroupV2(saved["paths"][""], saved["id"])
    from pysandbox.cgroup.v1 import CgroupV1

    return CgroupV1(dict(saved["paths"]), saved["id"])


def check_path(cgroups_path: str) -> None:
    """Refuse a path that leaves its place, or is a whole hierarchy."""
    if "\0" in cgroups_path or ".." in cgroups_path.split("/"):
        raise InvalidArgument(f'linux.cgroupsPath: {cgroups_path!r} must not contain ".." or NUL')
    if len(os.fsencode(cgroups_path)) > 3900 or any(len(os.fsencode(part)) > 255 for part in cgroups_path.split("/")):
        raise InvalidArgument("linux.cgroupsPath: longer than the kernel allows")
    if cgroups_path and not [part for part in cgroups_path.split("/") if part not in ("", ".")]:
        raise InvalidArgument(f'linux.cgroupsPath: "{cgroups_path}" is the root of the hierarchy')
