"""A task: one container, its init and its execs, as containerd counts them."""

from __future__ import annotations

import os
import signal
from threading import Condition, RLock

from pysandbox.errors import AlreadyExists, FailedPrecondition, NotFound

TYPE_CHECKING = False
if TYPE_CHECKING:
    from pysandbox.backend import Container
    from pysandbox.cgroup.oom import OomWatch
    from pysandbox.lifecycle import Runtime
    from pysandbox.oci.types import Process as ProcessSpec
    from pysandbox.shim.stdio import Names, Streams
    from pysandbox.ttrpc.server import Call

#: What a process is, as the names of containerd.v1.types.Status.
CREATED, RUNNING, STOPPED = "CREATED", "RUNNING", "STOPPED"


class Process:
    """Init (`exec_id` is empty) or an exec. `code` and `exited_at` (seconds since 1970) count when it is STOPPED."""

    def __init__(self, exec_id: str, names: Names, spec: ProcessSpec | None = None) -> None:
        self.exec_id, self.names, self.spec = exec_id, names, spec
        self.status = CREATED
        self.pid = self.code = 0
        self.exited_at = 0.0
        self.waiters: list[Call] = []
        self.streams: Streams | None = None
        self._pidfd = -1

    def began(self, pid: int, pidfd: int | None = None) -> None:
        """It has a pid: hold on to this very process."""
        self.pid, self._pidfd = pid, os.pidfd_open(pid) if pidfd is None else pidfd

    @property
    def pidfd(self) -> int:
        """What holds on to it, -1 while there is nothing."""
        return self._pidfd

    def send_signal(self, number: int) -> None:
        """Signal it. Raises NotFound if it has ended."""
        try:
            signal.pidfd_send_signal(self._pidfd, number)
        except ProcessLookupError:
            raise NotFound("process already finished") from None

    def close(self) -> None:
        """Let go of it. It must have ended."""
        if self._pidfd >= 0:
            os.close(self._pidfd)
            self._pidfd = -1


class Task:
    """One container. `changed` is the lock that every change holds, and tells of ends."""

    def __init__(
        self,
        task_id: str,
        bundle: str,
        runtime: Runtime,
        init: Process,
        *,
        shares_pids: bool,
        container: Container | None = None,
    ) -> None:
        self.id, self.bundle, self.runtime, self.init = task_id, bundle, runtime, init
        #: Whether the container has no pid namespace of its own, so that the end of init ends nothing else.
        self.shares_pids = shares_pids
        self.container = container  # where this process has made it
        self.memory: OomWatch | None = None
        self.paused = False
        self.execs: dict[str, Process] = {}
        self.init_end: tuple[int, float] | None = None  # until all execs have been told of
        self.changed = Condition(RLock())

    def process(self, exec_id: str) -> Process:
        """Return init, or an exec. Raises NotFound."""
        if not exec_id:
            return self.init
        if exec_id not in self.execs:
            raise NotFound(f"process {exec_id} of container {self.id}: not found")
        return self.execs[exec_id]

    def processes(self) -> list[Process]:
        """Return init and all execs."""
        return [self.init, *self.execs.values()]

    def add_exec(self, process: Process) -> None:
        """Remember an exec. Raises AlreadyExists, FailedPrecondition."""
        if process.exec_id in self.execs or process.exec_id in ("", self.id):
            raise AlreadyExists(f"process {process.exec_id!r} of container {self.id}: exists already")
        self.check_running()
        self.execs[process.exec_id] = process

    def check_running(self) -> None:
        """Raise FailedPrecondition when init has ended: nothing can begin any more."""
        if self.init.status == STOPPED:
            raise FailedPrecondition(f"container {self.id} is not running")

    def execs_run(self) -> bool:
        """Say whether an exec has not been told of yet."""
        return any(each.status == RUNNING for each in self.execs.values())
