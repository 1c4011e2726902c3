"""A cgroup on the unified hierarchy of v2.

Sources: the kernel's admin-guide/cgroup-v2.rst, cgroups(7).
"""

from __future__ import annotations

import errno
import os
import time

from pysandbox.cgroup import directory
from pysandbox.cgroup.cgroup import Cgroup, CgroupMount
from pysandbox.cgroup.devices import device_policy
from pysandbox.cgroup.directory import CgroupError
from pysandbox.cgroup.killing import SIGKILL, signal_stopped, wait_gone
from pysandbox.cgroup.membership import check_unused, join, sub_cgroups
from pysandbox.cgroup.resources import Knobs, usage_problem, v2_writes
from pysandbox.cgroup.writes import check_controllers, perform
from pysandbox.errors import DeadlineExceeded, FailedPrecondition

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping
    from typing import Any

    from pysandbox.cgroup.layout import Layout
    from pysandbox.cgroup.oom import OomWatch
    from pysandbox.oci.types import Resources

#: How long all processes may take to stop, in seconds.
FREEZE_LIMIT = 2.0

#: What every cgroup has without a controller being enabled for it.
_BUILT_IN = ("cgroup", "")


class CgroupV2(Cgroup):
    """See `Cgroup`. `path` is the directory, `layout` the host's, read again where it is not given."""

    version = 2

    def __init__(self, path: str, container_id: str, layout: Layout | None = None) -> None:
        self.container_id = container_id
        self._layout = layout
        self._path = path

    def paths(self) -> dict[str, str]:
        """See `Cgroup.paths`."""
        return {"": self._path}

    def create(self, resources: Resources | None = None) -> None:
        """See `Cgroup.create`."""
        self.check(resources or {})
        made: list[str] = []
        try:
            made += directory.make(self._path)
            check_unused([self._path], frozen=self.frozen())
            self.adopt(resources or {})
        except BaseException:
            for path in reversed(made):
                directory.remove_tree(path)
            raise

    def check(self, resources: Resources) -> None:
        """Refuse what cannot be given on this host, before anything is made."""
        device_policy(resources.get("devices") or ())
        check_controllers(v2_writes(resources, Knobs()), {*_BUILT_IN, *directory.controllers_above(self._path)})

    def adopt(self, resources: Resources) -> None:
        """Go on from a directory that systemd, or `create`, made for this container."""
        directory.mark(self._path, self.container_id)
        enable_controllers(self._path, {write.controller for write in v2_writes(resources, Knobs())})
        self._set_devices(resources.get("devices") or ())
        self._limit(resources)

    def add(self, pid: int, below: str | Mapping[str, str] | None = None, *, init: int = 0) -> None:
        """See `Cgroup.add`. A cgroup that hands out controllers takes no process: then it joins `init` where it is."""
        (path,) = sub_cgroups(self.paths(), below)
        try:
            join(path, pid)
        except CgroupError as error:
            if below or error.errno not in (errno.EBUSY, errno.EOPNOTSUPP):
                raise
            inner = self._where(init)
            if inner is None:
                raise
            join(inner, pid)

    def entrances(self) -> dict[str, str]:
        """See `Cgroup.entrances`. There are none while the cgroup hands out controllers: then it takes no process."""
        handed_out = directory.exists(self._path) and directory.read(self._path, "cgroup.subtree_control").strip()
        return {} if handed_out else {"cgroup": self._path}

    def _where(self, init: int) -> str | None:
        """Return the directory, at or below this one, that `init` (or, not given, any process) is in."""
        for parent, name in directory.walk(self._path):
            text = directory.read_below(parent, f"{name}/cgroup.procs")
            if text and (not init or str(init) in text.split()):
                return os.readlink(f"/proc/self/fd/{parent}") + "/" + name
        return None

    def apply(self, resources: Resources) -> None:
        """See `Cgroup.apply`."""
        self.check(resources)
        enable_controllers(self._path, {write.controller for write in v2_writes(resources, Knobs())})
        if resources.get("devices") is not None:
            self._set_devices(resources["devices"])
        self._limit(resources)

    def _set_devices(self, rules: Iterable[Mapping[str, Any]]) -> None:
        from pysandbox.cgroup.device_program import attach_device_program

        attach_device_program(self._path, device_policy(rules))

    def _limit(self, resources: Resources) -> None:
        memory = resources.get("memory") or {}
        if memory.get("checkBeforeUpdate"):
            problem = usage_problem(memory, int(directory.read_or(self._path, "memory.current", "0")))
            if problem:
                raise FailedPrecondition(problem)
        bfq = bool(resources.get("blockIO")) and directory.exists(self._path, "io.bfq.weight")
        perform(v2_writes(resources, Knobs(bfq=bfq)), _Everywhere(self._path))

    def delegate(self, uid: int) -> None:
        """See `Cgroup.delegate`. /sys/kernel/cgroup/delegate lists the files: the limits stay the host's."""
        os.chown(self._path, uid, -1, follow_symlinks=False)
        listed = directory.read_or("/sys/kernel/cgroup", "delegate", "cgroup.procs\ncgroup.subtree_control\n")
        for name in listed.split():
            if directory.exists(self._path, name):
                os.chown(os.path.join(self._path, name), uid, -1, follow_symlinks=False)

    def freeze(self) -> None:
        """See `Cgroup.freeze`."""
        directory.write(self._path, "cgroup.freeze", "1")
        deadline = time.monotonic() + FREEZE_LIMIT
        while not self._all_frozen():
            if time.monotonic() > deadline:
                directory.write(self._path, "cgroup.freeze", "0")
                raise DeadlineExceeded(
                    f"unable to freeze {self._path}: its processes did not stop in {FREEZE_LIMIT:.0f} s"
                )
            time.sleep(0.002)

    def _all_frozen(self) -> bool:
        return "frozen 1" in directory.read(self._path, "cgroup.events")

    def thaw(self) -> None:
        """See `Cgroup.thaw`."""
        directory.write(self._path, "cgroup.freeze", "0")

    def frozen(self) -> bool:
        """See `Cgroup.frozen`."""
        return directory.read_or(self._path, "cgroup.freeze", "0").strip() == "1" or "frozen 1" in directory.read_or(
            self._path, "cgroup.events", ""
        )

    def signal_all(self, signal: int) -> None:
        """See `Cgroup.signal_all`."""
        if directory.owner(self._path) != self.container_id:
            return
        if signal == SIGKILL and directory.exists(self._path, "cgroup.kill"):
            directory.write(self._path, "cgroup.kill", "1")  # Linux 5.14; reaches frozen ones and those being forked
        else:
            signal_stopped(self, signal)

    def kill(self) -> None:
        """See `Cgroup.kill`."""
        if directory.owner(self._path) == self.container_id:
            wait_gone(self)

    def pids(self) -> list[int]:
        """See `Cgroup.pids`."""
        return sorted(directory.processes(self._path))

    def stats(self) -> dict[str, Any]:
        """See `Cgroup.stats`."""
        from pysandbox.cgroup.stats import v2_stats

        return v2_stats(self._path)

    def watch_oom(self) -> OomWatch | None:
        """See `Cgroup.watch_oom`."""
        from pysandbox.cgroup.oom import v2_oom_watch

        return v2_oom_watch(self._path)

    def remove(self) -> None:
        """See `Cgroup.remove`."""
        owner = directory.owner(self._path)
        if owner == self.container_id:
            directory.remove_tree(self._path)
        elif owner is None:
            directory.remove_empty(self._path)

    def mounts(self) -> tuple[CgroupMount, ...]:
        """See `Cgroup.mounts`."""
        from pysandbox.cgroup.layout import in_first_namespaces, read_layout

        unified = (self._layout or read_layout()).unified
        whole = unified.mount_point if unified is not None and unified.root == "/" and in_first_namespaces() else ""
        return (CgroupMount(version=2, name="", source=self._path, whole=whole),)


class _Everywhere(dict[str, str]):
    """The one directory, whatever the controller: a name in `unified` may be any file's."""

    def __init__(self, path: str) -> None:
        super().__init__()
        self._path = path

    def get(self, key: str, default: Any = None) -> Any:
        return self._path


def enable_controllers(path: str, needed: Iterable[str]) -> None:
    """Hand every controller there is down to `path`, level by level; only a `needed` one must work.

    Raises CgroupError. A level that has processes of its own cannot hand down (EBUSY, "no internal processes").
    """
    needed = {controller for controller in needed if controller not in _BUILT_IN}
    levels = []
    above = os.path.dirname(path)
    while directory.exists(above, "cgroup.subtree_control"):
        levels.append(above)
        above = os.path.dirname(above)
    for level in reversed(levels):
        offered = directory.read(level, "cgroup.controllers").split()
        enabled = directory.read(level, "cgroup.subtree_control").split()
        missing = [controller for controller in offered if controller not in enabled]
        if missing:
            _enable(level, missing, needed)


def _enable(level: str, controllers: list[str], needed: Iterable[str]) -> None:
    try:
        directory.write(level, "cgroup.subtree_control", " ".join(f"+{controller}" for controller in controllers))
        return
    except CgroupError:
        pass  # one that cannot be enabled spoils the whole write: try each alone
    for controller in controllers:
        try:
            directory.write(level, "cgroup.subtree_control", f"+{controller}")
        except CgroupError:
            if controller in needed:
                raise
