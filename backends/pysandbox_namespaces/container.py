"""A container of this backend: an init process, a cgroup, and a FIFO at which init waits for `start`."""

from __future__ import annotations

import contextlib
import json
import os
import signal as signals

from pysandbox import process as processes
from pysandbox.backend import Container, Process
from pysandbox.caller import current
from pysandbox.errors import FailedPrecondition, NotFound
from pysandbox.linux import is_alive, start_time

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from typing import Any

    from pysandbox.backend import ExecRequest, ExitStatus
    from pysandbox.cgroup.cgroup import Cgroup
    from pysandbox.cgroup.oom import OomWatch
    from pysandbox.oci.types import Resources, Spec
    from pysandbox_namespaces.conversation import Execution
    from pysandbox_namespaces.rootmount import RootMount

#: The FIFO in the state directory. `create` opens it read-write for init, so it has a reader as long as init lives.
START_FIFO = "exec.fifo"


class NamespacesContainer(Container):
    """See `pysandbox.backend.Container`."""

    def __init__(
        self,
        container_id: str,
        state_dir: str,
        init: Process,
        started: int,
        cgroup: Cgroup,
        execution: Execution | None = None,
        root: RootMount | None = None,
    ) -> None:
        self.id = container_id
        self.init = init
        self._state_dir = state_dir
        self._started = started
        self._cgroup = cgroup
        self._execution = execution  # only in the process that created the container
        self._root = root  # only of a container without a mount namespace
        self._reaped = False
        self._execs: dict[str, tuple[int, int]] = {}  # exec id → pid, start time

    def start(self) -> None:
        """Write the byte that init waits for. ENXIO: nobody reads, so init is gone."""
        path = os.path.join(self._state_dir, START_FIFO)
        try:
            descriptor = os.open(path, os.O_WRONLY | os.O_NONBLOCK | os.O_NOFOLLOW | os.O_CLOEXEC)
        except OSError as error:
            raise FailedPrecondition(f"cannot start {self.id}: its init is gone ({error.strerror})") from None
        try:
            os.write(descriptor, b"\0")
        finally:
            os.close(descriptor)
        if self._execution is not None:
            self._execution.follow()

    def exec(self, request: ExecRequest) -> Process:
        """Run the exec plan: the executor joins init's namespaces by pidfd."""
        from pysandbox_namespaces.execution import execute

        process = execute(request, self.id, self._spec, self.init.pid, self._started, self._cgroup)
        self._execs[request.exec_id] = (process.pid, start_time(process.pid) or 0)
        return process

    def kill(self, signal: int, *, exec_id: str | None = None, everyone: bool = False) -> None:
        """Signal by pidfd; `everyone` goes through the cgroup. SIGKILL thaws, or it would wait for `resume`."""
        if everyone:
            self._cgroup.signal_all(signal)
            return
        pid, started = self._process(exec_id)
        processes.send_signal(pid, started, signal)
        if signal == signals.SIGKILL and self._cgroup.frozen():
            self._cgroup.thaw()

    def wait(self, exec_id: str | None = None, *, timeout: float | None = None) -> ExitStatus:
        """Wait by pidfd, then reap."""
        pid, started = self._process(exec_id)
        status = processes.wait_exit(pid, started, timeout)
        self._reaped |= exec_id is None
        return status

    def _process(self, exec_id: str | None) -> tuple[int, int]:
        if exec_id is None:
            return self.init.pid, self._started
        if exec_id not in self._execs:
            raise NotFound(f"exec {exec_id} of container {self.id}")
        return self._execs[exec_id]

    def alive(self) -> bool:
        """Compare pid and start time with what /proc says."""
        return is_alive(self.init.pid, self._started)

    def delete(self) -> None:
        """End what is left in the cgroup (init may have shared the host's pid namespace), then remove it."""
        if self._execution is not None:
            self._execution.close()
        self._cgroup.kill()
        # A shim's reaper may have taken it: then its pid may be another child's, whose exit code is wanted.
        if not self._reaped and start_time(self.init.pid, zombie=True) == self._started:
            with contextlib.suppress(ChildProcessError):
                current().reap(self.init.pid)
        if self._root is not None:
            self._root.detach()
        self._cgroup.remove()

    def pause(self) -> None:
        """Freeze the cgroup."""
        self._cgroup.freeze()

    def resume(self) -> None:
        """Thaw the cgroup."""
        self._cgroup.thaw()

    def paused(self) -> bool:
        """Ask the cgroup's freezer."""
        return self._cgroup.frozen()

    def update(self, resources: Resources) -> None:
        """Write the limits that are given; others stay."""
        self._cgroup.apply(resources)

    def stats(self) -> Mapping[str, Any]:
        """Read the cgroup's usage."""
        return self._cgroup.stats()

    def pids(self) -> Sequence[int]:
        """Read the pids of the cgroup and of those below it."""
        return self._cgroup.pids()

    def wait_oom(self) -> None:
        """Block on the kernel's notification."""
        self._cgroup.wait_oom()

    def watch_oom(self) -> OomWatch | None:
        """Ask for the kernel's notification."""
        return self._cgroup.watch_oom()

    def _spec(self) -> Spec:
        """Return the spec as it was when the container was created: the bundle may be gone or changed by now."""
        with open(os.path.join(self._state_dir, "config.json"), "rb") as file:
            spec: Spec = json.load(file)
        return spec
