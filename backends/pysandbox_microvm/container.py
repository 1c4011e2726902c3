"""A container in a machine, as commands know it: a sandbox process to ask, and the cgroup that holds all of it.

Whatever the sandbox process does not answer in time, its end answers: killing it ends the machine.
"""

from __future__ import annotations

import contextlib
import json
import os
import signal as signals

from pysandbox import process as processes
from pysandbox.backend import Container, ExitStatus
from pysandbox.caller import current
from pysandbox.cgroup.oom import OomWatch
from pysandbox.errors import DeadlineExceeded, FailedPrecondition, NotFound, SandboxError
from pysandbox.linux import is_alive, start_time
from pysandbox_microvm import service
from pysandbox_microvm.netns import forget_network
from pysandbox_microvm.place import Place

TYPE_CHECKING = False
if TYPE_CHECKING:
    import _socket
    from collections.abc import Callable, Mapping, Sequence
    from typing import Any

    from pysandbox.backend import ExecRequest, Process
    from pysandbox.cgroup.cgroup import Cgroup
    from pysandbox.oci.types import Resources, Spec

#: In the state directory while the machine's processors are stopped.
PAUSED = "paused"
#: In the state directory: why the machine ended, where it was not by init's end.
REASON = "reason"
#: Seconds for the guest to have killed everybody, before the machine is ended instead.
KILL_PATIENCE = 2.0


class MicrovmContainer(Container):
    """See `pysandbox.backend.Container`. `memory` is what the record remembers, `warn` is of the command at hand."""

    def __init__(
        self,
        container_id: str,
        state_dir: str,
        bundle: str,
        init: Process,
        started: int,
        cgroup: Cgroup,
        memory: Mapping[str, Any],
        warn: Callable[[str], None] | None = None,
    ) -> None:
        self.id = container_id
        self.init = init
        self._state_dir = state_dir
        self._bundle = bundle
        self._started = started
        self._cgroup = cgroup
        self._place = Place.load(memory["place"])
        self._overhead: int = memory["overhead"]
        self._network: str = memory.get("network", "")
        self._joined = "sandbox" in memory
        self._sandbox: str = memory.get("sandbox", state_dir)  # where the sandbox process listens
        self._warn = warn
        self._reaped = False
        self._execs: dict[str, tuple[int, int]] = {}  # exec id → pid of its proxy, start time

    # -- life ----------------------------------------------------------------------------------------------------------

    def start(self) -> None:
        """Have init execute its program."""
        from pysandbox.executor import ExecutorError

        try:
            self._ask("start")
        except ExecutorError as error:
            from pysandbox.failure import in_runcs_words

            spec = self._spec()
            raise in_runcs_words(error, spec["process"]["args"][0], spec) from error

    def exec(self, request: ExecRequest) -> Process:
        """Run one more process: a proxy stands for it on the host."""
        from pysandbox_microvm.execution import execute

        process = execute(request, self._bundle, self.id, self._sandbox, self._spec(), self._place)
        self._execs[request.exec_id] = (process.pid, start_time(process.pid) or 0)
        return process

    def kill(self, signal: int, *, exec_id: str | None = None, everyone: bool = False) -> None:
        """Have the guest signal. SIGKILL for init ends the machine where the guest does not do it."""
        if exec_id is not None and exec_id not in self._execs:
            raise NotFound(f"exec {exec_id} of container {self.id}")
        if not self.alive():
            if everyone:
                return  # whatever was left went with the machine
            raise FailedPrecondition("container not running")
        last = signal == signals.SIGKILL and exec_id is None
        if last and self.paused() and not self._joined:
            self._end()  # a guest that stands still kills nobody
            return
        arguments = {"signal": signal, "exec_id": exec_id or "", "everyone": everyone}
        try:
            self._ask("kill", arguments, limit=KILL_PATIENCE if last else service.QUICK)
        except (DeadlineExceeded, FailedPrecondition, NotFound):
            if not last or not self.alive():
                raise
            self._end()

    def _end(self) -> None:
        with contextlib.suppress(FailedPrecondition):
            processes.send_signal(self.init.pid, self._started, signals.SIGKILL)

    def wait(self, exec_id: str | None = None, *, timeout: float | None = None) -> ExitStatus:
        """Wait for the sandbox process, or for a proxy, and reap it."""
        if exec_id is not None and exec_id not in self._execs:
            raise NotFound(f"exec {exec_id} of container {self.id}")
        pid, started = (self.init.pid, self._started) if exec_id is None else self._execs[exec_id]
        status = processes.wait_exit(pid, started, timeout)
        if exec_id is None:
            self._reaped = True
            self._tell_reason()
        return status

    def _tell_reason(self) -> None:
        """Say why the machine has ended, if it has not with its container's program."""
        if self._warn is None:
            return
        with contextlib.suppress(OSError), open(f"{self._state_dir}/{REASON}", errors="replace") as file:
            self._warn(f"the machine of container {self.id} has ended: {file.read(8192).strip()}")

    def alive(self) -> bool:
        """Compare pid and start time with what /proc says."""
        return is_alive(self.init.pid, self._started)

    def delete(self) -> None:
        """End what is left in the cgroup, and remove it. A sandbox that was joined first lets go of the file server."""
        if self._joined:
            leave(self._sandbox, self.id)
        self._cgroup.kill()
        # A shim's reaper may have taken it: then its pid may be another child's, whose exit code is wanted.
        if not self._reaped and start_time(self.init.pid, zombie=True) == self._started:
            with contextlib.suppress(ChildProcessError):
                current().reap(self.init.pid)
        self._cgroup.remove()
        forget_network(self._network)

    # -- what it does meanwhile ----------------------------------------------------------------------------------------

    def pause(self) -> None:
        """Stop the machine's processors; those of a pod go on while one of its containers is frozen."""
        if not self._joined:
            self._ask("pause")
            return
        self._ask("freeze", {"frozen": True})
        os.close(os.open(f"{self._state_dir}/{PAUSED}", os.O_CREAT | os.O_WRONLY | os.O_CLOEXEC, 0o600))

    def resume(self) -> None:
        """Let them go on."""
        if not self._joined:
            self._ask("resume")
            return
        self._ask("freeze", {"frozen": False})
        with contextlib.suppress(FileNotFoundError):
            os.unlink(f"{self._state_dir}/{PAUSED}")

    def paused(self) -> bool:
        """Look for the sandbox process's own mark: a command that only looks asks nobody."""
        return os.path.exists(f"{self._state_dir}/{PAUSED}")

    def update(self, resources: Resources) -> None:
        """Change the limits that are given: the guest's, the machine's on the host, and its size where it must grow."""
        from pysandbox_microvm.updating import update

        update(self.id, self._sandbox, self._cgroup, self._overhead, resources)

    def stats(self) -> Mapping[str, Any]:
        """Return the usage that the guest's kernel counts, in the shape of runc's."""
        from pysandbox_microvm.statistics import FILES, stats

        return stats(self._ask("read", {"files": list(FILES)})["contents"])

    def pids(self) -> Sequence[int]:
        """Return what stands for init on the host. A guest's numbers would be taken for other processes of the host."""
        return [self.init.pid] if self.alive() else []

    def wait_oom(self) -> None:
        """Block until the guest's kernel killed for memory."""
        from pysandbox.cgroup.oom import events

        next(events(self.watch_oom()), None)

    def watch_oom(self) -> OomWatch | None:
        """Have the sandbox process tell."""
        try:
            connection = service.connect(self._sandbox)
            service.request(connection, "oom", {"container": self.id})
            try:
                service.answer(connection, service.QUICK)
            except BaseException:
                connection.close()
                raise
        except (FailedPrecondition, NotFound):
            return None
        return _Watch(connection)

    def resize(self, width: int, height: int, exec_id: str | None = None) -> None:
        """Change the size of the guest's terminal."""
        self._ask("resize", {"exec_id": exec_id or "", "width": width, "height": height})

    def close_stdin(self, exec_id: str | None = None) -> None:
        """Take no more input."""
        self._ask("close_stdin", {"exec_id": exec_id or ""})

    def console(self) -> str:
        """Return what the machine's serial console said last."""
        text: str = self._ask("console")["console"]
        return text.replace("\r\n", "\n")

    def _ask(self, name: str, arguments: Mapping[str, Any] | None = None, limit: float = service.PATIENCE) -> Any:
        return service.ask(self._sandbox, name, {"container": self.id, **(arguments or {})}, limit=limit)[0]

    def _spec(self) -> Spec:
        """Return the spec as it was when the container was created."""
        with open(os.path.join(self._state_dir, "config.json"), "rb") as file:
            spec: Spec = json.load(file)
        return spec


def leave(sandbox: str, container_id: str) -> None:
    """Have a sandbox process forget a container that has joined it; one that has ended has nothing to forget."""
    with contextlib.suppress(SandboxError, OSError):
        service.ask(sandbox, "remove", {"container": container_id})


class _Watch(OomWatch):
    """A connection on which the sandbox process tells of each out-of-memory kill, and now and then of none."""

    def __init__(self, connection: _socket.socket) -> None:
        self._connection = connection
        self.descriptor = connection.fileno()

    def take(self) -> int | None:
        import select

        kills = 0
        while select.select((self.descriptor,), (), (), 0)[0]:
            try:
                kills += service.answer(self._connection, service.QUICK)[0]["kills"]
            except SandboxError:
                return kills or None
        return kills

    def close(self) -> None:
        self._connection.close()
