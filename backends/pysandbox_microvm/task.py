"""A container in the machine, as the sandbox process knows it: its processes, their streams, their ends.

The front end's copy of the same container is `container.py`; the two talk through `service.py`.
"""

from __future__ import annotations

import contextlib
import os
from threading import Condition, Event, Thread

from pysandbox.errors import AlreadyExists, FailedPrecondition, NotFound, SandboxError
from pysandbox_microvm.messages import agent as messages
from pysandbox_microvm.stdio import Pump, is_null
from pysandbox_microvm.terminal import terminal_size

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence
    from typing import Any

    from pysandbox_microvm.agent import Agent, GuestError

    Ended = Callable[[int], None]

#: Exit code of a process whose machine ended under it: what became of it nobody knows.
UNKNOWN_CODE = 255


class GuestProcess:
    """One process: init (without an exec id) or one more. `ended` is called with its code when all is delivered."""

    def __init__(self, container: str, exec_id: str, streams: Sequence[int], *, terminal: bool, ended: Ended) -> None:
        self.container, self.exec_id = container, exec_id
        self._streams, self._terminal, self._ended = list(streams), terminal, ended
        self._pump: Pump | None = None
        self._size = (0, 0)
        self._changed = Condition()
        self._code: int | None = None
        self._attached = Event()  # or given up: an end that comes sooner waits
        self._told = False
        self.pid = 0  # in the guest

    @property
    def key(self) -> tuple[str, str]:
        """What the guest's events call it."""
        return self.container, self.exec_id

    def stdio(self, size: Sequence[int] = (0, 0)) -> messages.Stdio:
        """Return what the agent is to give it. /dev/null need not be pumped."""
        if not self._terminal and is_null(self._streams[0]):
            os.close(self._streams[0])
            self._streams[0] = -1
        self._size = (size[0], size[1])
        return messages.Stdio(
            terminal=self._terminal, width=size[0], height=size[1], stdin=self._terminal or self._streams[0] >= 0
        )

    def attach(self, agent: Agent, wrong: Callable[[GuestError], None]) -> None:
        """Begin to pump, once the process is there; `wrong` is told of a guest that makes no sense."""
        stream = agent.stream(self.container, self.exec_id)
        self._pump = Pump(stream, self._streams, terminal=self._terminal, wrong=wrong)
        self._streams = []
        self._pump.start()
        self._attached.set()

    def follow_size(self, agent: Agent) -> None:
        """Give the guest's terminal the size of the host's, where it has changed."""
        if not self._terminal or self._pump is None:
            return
        with contextlib.suppress(OSError, SandboxError):
            size = terminal_size(self._pump.terminal())
            if size not in (self._size, (0, 0)):
                self._size = size
                agent.resize(self.container, self.exec_id, *size)

    def close_input(self) -> None:
        """Take no more input."""
        if self._pump is not None:
            self._pump.close_input()

    def exited(self, code: int) -> None:
        """Take its exit code; tell of it when its output has been delivered."""
        with self._changed:
            if self._code is not None:
                return
            self._code = code
        Thread(target=self._deliver, args=(code,), daemon=True).start()

    def _deliver(self, code: int) -> None:
        self._attached.wait()
        if self._pump is not None:
            self._pump.drain()
            self._pump.close()
        self._ended(code)
        with self._changed:
            self._told = True
            self._changed.notify_all()

    def wait_told(self, seconds: float) -> bool:
        """Wait until its end has been told."""
        with self._changed:
            return self._changed.wait_for(lambda: self._told, seconds)

    def discard(self) -> None:
        """Close what it was given: it has never run."""
        self._attached.set()
        if self._pump is not None:
            self._pump.close()
        for descriptor in self._streams:
            if descriptor >= 0:
                os.close(descriptor)
        self._streams = []

    @property
    def has_ended(self) -> bool:
        """Whether its exit is known."""
        return self._code is not None


class Task:
    """A container's processes, by exec id; init's is empty. `wrong` is told of a guest that makes no sense."""

    def __init__(self, container: str, agent: Agent, wrong: Callable[[GuestError], None] = lambda _: None) -> None:
        self.container = container
        self._agent = agent
        self._wrong = wrong
        self._processes: dict[str, GuestProcess] = {}
        self._changed = Condition()
        self.host_pid = 0  # of what stands for init on the host
        self.oom_kills = 0
        self.gone = False

    @property
    def guest_pid(self) -> int:
        """The pid of init in the guest."""
        return self.process("").pid

    # -- life ----------------------------------------------------------------------------------------------------------

    def create(self, process: GuestProcess, plan: Mapping[str, Any], timeout: float) -> None:
        """Carry the container's plan out, up to its program."""
        request = messages.CreateRequest(
            container=self.container,
            plan=plan["plan"].encode(),
            cgroup=plan["cgroup"],
            limits=[messages.FileWrite(file=file, value=value) for file, value in plan["limits"]],
            device_program=bytes.fromhex(plan["device_program"]),
            stdio=process.stdio(plan["size"]),
            uid_map=plan["uid_map"],
            gid_map=plan["gid_map"],
            time_offsets=plan["time_offsets"],
            timeout_ms=int(timeout * 1000),
        )
        with self._added(process):
            process.pid = self._agent.create(request, timeout + 5.0)
            process.attach(self._agent, self._wrong)

    def execute(self, process: GuestProcess, plan: Mapping[str, Any]) -> None:
        """Run one more process."""
        request = messages.ExecRequest(
            container=self.container,
            exec_id=process.exec_id,
            plan=plan["plan"].encode(),
            stdio=process.stdio(plan["size"]),
            cgroup=plan["cgroup"],
        )
        with self._added(process):
            process.pid = self._agent.execute(request)
            process.attach(self._agent, self._wrong)

    @contextlib.contextmanager
    def _added(self, process: GuestProcess) -> Any:
        """Know a process before it runs: its exit may be told before the answer comes."""
        with self._changed:
            if process.exec_id in self._processes:
                raise AlreadyExists(f"exec {process.exec_id} of container {self.container}")
            self._processes[process.exec_id] = process
        try:
            yield
        except BaseException:
            with self._changed:
                del self._processes[process.exec_id]
            process.discard()
            raise

    def start(self) -> None:
        """Let init execute its program."""
        init = self.process("")
        init.follow_size(self._agent)
        self._agent.start(self.container)

    def signal(self, number: int, exec_id: str, *, everyone: bool) -> None:
        """Send a signal. Raises FailedPrecondition for a process that has ended."""
        if not everyone and self.process(exec_id).has_ended:
            raise FailedPrecondition("container not running")
        try:
            self._agent.signal(self.container, exec_id, number, everyone=everyone)
        except NotFound:
            raise FailedPrecondition("container not running") from None

    def process(self, exec_id: str) -> GuestProcess:
        """Return a process. Raises NotFound."""
        with self._changed:
            if exec_id not in self._processes:
                raise NotFound(f"exec {exec_id} of container {self.container}")
            return self._processes[exec_id]

    # -- what the guest tells ------------------------------------------------------------------------------------------

    def exited(self, exec_id: str, code: int) -> None:
        """Take the exit of a process; one beside init is forgotten."""
        with self._changed:
            process = self._processes.get(exec_id) if not exec_id else self._processes.pop(exec_id, None)
            self._changed.notify_all()
        if process is not None:
            process.exited(code)

    def killed_for_memory(self) -> None:
        """Count an out-of-memory kill."""
        with self._changed:
            self.oom_kills += 1
            self._changed.notify_all()

    def wait_oom(self, known: int, seconds: float) -> int | None:
        """Wait until there were more kills than are `known`; return how many now, None when the container is gone."""
        with self._changed:
            self._changed.wait_for(lambda: self.gone or self.oom_kills > known, seconds)
            return None if self.gone and self.oom_kills == known else self.oom_kills

    # -- the end -------------------------------------------------------------------------------------------------------

    def end(self, code: int) -> None:
        """Give every process that is left this exit code: its machine, or its container's init, has ended."""
        with self._changed:
            self.gone = True
            processes = list(self._processes.values())
            self._changed.notify_all()
        for process in processes:
            process.exited(code)

    def wait_told(self, seconds: float) -> None:
        """Wait until every end has been told."""
        import time

        deadline = time.monotonic() + seconds
        with self._changed:
            processes = list(self._processes.values())
        for process in processes:
            process.wait_told(max(0.0, deadline - time.monotonic()))

    def follow_sizes(self) -> None:
        """Give every terminal of the guest the size of the host's."""
        with self._changed:
            processes = list(self._processes.values())
        for process in processes:
            process.follow_size(self._agent)
