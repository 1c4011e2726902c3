"""One container's cgroup, behind one interface, whichever way the host does cgroups.

Limits go in as the spec's own `linux.resources` object, usage comes out in the shape of runc's `events --stats`.
`pysandbox.cgroup.placement` decides where a container's cgroup is, and takes hold of one again.

A cgroup that is in use by somebody else is never taken, signalled or removed: `create` refuses one that has processes,
and marks what it made with the container's id (an extended attribute, which the kernel drops with the directory);
`kill`, `signal_all`, `freeze` and `remove` do nothing to a directory that carries another mark or none.

Sources: cgroups(7), the kernel's admin-guide/cgroup-v1 and cgroup-v2, runtime-spec config-linux.md.
"""

from __future__ import annotations

import abc
import os

from pysandbox.record import dataclass

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping
    from typing import Any

    from pysandbox.cgroup.oom import OomWatch
    from pysandbox.oci.types import Resources


@dataclass(frozen=True, slots=True, kw_only=True)
class CgroupMount:
    """What a mount of type `cgroup` in a container is made of: one of these per hierarchy.

    On v1, each is a directory `name` below the mount's destination, with symbolic `links` to it (`cpu` and `cpuacct`
    to `cpu,cpuacct`); a container with its own cgroup namespace mounts a new instance with `options` as its data, any
    other gets a bind mount of `source`. On v2 there is one with an empty `name`: the mount itself. `whole` is a
    mount of the host's that is as good as a new one to whoever shares our cgroup namespace, empty where there is none.
    """

    version: int
    name: str
    source: str
    options: str = ""
    links: tuple[str, ...] = ()
    whole: str = ""


class Cgroup(abc.ABC):
    """A container's cgroup: a directory in each hierarchy of the host."""

    version: int
    container_id: str

    @abc.abstractmethod
    def paths(self) -> dict[str, str]:
        """Return the directory by controller, as in runc's state.json; `""` stands for cgroup2."""

    @abc.abstractmethod
    def create(self, resources: Resources | None = None) -> None:
        """Make the directories, then apply `resources` if given.

        Devices are denied from here on. On failure nothing that was made is left. Raises FailedPrecondition when the
        cgroup is there and has processes or is frozen, Unavailable when a limit has no controller on this host.
        """

    @abc.abstractmethod
    def add(self, pid: int, below: str | Mapping[str, str] | None = None, *, init: int = 0) -> None:
        """Put a process into the cgroup in every hierarchy, or into an existing one `below` it (`exec --cgroup`).

        On v2 a container may have turned its cgroup into one that takes no processes: then it joins `init`'s.
        """

    @abc.abstractmethod
    def apply(self, resources: Resources) -> None:
        """Set limits. What `resources` does not mention stays as it is."""

    @abc.abstractmethod
    def freeze(self) -> None:
        """Stop every process. Returns when all are stopped; DeadlineExceeded leaves them running."""

    @abc.abstractmethod
    def thaw(self) -> None:
        """Let every process go on."""

    @abc.abstractmethod
    def frozen(self) -> bool:
        """Say whether the processes are stopped, or being stopped."""

    @abc.abstractmethod
    def signal_all(self, signal: int) -> None:
        """Send a signal to every process here and below. SIGKILL ends frozen ones too."""

    @abc.abstractmethod
    def pids(self) -> list[int]:
        """Return every process here and below, in order, as this process's pid namespace numbers them."""

    @abc.abstractmethod
    def stats(self) -> dict[str, Any]:
        """Return usage as the `data` of runc's `events --stats`."""

    @abc.abstractmethod
    def watch_oom(self) -> OomWatch | None:
        """Return what tells each time the kernel ran out of the cgroup's memory, yours to close; None if gone."""

    def oom_events(self) -> Iterator[int]:
        """Yield each time the kernel ran out of the cgroup's memory; end when the cgroup is gone or empty."""
        from pysandbox.cgroup.oom import events

        yield from events(self.watch_oom())

    @abc.abstractmethod
    def remove(self) -> None:
        """Remove the directories and all below them. Waits a few seconds for processes to be gone; repeatable."""

    @abc.abstractmethod
    def mounts(self) -> tuple[CgroupMount, ...]:
        """Return what a mount of type `cgroup` in the container is made of."""

    def entrances(self) -> dict[str, str]:
        """Return what a process enters the cgroup through by itself: the executor's slot and the path to open for it.

        Slots `tasks…` are v1's `tasks` files: a process with one thread that writes `0` there moves itself at once,
        while `add`, which moves *another* process, waits for an RCU grace period (5 to 16 ms on a machine that moved
        none lately). Slot `cgroup` is the cgroup2 directory, for CLONE_INTO_CGROUP. Empty: only `add` will do.
        """
        return {}

    def delegate(self, uid: int) -> None:  # noqa: B027 - nothing to do on v1, where delegation is not safe
        """Give a v2 cgroup to a user: for a container with its own cgroup namespace and a writable cgroup mount."""

    def kill(self) -> None:
        """End every process here and below, frozen ones too, and wait a moment for them to be gone."""
        self.signal_all(9)

    def wait_oom(self) -> bool:
        """Block until the kernel ran out of the cgroup's memory (True) or the cgroup is gone or empty (False)."""
        return next(self.oom_events(), None) is not None

    def saved(self) -> dict[str, Any]:
        """Return a JSON object that `load_cgroup` makes this cgroup from again."""
        return {"version": self.version, "id": self.container_id, "paths": self.paths()}


def open_entrances(paths: Mapping[str, str]) -> dict[str, int]:
    """Open a cgroup's entrances, by slot; `paths` are what `Cgroup.entrances` returned. The caller closes them."""
    opened: dict[str, int] = {}
    try:
        for slot, path in paths.items():
            way = os.O_RDONLY | os.O_DIRECTORY if slot == "cgroup" else os.O_WRONLY
            opened[slot] = os.open(path, way | os.O_CLOEXEC | os.O_NOFOLLOW)
    except BaseException:
        for descriptor in opened.values():
            os.close(descriptor)
        raise
    return opened
