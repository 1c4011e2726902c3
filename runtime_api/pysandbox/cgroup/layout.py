"""Where this host's cgroup hierarchies are mounted, and where in them this process is."""

from __future__ import annotations

import os

from pysandbox.caller import current
from pysandbox.errors import Unavailable
from pysandbox.record import dataclass

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Mapping

MOUNT_POINT = "/sys/fs/cgroup"

#: Controllers of v1, in the order in which runc makes and sets them. cpuset first: without it nothing can join.
CONTROLLERS = (
    "cpuset", "devices", "memory", "cpu", "cpuacct", "pids", "blkio", "hugetlb", "net_cls", "net_prio", "perf_event",
    "freezer", "rdma", "misc", "name=systemd",
)  # fmt: skip


@dataclass(frozen=True, slots=True)
class Hierarchy:
    """One mounted hierarchy. `root` is what of it is mounted: `/`, but for a container's own mounts."""

    mount_point: str
    root: str
    controllers: tuple[str, ...] = ()

    def directory(self, cgroup: str) -> str:
        """Return where a cgroup, named as in /proc/PID/cgroup, can be reached; one outside of `root` is at its top."""
        root = self.root.rstrip("/")
        if root and cgroup != root and not cgroup.startswith(root + "/"):
            return self.mount_point
        inner = [part for part in cgroup[len(root) :].split("/") if part not in ("", ".", "..")]
        return "/".join([self.mount_point, *inner])


@dataclass(frozen=True, slots=True)
class Layout:
    """The host's hierarchies: those of v1, the unified one of v2, or both (hybrid). `own`: controller -> own cgroup."""

    legacy: tuple[Hierarchy, ...]
    unified: Hierarchy | None
    own: Mapping[str, str]

    @property
    def unified_only(self) -> bool:
        """Say whether the host is all v2."""
        return not self.legacy

    def place(self, path: str) -> dict[str, str]:
        """Return the directory for `path` by controller, `""` for cgroup2, in the order of `CONTROLLERS`."""
        parts = [part for part in path.split("/") if part not in ("", ".")]
        absolute = path.startswith("/")
        places = {}
        for controller in CONTROLLERS:
            for hierarchy in self.legacy:
                if controller in hierarchy.controllers:
                    base = hierarchy.mount_point if absolute else hierarchy.directory(self.own.get(controller, "/"))
                    places[controller] = "/".join([base, *parts])
        if self.unified is not None:
            places[""] = "/".join([self._unified_base(self.unified, absolute=absolute), *parts])
        return places

    def _unified_base(self, unified: Hierarchy, *, absolute: bool) -> str:
        if absolute:
            return unified.mount_point
        own = self.own.get("", "/")
        # A cgroup that has processes cannot give controllers to its children ("no internal processes", cgroups(7)).
        return unified.directory(os.path.dirname(own) if self.unified_only else own)


def read_layout() -> Layout:
    """Read the layout from /proc. Raises Unavailable where no cgroup file system is mounted."""
    layout = parse_layout(_read("/proc/self/mountinfo"), _read(f"/proc/{current().pid}/cgroup"))
    if not layout.legacy and layout.unified is None:
        raise Unavailable(f"no cgroup file system is mounted at {MOUNT_POINT}")
    return layout


def in_first_namespaces() -> bool:
    """Say whether our cgroup and user namespaces are the kernel's first ones, which are no container's.

    Their inode numbers are fixed: PROC_CGROUP_INIT_INO and PROC_USER_INIT_INO of include/linux/proc_ns.h.
    """
    first = {"cgroup": 0xEFFFFFFB, "user": 0xEFFFFFFD}
    return all(os.stat(f"/proc/self/ns/{kind}").st_ino == inode for kind, inode in first.items())


def parse_layout(mountinfo: str, own: str) -> Layout:
    """Make a layout from the texts of /proc/PID/mountinfo (proc(5)) and /proc/PID/cgroup (cgroups(7))."""
    legacy: list[Hierarchy] = []
    unified = None
    taken: set[str] = set()
    for line in mountinfo.splitlines():
        if " - cgroup" not in line:
            continue
        left, _, right = line.partition(" - ")
        root, mount_point = left.split(" ")[3:5]
        mount_point = _unescape(mount_point)
        if mount_point != MOUNT_POINT and not mount_point.startswith(MOUNT_POINT + "/"):
            continue  # somebody else's second mount, a container's perhaps
        kind, _, options = right.split(" ", 2)
        hierarchy = Hierarchy(mount_point, _unescape(root), _controllers(options))
        if kind == "cgroup2":
            unified = unified or hierarchy
        elif kind == "cgroup" and hierarchy.controllers and not taken & set(hierarchy.controllers):
            taken.update(hierarchy.controllers)
            legacy.append(hierarchy)
    return Layout(tuple(legacy), unified, parse_own(own))


def parse_own(text: str) -> dict[str, str]:
    """Return the own cgroup by controller, `""` for cgroup2, from the text of /proc/PID/cgroup."""
    own = {}
    for line in text.splitlines():
        _, controllers, path = line.split(":", 2)
        for controller in controllers.split(","):
            own[controller] = path
    return own


def _controllers(options: str) -> tuple[str, ...]:
    return tuple(option for option in options.split(",") if option in CONTROLLERS)


def _unescape(text: str) -> str:
    """Undo the kernel's octal escapes of blank, tab, newline and backslash."""
    if "\\" not in text:
        return text
    for escape, character in (("\\040", " "), ("\\011", "\t"), ("\\012", "\n"), ("\\134", "\\")):
        text = text.replace(escape, character)
    return text


def _read(path: str) -> str:
    with open(path, "rb", buffering=0) as file:
        return file.readall().decode("utf-8", "surrogateescape")
