"""A backend that isolates nothing: real processes of the host, no namespaces, no root file system, no cgroup.

It exists to test what stands in front of a backend, and to show the least that one has to do. The container's init is
/bin/sh waiting on a FIFO in the state directory; `start` writes to it, and the shell becomes the program. Its processes
are known by a token in their environment, which `destroy` finds whoever made them.
"""

from __future__ import annotations

import contextlib
import os
import signal
import time

from pysandbox.backend import (
    Backend,
    BackendEntry,
    Container,
    ContainerRecord,
    CreateRequest,
    ExecRequest,
    ExitStatus,
    Features,
    Options,
    Problem,
    Process,
)
from pysandbox.errors import DeadlineExceeded, FailedPrecondition, NotFound
from pysandbox.linux import start_time

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from typing import Any

    from pysandbox.backend import Options, Stdio
    from pysandbox.oci.types import Process as ProcessSpec
    from pysandbox.oci.types import Spec

MARK = "PYSANDBOX_FAKE_TOKEN"
_WRITE = os.O_WRONLY | os.O_NONBLOCK | os.O_CLOEXEC
_WAIT_FOR_START = 'exec 9<"$0"; read go <&9; exec 9<&-; exec "$@"'


class FakeContainer(Container):
    """Processes that bear the same token."""

    def __init__(self, container_id: str, init: Process, token: str, state_dir: str) -> None:
        self.id = container_id
        self.init = init
        self._token = token
        self._fifo = f"{state_dir}/start"
        self._paused = f"{state_dir}/paused"
        self._execs: dict[str, Process] = {}

    def start(self) -> None:
        """Write the line that the shell waits for."""
        while self.alive():
            # ENXIO: the shell does not read yet.
            with contextlib.suppress(OSError), open(os.open(self._fifo, _WRITE), "wb", buffering=0) as fifo:
                fifo.write(b"go\n")
                return
            time.sleep(0.001)
        raise FailedPrecondition("container not running")

    def exec(self, request: ExecRequest) -> Process:
        """Start a process with the same token."""
        process = _spawn(request.process["args"], request.process, request.stdio, self._token, request.options)
        self._execs[request.exec_id] = process
        return process

    def kill(self, signal: int, *, exec_id: str | None = None, everyone: bool = False) -> None:
        """Signal by pid: a fake may."""
        for pid in self.pids() if everyone else [self._process(exec_id).pid]:
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal)

    def wait(self, exec_id: str | None = None, *, timeout: float | None = None) -> ExitStatus:
        """Wait for a child of this process."""
        pid = self._process(exec_id).pid
        deadline = None if timeout is None else time.monotonic() + timeout
        while (ended := os.waitpid(pid, os.WNOHANG if deadline is not None else 0))[0] == 0:
            if deadline is not None and time.monotonic() > deadline:
                raise DeadlineExceeded(f"container {self.id}: still running after {timeout:g} s")
            time.sleep(0.005)
        code = os.waitstatus_to_exitcode(ended[1])
        return ExitStatus(code=code if code >= 0 else 128 - code, exited_at=time.time())

    def alive(self) -> bool:
        """Ask /proc."""
        return start_time(self.init.pid) is not None

    def delete(self) -> None:
        """End what is left."""
        _end(self._token)

    def pause(self) -> None:
        """Stop every process."""
        open(self._paused, "x").close()
        self.kill(signal.SIGSTOP, everyone=True)

    def resume(self) -> None:
        """Continue every process."""
        self.kill(signal.SIGCONT, everyone=True)
        os.unlink(self._paused)

    def paused(self) -> bool:
        """Say whether `pause` left its mark."""
        return os.path.exists(self._paused)

    def pids(self) -> list[int]:
        """Find the token in /proc."""
        return sorted(_bearers(self._token))

    def update(self, resources: Any) -> None:
        """Nothing here has limits."""

    def stats(self) -> Mapping[str, Any]:
        """Count."""
        return {"pids": {"current": len(self.pids())}}

    def _process(self, exec_id: str | None) -> Process:
        if exec_id is None:
            return self.init
        if exec_id not in self._execs:
            raise NotFound(f"container {self.id} has no process {exec_id}")
        return self._execs[exec_id]


class FakeBackend(Backend):
    """Makes `FakeContainer`s."""

    name = "fake"

    def probe(self) -> Sequence[Problem]:
        """Find nothing wrong."""
        return []

    def features(self) -> Features:
        """Claim little."""
        return Features(fields={"process.args": "enforced", "process.env": "enforced", "process.terminal": "enforced"})

    def plan(self, bundle: str, spec: Spec, container_id: str, options: Options) -> Sequence[Mapping[str, Any]]:
        """Say what is spawned."""
        return [{"op": "spawn", "args": spec["process"]["args"]}]

    def create(self, request: CreateRequest) -> Container:
        """Spawn the shell."""
        token = os.urandom(16).hex()
        request.remember({"token": token})
        try:
            os.mkfifo(f"{request.state_dir}/start", 0o600)
            process = request.spec["process"]
            arguments = ["/bin/sh", "-c", _WAIT_FOR_START, f"{request.state_dir}/start", *process["args"]]
            init = _spawn(arguments, process, request.stdio, token, request.options)
            request.runtime_created(init.pid)
        except BaseException:
            _end(token)
            raise
        return FakeContainer(request.id, init, token, request.state_dir)

    def load(self, record: ContainerRecord) -> Container:
        """Take the token from the record."""
        return FakeContainer(record.id, Process(pid=record.pid), record.backend_state["token"], record.state_dir)

    def destroy(self, record: ContainerRecord) -> None:
        """End every bearer of the token."""
        if token := record.backend_state.get("token"):
            _end(token)


def _spawn(arguments: list[str], process: ProcessSpec, stdio: Stdio, token: str, options: Options) -> Process:
    environment = dict(entry.partition("=")[::2] for entry in process.get("env") or ()) | {MARK: token}
    master = None
    if stdio.terminal:
        master, slave = os.openpty()
        if options.plain_newlines:
            from pysandbox.console import clear_newline_translation

            clear_newline_translation(master)
        name = os.ttyname(slave)
        # The first terminal that a session's leader opens becomes its controlling one.
        actions: list[Any] = [(os.POSIX_SPAWN_OPEN, number, name, os.O_RDWR, 0) for number in range(3)]
    else:
        sources = (stdio.stdin, stdio.stdout, stdio.stderr)
        actions = [(os.POSIX_SPAWN_DUP2, source, number) for number, source in enumerate(sources)]
    actions += [(os.POSIX_SPAWN_DUP2, source, 3 + number) for number, source in enumerate(stdio.preserved)]
    try:
        pid = os.posix_spawnp(
            arguments[0], arguments, environment, file_actions=actions, setsid=True, setsigmask=(),
            setsigdef=signal.valid_signals() - {signal.SIGKILL, signal.SIGSTOP},
        )  # fmt: skip
    except BaseException:
        if master is not None:
            os.close(master)
        raise
    finally:
        if master is not None:
            os.close(slave)
    return Process(pid=pid, console=master)


def _bearers(token: str) -> set[int]:
    """Return the pids of all live processes with a token in their environment."""
    mark = f"{MARK}={token}".encode()
    found = set()
    for name in os.listdir("/proc"):
        if name.isdecimal():
            with contextlib.suppress(OSError), open(f"/proc/{name}/environ", "rb") as environ:
                if mark in environ.read().split(b"\0"):
                    found.add(int(name))
    return found


def _end(token: str) -> None:
    """Kill all bearers of a token and wait until there are none; reap those that are our children."""
    deadline = time.monotonic() + 10
    while (bearers := _bearers(token)) and time.monotonic() < deadline:
        for pid in bearers:
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        for pid in bearers:
            with contextlib.suppress(ChildProcessError):
                os.waitpid(pid, 0)
        time.sleep(0.001)


def entry() -> BackendEntry:
    """Return what a plugin that offers this backend returns."""
    return BackendEntry(name="fake", load=lambda: FakeBackend, summary="processes of the host, for tests")
