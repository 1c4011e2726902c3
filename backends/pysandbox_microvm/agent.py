"""Talk to the agent, PID 1 of the guest: one method for each call of `guest_agent/proto/agent.proto`.

The guest is hostile: whoever is root in it can answer in the agent's place. So every call has a deadline, every answer
a limit, and what cannot be true (a process that nobody started, a second exit, more output than there is room for) is a
`GuestError`. After one of those the machine is to be ended, not asked again. Text of the guest is cut and freed of
control characters before anybody sees it; it is never a path, an argument or a name on the host.

Any thread may call. Failures are `pysandbox.errors`' leaves, and `ExecutorError` where an operation of a plan failed.
"""

from __future__ import annotations

import contextlib
import json
import os
import time
from threading import Condition, Lock

from pysandbox import errors
from pysandbox.executor import ExecutorError
from pysandbox.record import dataclass
from pysandbox.ttrpc.client import Client
from pysandbox.ttrpc.errors import Code, RpcError
from pysandbox.ttrpc.frame import header
from pysandbox_microvm.messages import agent as messages
from pysandbox_microvm.messages.agent import Chunk

TYPE_CHECKING = False
if TYPE_CHECKING:
    from _socket import socket
    from collections.abc import Iterator, Mapping, Sequence
    from typing import Any, Self

    from pysandbox.ttrpc.client import ClientStream
    from pysandbox.ttrpc.message import Message
    from pysandbox_microvm.messages.agent import CreateRequest, Event, ExecRequest, Interface, Neighbour, Route

#: Of the protocol: both sides say it, and refuse another.
VERSION = 1
#: Bytes of output (or input) that may be under way in one stream, and what a chunk of data costs at least and may hold.
WINDOW = 256 * 1024
LEAST_COST = 16 * 1024
LONGEST_CHUNK = 64 * 1024

#: Seconds for a call that only looks or writes something, and for one that carries a plan out.
QUICK = 10.0
PATIENT = 60.0
#: Seconds on top of a limit that the agent itself keeps, before the host gives up.
_GRACE = 5.0

_RESET = 0x52
_MAGIC = b"pysandbox reset\0"
#: Bytes that the agent may have left for a host before us.
_MOST_STALE = 8 * 1024 * 1024
#: The kernel's PID_MAX_LIMIT.
_LAST_PID = 4 * 1024 * 1024
_MOST_PIDS = 65536
_LONGEST_FILE = 64 * 1024
_LONGEST_TEXT = 8 * 1024

_ERRORS: Mapping[int, type[errors.SandboxError]] = {
    Code.INVALID_ARGUMENT: errors.InvalidArgument,
    Code.DEADLINE_EXCEEDED: errors.DeadlineExceeded,
    Code.NOT_FOUND: errors.NotFound,
    Code.ALREADY_EXISTS: errors.AlreadyExists,
    Code.PERMISSION_DENIED: errors.PermissionDenied,
    Code.FAILED_PRECONDITION: errors.FailedPrecondition,
    Code.UNIMPLEMENTED: errors.Unimplemented,
    Code.UNAVAILABLE: errors.Unavailable,
    Code.RESOURCE_EXHAUSTED: errors.Unavailable,
}


class GuestError(errors.Unknown):
    """The guest says what its agent never would: end the machine."""


@dataclass(frozen=True, slots=True)
class Guest:
    """What a guest says of itself: release of its kernel, processors online, bytes of memory, version of its agent."""

    kernel: str
    processors: int
    memory: int
    agent: str


@dataclass(frozen=True, slots=True)
class Storage:
    """Where an attached device is in the guest; major and minor are those of a disk."""

    path: str
    major: int
    minor: int


@dataclass(frozen=True, slots=True)
class Output:
    """What a process wrote to 1 or 2: bytes, `end` after the last, `drained` when it has ended and none is missing."""

    stream: int
    data: bytes
    end: bool
    drained: bool


class Agent:
    """The agent at the other end of a connected stream socket, which `close` closes.

    Making one says hello (the protocol's reset) and waits at most `patience` seconds for the answer, so for a guest
    that is still booting too. Raises DeadlineExceeded, Unavailable where the other end hangs up, GuestError.
    """

    def __init__(self, connected: socket, patience: float = PATIENT) -> None:
        try:
            _reset(connected, time.monotonic() + patience)
        except BaseException:
            connected.close()
            raise
        self._client = Client(connected)
        self._changed = Condition(Lock())
        self._running: set[tuple[str, str]] = set()  # until their exit is told
        self._containers: set[str] = set()  # all there ever were

    def close(self) -> None:
        """Hang up. Calls under way fail with Unavailable; containers in the guest go on."""
        self._client.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    # -- the guest as a whole ------------------------------------------------------------------------------------------

    def check(self, timeout: float = QUICK) -> Guest:
        """Return what the guest is; a sign of life. Raises FailedPrecondition for an agent of another version."""
        return _guest(self._call("Check", messages.CheckRequest(version=VERSION), timeout))

    def prepare(self, seed: bytes, realtime_ns: int = 0, hostname: str = "", timeout: float = QUICK) -> None:
        """Give a fresh machine random numbers, the time and a name; `seed` has 64 to 512 bytes."""
        request = messages.PrepareRequest(seed=seed, realtime_ns=realtime_ns, hostname=hostname)
        self._call("Prepare", request, timeout)

    def rehearse(self, device_program: bytes, timeout: float = QUICK) -> None:
        """Have a machine that becomes a template do what a first container takes, and keep a device program."""
        self._call("Rehearse", messages.RehearseRequest(device_program=device_program), timeout)

    def grow(self, processors: int, memory: int, timeout: float = PATIENT) -> Guest:
        """Bring plugged processors and memory (bytes) into use. Raises DeadlineExceeded where they do not appear."""
        request = messages.GrowRequest(processors=processors, memory=memory, timeout_ms=_milliseconds(timeout))
        return _guest(self._call("Grow", request, timeout + _GRACE))

    def attach(
        self, name: str, kind: str, source: str, *, read_only: bool = False, timeout: float = PATIENT
    ) -> Storage:
        """Mount a plugged device at /run/storage/NAME; of kind `disk` it is only looked for, by its serial."""
        request = messages.AttachRequest(
            name=name, kind=kind, source=source, read_only=read_only, timeout_ms=_milliseconds(timeout)
        )
        answer = self._call("Attach", request, timeout + _GRACE)
        if len(answer.path) > 4096 or not answer.path.startswith("/") or "\0" in answer.path:
            raise GuestError(f"the guest says that {name} is at {_readable(answer.path)!r}")
        return Storage(answer.path, answer.major, answer.minor)

    def detach(self, name: str, timeout: float = PATIENT) -> None:
        """Unmount what `attach` mounted."""
        self._call("Detach", messages.DetachRequest(name=name), timeout)

    def connect(
        self,
        interfaces: Sequence[Interface],
        routes: Sequence[Route] = (),
        neighbours: Sequence[Neighbour] = (),
        timeout: float = PATIENT,
    ) -> None:
        """Set up network interfaces, which are waited for, then routes and neighbours."""
        request = messages.ConnectRequest(
            interfaces=list(interfaces),
            routes=list(routes),
            neighbours=list(neighbours),
            timeout_ms=_milliseconds(timeout),
        )
        self._call("Connect", request, timeout + _GRACE)

    # -- processes -----------------------------------------------------------------------------------------------------

    def create(self, request: CreateRequest, timeout: float = PATIENT) -> int:
        """Make a container; return its init's pid in the guest. Raises ExecutorError where the plan fails."""
        return self._begin("Create", request, (request.container, ""), timeout)

    def start(self, container: str, timeout: float = PATIENT) -> None:
        """Have init execute its program. Raises ExecutorError where it cannot."""
        self._call("Start", messages.StartRequest(container=container), timeout)

    def execute(self, request: ExecRequest, timeout: float = PATIENT) -> int:
        """Run one more process; return its pid in the guest. Raises ExecutorError where the plan fails."""
        if not request.exec_id:
            raise ValueError("a process beside init has an id")
        return self._begin("Exec", request, (request.container, request.exec_id), timeout)

    def signal(self, container: str, exec_id: str, signal: int, *, everyone: bool = False) -> None:
        """Send a signal to init (no id), to another process, or to everyone. Raises NotFound for one that has ended."""
        request = messages.SignalRequest(container=container, exec_id=exec_id, signal=signal, everyone=everyone)
        self._call("Signal", request, QUICK)

    def resize(self, container: str, exec_id: str, width: int, height: int) -> None:
        """Set the size of a process's terminal in characters."""
        request = messages.ResizeRequest(container=container, exec_id=exec_id, width=width, height=height)
        self._call("Resize", request, QUICK)

    def pids(self, container: str) -> list[int]:
        """Return the pids of all processes in a container's cgroup, as the guest numbers them."""
        pids: list[int] = self._call("Pids", messages.ContainerRequest(container=container), QUICK).pids
        if len(pids) > _MOST_PIDS or not all(0 < pid <= _LAST_PID for pid in pids):
            raise GuestError(f"the guest names {len(pids)} processes in {container}, some of which cannot be")
        return pids

    def read(self, container: str, files: Sequence[str]) -> dict[str, str]:
        """Return what files of a container's cgroup hold; those that are not there are left out."""
        request = messages.ReadRequest(container=container, files=list(files))
        contents: dict[str, str] = self._call("Read", request, QUICK).contents
        if not set(contents) <= set(files) or any(len(text) > _LONGEST_FILE for text in contents.values()):
            raise GuestError(f"the guest answers with files of {container} that nobody asked for")
        return contents

    def write(
        self, container: str, writes: Sequence[tuple[str, str]], device_program: bytes = b"", timeout: float = QUICK
    ) -> None:
        """Write files of a container's cgroup, in order; then replace its device program, if one is given."""
        pairs = [messages.FileWrite(file=file, value=value) for file, value in writes]
        request = messages.WriteRequest(container=container, writes=pairs, device_program=device_program)
        self._call("Write", request, timeout)

    def delete(self, container: str, timeout: float = PATIENT) -> None:
        """End what is left of a container and remove its cgroup."""
        self._call("Delete", messages.ContainerRequest(container=container), timeout)

    def stream(self, container: str, exec_id: str = "") -> ProcessStream:
        """Return the stdio of a process that has been created; once for each."""
        return ProcessStream(self._client.stream(messages.Agent, "Stream"), container, exec_id)

    def events(self) -> Iterator[Event]:
        """Return exits and out-of-memory kills as they come, from the guest's boot on; ends when the guest has gone.

        One at a time. Raises GuestError for an event that cannot be.
        """
        stream = self._client.stream(messages.Agent, "Events", messages.Empty())
        last = 0
        with contextlib.closing(_Cancelling(stream)):
            while (event := _next_event(stream)) is not None:
                if event.sequence <= last or event.code > 255:
                    raise GuestError(f"the guest counts event {event.sequence} after {last}, code {event.code}")
                last = event.sequence
                self._check_event(event)
                yield event

    def _check_event(self, event: Event) -> None:
        key = (event.container, event.exec_id)
        with self._changed:
            if event.oom and event.container in self._containers and not event.exec_id:
                return
            if event.oom or key not in self._running:
                what = "an out-of-memory kill in" if event.oom else "the exit of"
                raise GuestError(f"the guest tells {what} {_readable('/'.join(key))!r}, which does not run")
            self._running.discard(key)
            self._changed.notify_all()

    # -- calls ---------------------------------------------------------------------------------------------------------

    def _begin(self, method: str, request: Message, key: tuple[str, str], timeout: float) -> int:
        """Start a process. It is known before the call: its exit may be told before the answer is looked at."""
        self._register(key)
        try:
            pid: int = self._call(method, request, timeout).pid
            if not 1 < pid <= _LAST_PID:
                raise GuestError(f"the guest says that {'/'.join(key)} is process {pid}")
        except errors.DeadlineExceeded:
            raise  # it may run all the same, and its exit be told
        except BaseException:
            with self._changed:
                self._running.discard(key)
            raise
        return pid

    def _register(self, key: tuple[str, str]) -> None:
        """Note a process that is about to be, when the exit of one that had its name before has been told."""
        with self._changed:
            if not self._changed.wait_for(lambda: key not in self._running, 2.0):
                raise errors.AlreadyExists(f"{'/'.join(filter(None, key))} runs in the guest")
            self._running.add(key)
            self._containers.add(key[0])

    def _call(self, method: str, request: Message, timeout: float) -> Any:
        try:
            return self._client.call(messages.Agent, method, request, timeout=timeout)
        except RpcError as error:
            raise translate(error, method) from None


class _Cancelling:
    """A stream that is given up when the generator that reads it is."""

    def __init__(self, stream: ClientStream) -> None:
        self.close = stream.cancel


def _next_event(stream: ClientStream) -> Event | None:
    try:
        event: Event | None = stream.receive()
    except RpcError as error:
        if error.code in (Code.UNAVAILABLE, Code.CANCELED):
            return None
        raise translate(error, "Events") from None
    return event


def _guest(answer: messages.CheckResponse) -> Guest:
    if answer.version != VERSION:
        raise errors.FailedPrecondition(
            f"the guest's agent speaks version {answer.version} of the protocol, not {VERSION}: rebuild the image"
        )
    if not 0 < answer.processors <= 4096 or not 0 < answer.memory < 1 << 50:
        raise GuestError(f"the guest says that it has {answer.processors} processors and {answer.memory} bytes")
    return Guest(_readable(answer.kernel, 128), answer.processors, answer.memory, _readable(answer.agent, 128))


def _milliseconds(seconds: float) -> int:
    return max(1, min(int(seconds * 1000), 2**32 - 1))


def _readable(text: str, most: int = _LONGEST_TEXT) -> str:
    """Return a guest's text as a log or a terminal may show it."""
    return "".join(each if each.isprintable() else "\N{REPLACEMENT CHARACTER}" for each in text[:most])


def translate(error: RpcError, method: str) -> errors.SandboxError:
    """Return what the front end knows of an agent's failure. `method` is for what has no text of its own."""
    if error.code == Code.ABORTED and error.message.startswith("{"):
        return _executor_error(error.message)
    if error.code == Code.INTERNAL:
        return GuestError(f"{method}: {_readable(error.message)}")
    return _ERRORS.get(error.code, errors.Unknown)(_readable(error.message) or f"{method} failed in the guest")


def _executor_error(text: str) -> errors.SandboxError:
    """Return the failure that the executor told, as `executor.py` would have raised it on the host."""
    try:
        match json.loads(text[: 8 * _LONGEST_TEXT]):
            case {"error": {"op": str(op), "index": int(index), "errno": int(errno), **rest}}:
                call, path, why = (_readable(str(rest.get(name, ""))) for name in ("call", "path", "text"))
                return ExecutorError(_readable(op), index, call, path, errno if 0 <= errno < 4096 else 0, why)
    except (ValueError, RecursionError):
        pass
    return GuestError(f"the guest's executor says {_readable(text, 200)!r}")


def _reset(connected: socket, deadline: float) -> None:
    """Begin anew with an agent that may have talked with another host before."""
    hello = header(0, _RESET, 0, 32) + _MAGIC + os.urandom(16)
    received = bytearray()
    stale = 0
    try:
        _wait_no_longer_than(connected, deadline)
        connected.sendall(hello)
        while (found := received.find(hello)) < 0:
            stale += max(0, len(received) - len(hello))
            del received[: -len(hello)]
            if stale > _MOST_STALE:
                raise GuestError(f"the guest has sent {stale} bytes and no hello")
            _wait_no_longer_than(connected, deadline)
            data = connected.recv(65536)
            if not data:
                raise errors.Unavailable("the guest's agent hung up before it said hello")
            received += data
    except TimeoutError:
        raise errors.DeadlineExceeded("the guest's agent has not said hello in time") from None
    except (BrokenPipeError, ConnectionResetError):
        raise errors.Unavailable("the guest's agent hung up before it said hello") from None
    if found + len(hello) != len(received):
        raise GuestError("the guest talks before it is asked")


def _wait_no_longer_than(connected: socket, deadline: float) -> None:
    left = deadline - time.monotonic()
    if left <= 0:
        raise TimeoutError
    connected.settimeout(left)


def cost(data: bytes) -> int:
    """Return how much credit a chunk takes."""
    return max(len(data), LEAST_COST)


class ProcessStream:
    """The stdio of one process.

    One thread calls `receive` until None, or what is written waits for ever: credit comes that way too. It may take its
    time: the process is held up then, no other stream is. `give_back` each output when it is out of the way.
    """

    def __init__(self, stream: ClientStream, container: str, exec_id: str) -> None:
        self._stream = stream
        self._name = f"{container}/{exec_id}" if exec_id else container
        self._changed = Condition(Lock())
        self._expected = {1: WINDOW, 2: WINDOW}  # what may still come
        self._drained: set[int] = set()
        self._credit = 0  # what may still be written
        self._wanted = True  # by the process: its stdin is open
        self._send(Chunk(container=container, exec_id=exec_id, credit=WINDOW))

    def receive(self) -> Output | None:
        """Wait for more output; None when there is none any more. Raises GuestError, Unavailable."""
        while True:
            try:
                chunk: Chunk | None = self._stream.receive()
            except RpcError as error:
                self._no_more_input()
                raise translate(error, "Stream") from None
            if chunk is None:
                self._no_more_input()
                return None
            if chunk.stream:
                return self._check_output(chunk)
            self._take_word_on_input(chunk)

    def _check_output(self, chunk: Chunk) -> Output:
        left = self._expected.get(chunk.stream, -1)
        price = cost(chunk.data) if chunk.data else 0
        if len(chunk.data) > LONGEST_CHUNK or price > left or chunk.credit:
            raise self._wrong(f"{len(chunk.data)} bytes of output {chunk.stream} where there is room for {left}")
        if not (chunk.data or chunk.end or (chunk.drained and chunk.stream not in self._drained)):
            raise self._wrong("chunks of nothing")
        with self._changed:
            if chunk.end:
                del self._expected[chunk.stream]
            else:
                self._expected[chunk.stream] -= price
        if chunk.drained:
            self._drained.add(chunk.stream)
        return Output(chunk.stream, chunk.data, chunk.end, chunk.drained)

    def _take_word_on_input(self, chunk: Chunk) -> None:
        with self._changed:
            self._credit += chunk.credit
            if chunk.data or self._credit > WINDOW or not (chunk.credit or (chunk.end and self._wanted)):
                raise self._wrong(f"credit of {self._credit} bytes of input")
            if chunk.end:
                self._wanted = False
            self._changed.notify_all()

    def _wrong(self, what: str) -> GuestError:
        self._stream.cancel()
        return GuestError(f"the guest sends for {_readable(self._name, 200)} {what}")

    def _no_more_input(self) -> None:
        with self._changed:
            self._wanted = False
            self._changed.notify_all()

    def give_back(self, output: Output) -> None:
        """Say that an output is out of the way: as much more may come."""
        if not output.data:
            return
        with self._changed:
            if output.stream not in self._expected:
                return  # it has ended
            self._expected[output.stream] += cost(output.data)
        with contextlib.suppress(errors.Unavailable):
            self._send(Chunk(stream=output.stream, credit=cost(output.data)))

    def write(self, data: bytes, timeout: float | None = None) -> bool:
        """Send input, when the process has taken enough of what came before; False if it wants no more.

        Raises DeadlineExceeded where that takes longer than `timeout` seconds, Unavailable.
        """
        deadline = None if timeout is None else time.monotonic() + timeout
        for start in range(0, len(data), LONGEST_CHUNK):
            part = bytes(data[start : start + LONGEST_CHUNK])
            if not self._pay(cost(part), deadline):
                return False
            self._send(Chunk(data=part))
        return True

    def _pay(self, price: int, deadline: float | None) -> bool:
        """Wait for so much credit and take it; False if the process wants no more."""
        with self._changed:
            left = None if deadline is None else max(0.0, deadline - time.monotonic())
            if not self._changed.wait_for(lambda: self._credit >= price or not self._wanted, left):
                raise errors.DeadlineExceeded(f"the process of {self._name} takes no input")
            if self._wanted:
                self._credit -= price
            return self._wanted

    def close_input(self) -> None:
        """Say that there is no more input, after all that was written."""
        with self._changed:
            if not self._wanted:
                return
            self._wanted = False
            self._changed.notify_all()
        with contextlib.suppress(errors.Unavailable):
            self._send(Chunk(end=True))

    def refuse(self, stream: int) -> None:
        """Say that nobody reads an output any more: the process gets EPIPE for it, as from any pipe."""
        with contextlib.suppress(errors.Unavailable):
            self._send(Chunk(stream=stream, end=True))

    def _send(self, chunk: Chunk) -> None:
        try:
            self._stream.send(chunk)
        except RpcError as error:
            raise translate(error, "Stream") from None
