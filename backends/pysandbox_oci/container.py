"""A container of another runtime, as commands know it: every operation is a command of that runtime.

Whether init is there, and how it ended, is asked of the kernel: it is a process of the host, and our caller's child.
"""

from __future__ import annotations

import contextlib
import json
import os
import signal as signals
import time

from pysandbox import process as processes
from pysandbox.backend import Container, Process
from pysandbox.caller import current
from pysandbox.errors import DeadlineExceeded, FailedPrecondition, NotFound, SandboxError, Unimplemented
from pysandbox.linux import is_alive, start_time
from pysandbox_oci.call import END_LIMIT, RuntimeFailed
from pysandbox_oci.launch import LAST_PID
from pysandbox_oci.leftover import remove_root

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from typing import Any

    from pysandbox.backend import ExecRequest, ExitStatus
    from pysandbox.cgroup.oom import OomWatch
    from pysandbox.oci.types import Resources
    from pysandbox_oci.runtime import OciRuntime


def reap(pid: int, started: int) -> None:
    """Reap a process if it has ended and is a child: whoever makes many containers would keep a zombie of each."""
    if pid > 0 and not is_alive(pid, started) and start_time(pid, zombie=True) == started:
        with contextlib.suppress(ChildProcessError):
            current().reap(pid)


def remove(runtime: OciRuntime, container_id: str, state_dir: str) -> None:
    """Have the runtime kill and remove a container, which need not exist, and remove the runtime's own state."""
    runtime.ask("delete", "--force", container_id)
    remove_root(runtime, state_dir)


class OciContainer(Container):
    """See `pysandbox.backend.Container`."""

    def __init__(
        self,
        container_id: str,
        state_dir: str,
        runtime: OciRuntime,
        pid: int,
        started: int,
        console: int | None = None,
    ) -> None:
        self.id = container_id
        self.init = Process(pid=pid, console=console)
        self._state_dir = state_dir
        self._runtime = runtime
        self._started = started
        self._reaped = False
        self._execs: dict[str, tuple[int, int, int]] = {}  # exec id → pid, start time, the runtime's pid for it

    # -- life ----------------------------------------------------------------------------------------------------------

    def start(self) -> None:
        """Have the runtime let the program go."""
        self._runtime.ask("start", self.id)

    def exec(self, request: ExecRequest) -> Process:
        """Have the runtime start one more process and leave it to us."""
        from pysandbox_oci.execution import execute

        try:
            process, known = execute(request, self._runtime, self.id, self._state_dir)
        except RuntimeFailed as error:
            if self.paused():  # it would not have come here without the flag
                raise Unimplemented(f"--ignore-paused: does not reach another runtime: {error}") from error
            raise
        self._execs[request.exec_id] = (process.pid, start_time(process.pid, zombie=True) or 0, known)
        return process

    def kill(self, signal: int, *, exec_id: str | None = None, everyone: bool = False) -> None:
        """Have the runtime signal; an exec'ed process of the host's own is signalled by pidfd."""
        if exec_id is not None:
            self._kill_exec(signal, exec_id)
            return
        try:
            self._runtime.ask("kill", *(["--all"] if everyone else []), self.id, str(int(signal)))
        except RuntimeFailed as error:
            if everyone and not self.alive():
                return
            if not self.alive():
                raise FailedPrecondition("container not running") from error
            if signal != signals.SIGKILL or not self._runtime.dialect.indirect:
                raise
            processes.send_signal(self.init.pid, self._started, signal)  # the runtime's own process ends the sandbox

    def _kill_exec(self, signal: int, exec_id: str) -> None:
        pid, started, known = self._exec(exec_id)
        if not known:
            processes.send_signal(pid, started, signal)
            return
        try:
            self._runtime.ask("kill", "--pid", str(known), self.id, str(int(signal)))
        except RuntimeFailed as error:
            if not is_alive(pid, started):
                raise FailedPrecondition("process not running") from error
            raise

    def wait(self, exec_id: str | None = None, *, timeout: float | None = None) -> ExitStatus:
        """Wait by pidfd, then reap."""
        pid, started = (self.init.pid, self._started) if exec_id is None else self._exec(exec_id)[:2]
        status = processes.wait_exit(pid, started, timeout)
        self._reaped |= exec_id is None
        return status

    def _exec(self, exec_id: str) -> tuple[int, int, int]:
        if exec_id not in self._execs:
            raise NotFound(f"exec {exec_id} of container {self.id}")
        return self._execs[exec_id]

    def alive(self) -> bool:
        """Compare pid and start time with what /proc says."""
        return is_alive(self.init.pid, self._started)

    def delete(self) -> None:
        """Have the runtime remove it. Some look for init by its pid, where a child that nobody reaped still is."""
        self._reap()
        remove(self._runtime, self.id, self._state_dir)
        self._reap()

    def _reap(self) -> None:
        if not self._reaped:  # a shim's reaper may have taken it: then its pid may be another child's
            reap(self.init.pid, self._started)

    # -- what a runtime may not have -----------------------------------------------------------------------------------

    def pause(self) -> None:
        """Have the runtime freeze it."""
        self._runtime.ask("pause", self.id)

    def resume(self) -> None:
        """Have the runtime thaw it."""
        self._runtime.ask("resume", self.id)

    def paused(self) -> bool:
        """Ask for the runtime's state document."""
        try:
            state = self._runtime.ask_json("state", self.id)
        except RuntimeFailed:
            if self.alive():
                raise
            return False
        return isinstance(state, dict) and state.get("status") == "paused"

    def update(self, resources: Resources) -> None:
        """Hand the limits over, on standard input."""
        self._runtime.ask("update", "--resources", "/dev/stdin", self.id, stdin=json.dumps(resources).encode())

    def stats(self) -> Mapping[str, Any]:
        """Ask for one `stats` event; of a runtime that has none, ask the kernel."""
        if not self._runtime.dialect.stats:
            from pysandbox_oci.cgroup import read_stats

            return read_stats(self.init.pid)
        event = self._runtime.ask_json("events", "--stats", self.id)
        data = event.get("data") if isinstance(event, dict) else None
        if not isinstance(data, dict):
            raise RuntimeFailed(f"{self._runtime.name} events", "", "no statistics in its answer")
        return data

    def watch_oom(self) -> OomWatch | None:
        """Ask the kernel to tell of the memory cgroup that init is in."""
        from pysandbox_oci.cgroup import watch_memory

        return watch_memory(self.init.pid) if self.alive() else None

    def wait_oom(self) -> None:
        """Block on that."""
        from pysandbox.cgroup.oom import events

        next(events(self.watch_oom()), None)

    def pids(self) -> Sequence[int]:
        """Ask the runtime; where its pids are not the host's, only the process that stands for the container is."""
        if self._runtime.dialect.indirect:
            return [self.init.pid] if self.alive() else []
        try:
            found = self._runtime.ask_json("ps", "--format", "json", self.id)
        except RuntimeFailed:
            if self.alive():
                raise
            return []
        if found is None:  # runc's way to say: none
            return []
        if not isinstance(found, list) or len(found) > LAST_PID or not all(map(_is_pid, found)):
            raise RuntimeFailed(f"{self._runtime.name} ps", "", "no list of pids")
        return found


def _is_pid(value: object) -> bool:
    return type(value) is int and 0 < value <= LAST_PID


def end_maker(pid: int, started: int) -> None:
    """End a runtime's `create` whose caller was killed, with what it has started: it would go on making things."""
    if not is_alive(pid, started):
        return
    with contextlib.suppress(ProcessLookupError):
        os.killpg(pid, signals.SIGKILL)  # it leads a process group, so its pid is no other group's
    deadline = time.monotonic() + END_LIMIT
    while is_alive(pid, started):
        if time.monotonic() > deadline:
            raise DeadlineExceeded(f"process {pid}: the runtime's create has not ended {END_LIMIT:g} s after SIGKILL")
        time.sleep(0.005)


def destroy(runtime: OciRuntime, container_id: str, state_dir: str, pid: int, started: int) -> None:
    """Remove whatever is left of a container, in any state; end init where the runtime has lost it."""
    try:
        remove(runtime, container_id, state_dir)
    except SandboxError:
        if not is_alive(pid, started):
            raise
        with contextlib.suppress(FailedPrecondition):
            processes.send_signal(pid, started, signals.SIGKILL)
        remove(runtime, container_id, state_dir)
    reap(pid, started)
