"""A cgroup on v1 hierarchies, and in the cgroup2 tree beside them where the host is hybrid.

Sources: the kernel's admin-guide/cgroup-v1: cgroups, cpusets, freezer-subsystem, memory.
"""

from __future__ import annotations

import os
import time

from pysandbox.cgroup import directory
from pysandbox.cgroup.cgroup import Cgroup, CgroupMount
from pysandbox.cgroup.devices import device_policy, v1_device_writes
from pysandbox.cgroup.killing import signal_stopped, wait_gone
from pysandbox.cgroup.membership import check_unused, join, sub_cgroups
from pysandbox.cgroup.resources import Knobs, usage_problem, v1_writes, v2_writes
from pysandbox.cgroup.writes import check_controllers, perform
from pysandbox.errors import DeadlineExceeded, FailedPrecondition, Unavailable

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping
    from typing import Any

    from pysandbox.cgroup.layout import Layout
    from pysandbox.cgroup.oom import OomWatch
    from pysandbox.cgroup.resources import Write
    from pysandbox.oci.types import Resources

#: How long all processes may take to stop, in seconds.
FREEZE_LIMIT = 2.0

#: Controllers that, on a hybrid host, may be in the cgroup2 tree alone and are then used there.
_UNIFIED_TOO = ("hugetlb", "rdma")


class CgroupV1(Cgroup):
    """See `Cgroup`. `paths` maps controllers to directories; merged ones (cpu,cpuacct) share one.

    `layout` is the host's, read again where it is not given.
    """

    version = 1

    def __init__(self, paths: dict[str, str], container_id: str, layout: Layout | None = None) -> None:
        self.container_id = container_id
        self._layout = layout
        self._paths = paths
        self._directories = list(dict.fromkeys(paths.values()))

    def paths(self) -> dict[str, str]:
        """See `Cgroup.paths`."""
        return dict(self._paths)

    def create(self, resources: Resources | None = None) -> None:
        """See `Cgroup.create`."""
        self.check(resources or {})
        made: list[str] = []
        try:
            for path in self._directories:
                made += directory.make(path)
            check_unused([path for path in self._directories if path not in made], frozen=self.frozen())
            self._set_up(resources or {})
        except BaseException:
            for path in reversed(made):
                directory.remove_tree(path)
            raise

    def check(self, resources: Resources) -> None:
        """Refuse what cannot be given on this host, before anything is made."""
        if "devices" not in self._paths:
            raise Unavailable("this host has no devices cgroup controller, so devices cannot be kept from a container")
        device_policy(resources.get("devices") or ())
        check_controllers(v1_writes(resources, Knobs()), self._controllers())

    def adopt(self, resources: Resources) -> None:
        """Go on from directories that systemd made for this container, making those that it did not."""
        for path in self._directories:
            directory.make(path)
        self._set_up(resources)

    def _set_up(self, resources: Resources) -> None:
        for path in self._directories:
            directory.mark(path, self.container_id)
        self._inherit_cpuset()
        self._set_devices(resources.get("devices") or ())
        self._limit(resources)

    def _set_devices(self, rules: Iterable[Mapping[str, Any]]) -> None:
        current = directory.read(self._paths["devices"], "devices.list")
        perform(v1_device_writes(device_policy(rules), current), self._paths)

    def _inherit_cpuset(self) -> None:
        """Give cpus and memory nodes to each level that has none: a v1 cpuset starts empty and nothing can join it."""
        path = self._paths.get("cpuset")
        if path is None:
            return
        for file in ("cpuset.cpus", "cpuset.mems"):
            empty = []
            above = path
            while not (value := directory.read(above, file).strip()):
                empty.append(above)
                above = os.path.dirname(above)
            for level in reversed(empty):
                directory.write(level, file, value)

    def add(self, pid: int, below: str | Mapping[str, str] | None = None, *, init: int = 0) -> None:
        """See `Cgroup.add`."""
        for path in sub_cgroups(self._paths, below):
            join(path, pid)

    def apply(self, resources: Resources) -> None:
        """See `Cgroup.apply`."""
        self.check(resources)
        if resources.get("devices") is not None:
            self._set_devices(resources["devices"])
        self._limit(resources)

    def _limit(self, resources: Resources) -> None:
        memory = resources.get("memory") or {}
        if memory.get("checkBeforeUpdate"):
            usage = int(directory.read(self._paths["memory"], "memory.usage_in_bytes"))
            problem = usage_problem(memory, usage)
            if problem:
                raise FailedPrecondition(problem)
        writes = [write for write in v1_writes(resources, self._knobs(resources)) if write.controller in self._paths]
        perform(writes, self._paths)
        unified = self._unified_writes(resources)
        if unified:
            from pysandbox.cgroup.v2 import enable_controllers

            enable_controllers(self._paths[""], {write.controller for write in unified})
            perform(unified, dict.fromkeys(_UNIFIED_TOO, self._paths[""]))

    def _knobs(self, resources: Resources) -> Knobs:
        """Look at the cgroup, as far as the limits at hand depend on it."""
        limit, swap, bfq = None, True, False
        memory = resources.get("memory") or {}
        if memory.get("limit") and "memory" in self._paths:
            swap = directory.exists(self._paths["memory"], "memory.memsw.limit_in_bytes")
            if swap and memory.get("swap"):
                limit = int(directory.read(self._paths["memory"], "memory.limit_in_bytes"))
        if resources.get("blockIO") and "blkio" in self._paths:
            bfq = not directory.exists(self._paths["blkio"], "blkio.weight")
        return Knobs(memory_limit=limit, swap=swap, bfq=bfq)

    def _controllers(self) -> set[str]:
        return {*self._paths, *self._unified_controllers()}

    def _unified_controllers(self) -> set[str]:
        """Return the controllers that only the cgroup2 tree of a hybrid host has."""
        if "" not in self._paths:
            return set()
        offered = directory.controllers_above(self._paths[""])
        return {controller for controller in _UNIFIED_TOO if controller not in self._paths and controller in offered}

    def _unified_writes(self, resources: Resources) -> list[Write]:
        if not (resources.get("hugepageLimits") or resources.get("rdma")):
            return []
        there = self._unified_controllers()
        return [write for write in v2_writes(resources, Knobs()) if write.controller in there]

    def entrances(self) -> dict[str, str]:
        """See `Cgroup.entrances`."""
        unified = self._paths.get("")
        legacy = [path for path in self._directories if path != unified]
        found = {f"tasks{number}": os.path.join(path, "tasks") for number, path in enumerate(legacy)}
        return found | ({"cgroup": unified} if unified else {})

    def freeze(self) -> None:
        """See `Cgroup.freeze`."""
        path = self._freezer()
        deadline = time.monotonic() + FREEZE_LIMIT
        while time.monotonic() < deadline:
            directory.write(path, "freezer.state", "FROZEN")
            if self._reaches_frozen(path):
                return
            # A process that forks at the wrong moment keeps the state at FREEZING for ever: let go, and try again.
            directory.write(path, "freezer.state", "THAWED")
        raise DeadlineExceeded(f"unable to freeze {path}: its processes did not stop in {FREEZE_LIMIT:.0f} s")

    @staticmethod
    def _reaches_frozen(path: str) -> bool:
        for _ in range(50):
            if directory.read(path, "freezer.state").strip() == "FROZEN":
                return True
            time.sleep(0.002)
        return False

    def thaw(self) -> None:
        """See `Cgroup.thaw`."""
        directory.write(self._freezer(), "freezer.state", "THAWED")

    def frozen(self) -> bool:
        """See `Cgroup.frozen`."""
        path = self._paths.get("freezer")
        return path is not None and directory.read_or(path, "freezer.state", "THAWED").strip() != "THAWED"

    def _freezer(self) -> str:
        if "freezer" not in self._paths:
            raise Unavailable("this host has no freezer cgroup controller")
        return self._paths["freezer"]

    def signal_all(self, signal: int) -> None:
        """See `Cgroup.signal_all`."""
        if self._ours():
            signal_stopped(self, signal, stoppable="freezer" in self._paths)

    def kill(self) -> None:
        """See `Cgroup.kill`."""
        if not self._ours():
            return
        unified = self._paths.get("")
        if unified is not None and directory.owner(unified) == self.container_id and self.pids():
            directory.write(unified, "cgroup.kill", "1")  # Linux 5.14; the next step does without it
        wait_gone(self)

    def pids(self) -> list[int]:
        """See `Cgroup.pids`."""
        # A process that may write to its v1 hierarchies can move within each of them: two are asked.
        places = {self._paths.get("freezer", self._directories[0]), self._paths.get("", self._directories[-1])}
        found: set[int] = set()
        for path in places:
            found |= directory.processes(path)
        return sorted(found)

    def stats(self) -> dict[str, Any]:
        """See `Cgroup.stats`."""
        from pysandbox.cgroup.stats import v1_stats

        return v1_stats(self._paths)

    def watch_oom(self) -> OomWatch | None:
        """See `Cgroup.watch_oom`."""
        from pysandbox.cgroup.oom import v1_oom_watch

        return v1_oom_watch(self._paths["memory"])

    def remove(self) -> None:
        """See `Cgroup.remove`."""
        for path in reversed(self._directories):
            owner = directory.owner(path)
            if owner == self.container_id:
                directory.remove_tree(path)
            elif owner is None:
                directory.remove_empty(path)

    def mounts(self) -> tuple[CgroupMount, ...]:
        """See `Cgroup.mounts`."""
        from pysandbox.cgroup.layout import read_layout

        mounts = []
        for hierarchy in (self._layout or read_layout()).legacy:
            options = ",".join(hierarchy.controllers)
            links = hierarchy.controllers if len(hierarchy.controllers) > 1 else ()
            name = os.path.basename(hierarchy.mount_point)
            source = self._paths[hierarchy.controllers[0]]
            mounts.append(CgroupMount(version=1, name=name, source=source, options=options, links=links))
        return tuple(mounts)

    def _ours(self) -> bool:
        """Say whether the directories there are were made by this container's `create`."""
        owners = {directory.owner(path) for path in self._directories if directory.exists(path)}
        return owners == {self.container_id}
