"""A cgroup that systemd made: a transient scope, delegated to us, over D-Bus.

systemd makes the scope and knows its limits (it would undo those it does not know of on a daemon-reload); the files of
the cgroup are then written as without systemd, because they say more than unit properties can.

Sources: systemd.resource-control(5), systemd's docs/CONTROL_GROUP_INTERFACE.md, docs/CGROUP_DELEGATION.md.
"""

from __future__ import annotations

from pysandbox.cgroup import directory
from pysandbox.cgroup.cgroup import Cgroup, CgroupMount
from pysandbox.cgroup.membership import check_unused
from pysandbox.cgroup.properties import resource_properties, scope_properties
from pysandbox.errors import InvalidArgument, Unavailable

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Mapping
    from typing import Any

    from pysandbox.cgroup.oom import OomWatch
    from pysandbox.cgroup.v1 import CgroupV1
    from pysandbox.cgroup.v2 import CgroupV2
    from pysandbox.oci.types import Resources

DEFAULT_SLICE = "system.slice"

#: runc's, so that whoever looks for `runc-ID.scope` finds it.
DEFAULT_PREFIX = "runc"

_UNIT_LETTERS = frozenset("abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789:-_.\\@")

#: systemd.unit(5)
_UNIT_LIMIT = 255


def parse_unit(cgroups_path: str, container_id: str) -> tuple[str, str]:
    """Return slice and unit for `slice:prefix:name`, with runc's defaults."""
    parts = cgroups_path.split(":") if cgroups_path else ["", DEFAULT_PREFIX, container_id]
    if len(parts) != 3:
        raise InvalidArgument(
            'linux.cgroupsPath: expected cgroupsPath to be of format "slice:prefix:name" for systemd cgroups, '
            f'got "{cgroups_path}" instead'
        )
    slice_, prefix, name = parts
    unit = f"{prefix}-{name}.scope"
    if not name or name.endswith(".slice") or len(unit) > _UNIT_LIMIT or not _UNIT_LETTERS.issuperset(unit):
        raise InvalidArgument(f'linux.cgroupsPath: "{unit}" is not a valid name of a scope')
    expand_slice(slice_ or DEFAULT_SLICE)
    return slice_ or DEFAULT_SLICE, unit


def expand_slice(slice_: str) -> str:
    """Return the directory of a slice: /a.slice/a-b.slice for a-b.slice; empty for -.slice, the root."""
    name = slice_.removesuffix(".slice")
    if name == slice_ or not name or not _UNIT_LETTERS.issuperset(slice_):
        raise InvalidArgument(f'linux.cgroupsPath: "{slice_}" is not a valid name of a slice')
    if name == "-":
        return ""
    path = prefix = ""
    for component in name.split("-"):
        if not component:
            raise InvalidArgument(f'linux.cgroupsPath: "{slice_}" is not a valid name of a slice')
        path += f"/{prefix}{component}.slice"
        prefix += f"{component}-"
    return path


class SystemdCgroup(Cgroup):
    """See `Cgroup`. A scope cannot be empty, so `create` only checks; the first `add` makes it.

    `bus` is the D-Bus address; `limit` how long systemd may take, in seconds.
    """

    def __init__(
        self, inner: Cgroup, slice_: str, unit: str, *, bus: str = "SYSTEM", limit: float | None = None
    ) -> None:
        self._inner: CgroupV1 | CgroupV2 = inner  # type: ignore[assignment]
        self.version = inner.version
        self.container_id = inner.container_id
        self._slice = slice_
        self.unit = unit
        self._bus = bus
        self._limit = limit
        self._wanted: Resources | None = None
        self._started = False

    def paths(self) -> dict[str, str]:
        """See `Cgroup.paths`."""
        return self._inner.paths()

    def saved(self) -> dict[str, Any]:
        """See `Cgroup.saved`."""
        return {**self._inner.saved(), "unit": self.unit, "slice": self._slice}

    def create(self, resources: Resources | None = None) -> None:
        """See `Cgroup.create`. Nothing exists before the first `add`."""
        existing = [path for path in dict.fromkeys(self.paths().values()) if directory.exists(path)]
        check_unused(existing, frozen=bool(existing) and self._inner.frozen())
        self._inner.check(resources or {})
        resource_properties(resources or {}, self.version, systemd=0)  # refuses what cannot be said to systemd
        self._wanted = resources or {}

    def add(self, pid: int, below: str | Mapping[str, str] | None = None, *, init: int = 0) -> None:
        """See `Cgroup.add`. The first process of a new container is what the scope is made with."""
        if self._wanted is None or self._started:
            self._inner.add(pid, below, init=init)
            return
        with self._systemd() as systemd:
            properties = scope_properties(self._slice, self.container_id, pid, self.version)
            properties += resource_properties(self._wanted, self.version, systemd=systemd.version())
            systemd.start_scope(self.unit, properties)
        self._started = True
        self._inner.adopt(self._wanted)
        self._inner.add(pid)

    def apply(self, resources: Resources) -> None:
        """See `Cgroup.apply`."""
        if self._wanted is not None and not self._started:
            self._inner.check(resources)
            self._wanted = resources
            return
        self._inner.check(resources)
        with self._systemd() as systemd:
            properties = resource_properties(resources, self.version, systemd=systemd.version())
            properties = [each for each in properties if each[0] != "OOMPolicy"]  # fixed when the scope starts
            if properties:
                systemd.set_properties(self.unit, properties)
        self._inner.apply(resources)

    def remove(self) -> None:
        """See `Cgroup.remove`."""
        owners = {directory.owner(path) for path in set(self.paths().values()) if directory.exists(path)}
        if self._started or (owners <= {self.container_id, None} and owners != {None}):
            with self._systemd() as systemd:
                systemd.stop(self.unit)
        self._inner.remove()

    def delegate(self, uid: int) -> None:
        """See `Cgroup.delegate`."""
        self._inner.delegate(uid)

    def freeze(self) -> None:
        """See `Cgroup.freeze`."""
        self._inner.freeze()

    def thaw(self) -> None:
        """See `Cgroup.thaw`."""
        self._inner.thaw()

    def frozen(self) -> bool:
        """See `Cgroup.frozen`."""
        return self._inner.frozen()

    def signal_all(self, signal: int) -> None:
        """See `Cgroup.signal_all`."""
        self._inner.signal_all(signal)

    def kill(self) -> None:
        """See `Cgroup.kill`."""
        self._inner.kill()

    def pids(self) -> list[int]:
        """See `Cgroup.pids`."""
        return self._inner.pids()

    def stats(self) -> dict[str, Any]:
        """See `Cgroup.stats`."""
        return self._inner.stats()

    def watch_oom(self) -> OomWatch | None:
        """See `Cgroup.watch_oom`."""
        return self._inner.watch_oom()

    def mounts(self) -> tuple[CgroupMount, ...]:
        """See `Cgroup.mounts`."""
        return self._inner.mounts()

    def _systemd(self) -> Any:
        try:
            from pysandbox.cgroup.dbus import LIMIT, Systemd
        except ImportError as error:
            raise Unavailable(f"--systemd-cgroup needs the Python package jeepney: {error}") from None
        return Systemd(self._bus, LIMIT if self._limit is None else self._limit)
