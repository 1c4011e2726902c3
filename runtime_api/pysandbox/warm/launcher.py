"""The launcher, seen from the fork that serves it: the caller whose children are started by asking for them."""

from __future__ import annotations

import contextlib
import ctypes
import gc
import os
from functools import partial

from pysandbox.caller import Caller, Cold, Start, become
from pysandbox.cgroup.layout import parse_own, read_layout
from pysandbox.executor import held_executor
from pysandbox.warm.wire import Closed, receive, send

TYPE_CHECKING = False
if TYPE_CHECKING:
    import _socket
    from collections.abc import Callable, Iterator, Mapping, Sequence
    from typing import Any

    from pysandbox.warm.life import Life
    from pysandbox.warm.second import Second


#: Above all numbers: close_range(2), which is how Python closes so many, ends with the last one that is open.
_BEYOND = 2**31 - 1


#: ioprio_set(2), for which the C library has no function: asm/unistd.h.
_IOPRIO_SET, _IOPRIO_WHO_PROCESS = {"x86_64": 251, "aarch64": 30}, 1
_syscall = ctypes.CDLL(None).syscall  # bound here: a fork should not have to look it up


class _Asked(Start):
    """A program that the launcher was asked to start and has not told of yet."""

    def __init__(self, launcher: Launcher, path: str | None) -> None:
        super().__init__()
        self._launcher, self._path = launcher, path

    def pid(self) -> int:
        """Take the answer, if nobody has."""
        self._launcher.settle()
        return super().pid()

    def take(self, answer: dict[str, Any]) -> None:
        """Keep what the launcher says."""
        try:
            self._pid = _value(answer, "pid", self._path)
        except OSError as error:
            self._error = error


class Launcher(Caller):
    """The process at the other end of a connection. `own` are the numbers of the descriptors it has itself.

    `life` ends this process with it, where the end of the connection is not enough. `second` is there for `detach`.

    It is asked one thing at a time: whatever is sent takes the answer to `begin` first, if that is still to come.
    """

    #: Where the programs of this installation are: the server tells, before it forks.
    directory = ""
    _asked: _Asked | None = None  # whose answer is the next to come
    _stay: Callable[[], None] | None = None  # what is left to do when the launcher has ended

    def __init__(
        self,
        connection: _socket.socket,
        pid: int,
        own: frozenset[int],
        life: Life | None = None,
        second: Second | None = None,
    ) -> None:
        self._connection = connection
        self._pid = pid
        self._own = own
        self._life = life
        self._second = second

    @property
    def pid(self) -> int:
        """Its process id, in our pid namespace: it would not be served from another."""
        return self._pid

    def installed(self, name: str) -> str | None:
        """Look beside the server's own program: see `Caller.installed`."""
        path = f"{self.directory}/{name}"
        return path if self.directory and os.access(path, os.X_OK) else None

    def enter(self, places: Sequence[tuple[str, int]]) -> None:
        """See `Caller.enter`. Raises OSError."""
        self._send({"enter": [kind for kind, _ in places]}, [descriptor for _, descriptor in places])
        _value(self._receive(), "entered", None)

    def lead_session(self) -> None:
        """See `Caller.lead_session`. Raises OSError."""
        self._ask({"session": True}, "session")

    def reside(self, *keep: int) -> None:
        """See `Caller.reside`. The caller's cgroups are entered before anything is started that would stay outside."""
        assert self._life is not None
        _enter_cgroups()
        take_priorities(self._pid)
        become(Caller())
        close_all_but({0, 1, 2, held_executor(), self._connection.fileno(), self._life.fileno(), *keep})
        gc.enable()

    def end_with(self, code: int) -> None:
        """See `Caller.end_with`."""
        self._ask({"last": code}, "last")

    def require_cold(self, reason: str) -> None:
        """Raise Cold."""
        raise Cold(reason)

    def spawn(
        self,
        program: str | int,
        args: Sequence[str],
        env: Mapping[str, str] | None,
        streams: Sequence[int],
        *,
        group: bool = False,
    ) -> int:
        """Have the launcher start a program: see `Caller.spawn`. Raises OSError as posix_spawn(3) does."""
        return self._begin(program, args, env, streams, group=group).pid()

    def begin(
        self, program: str | int, args: Sequence[str], env: Mapping[str, str] | None, streams: Sequence[int]
    ) -> Start:
        """Have the launcher start a program while this process goes on."""
        return self._begin(program, args, env, streams, group=False)

    def _begin(
        self,
        program: str | int,
        args: Sequence[str],
        env: Mapping[str, str] | None,
        streams: Sequence[int],
        *,
        group: bool,
    ) -> _Asked:
        sent = [program] if isinstance(program, int) else []
        first = len(sent)
        numbers = []
        for stream in streams:
            if stream in self._own:
                numbers.append(stream)
            else:
                sent.append(stream)
                numbers.append(first - len(sent))
        path = program if isinstance(program, str) else None
        environment = None if env is None else [f"{name}={value}" for name, value in env.items()]
        directory = os.open(".", os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
        try:
            request = {"program": path, "args": list(args), "env": environment, "streams": numbers, "group": group}
            self._send({"spawn": request}, [*sent, directory])
        finally:
            os.close(directory)
        self._asked = _Asked(self, path)
        return self._asked

    def settle(self) -> None:
        """Take the answer to the last `begin`, if it is still to come."""
        asked, self._asked = self._asked, None
        if asked is not None:
            asked.take(self._receive())

    def detach(self, stay: Callable[[Second], None]) -> bool:
        """Have the fork that was made beforehand take the caller's place."""
        if self._second is None:
            return False
        files = [os.open(path, os.O_WRONLY | os.O_CLOEXEC) for path in _cgroup_files()]
        try:
            for file in files:
                os.write(file, b"0")
            self._second.place(files)
        finally:
            for file in files:
                os.close(file)
        self._stay = partial(stay, self._second)
        return True

    def reap(self, pid: int) -> int | None:
        """Have the launcher wait for one of its children, without blocking."""
        status: int | None = self._ask({"reap": pid}, "status")
        return status

    def is_child(self, pid: int) -> bool:
        """Ask whether a process is a child of the launcher's."""
        return bool(self._ask({"is_child": pid}, "is_child"))

    def adopt(self) -> None:
        """Make the launcher a subreaper."""
        self._ask({"adopt": True}, "adopted")

    def attend(self, pid: int) -> None:
        """Have the launcher reap all that ends but `pid`, from now on: no SIGCHLD of its children comes here."""
        self._ask({"attend": pid}, "attending")

    def exit(self, code: int) -> None:
        """Let the launcher end, which is not our end any more. It may have been killed before."""
        if self._life is not None:
            self._life.part()
        self._tell({"exit": code})

    def stay(self) -> None:
        """Do what `detach` was given for when the launcher has ended."""
        if self._stay is not None:
            self._connection.close()
            self._stay()

    def run_cold(self, reason: str) -> None:
        """Have the launcher run the command itself."""
        self._tell({"cold": reason})

    def _tell(self, message: dict[str, Any]) -> None:
        """Say the last word."""
        try:
            send(self._connection, message)
        except Closed:
            pass

    def _ask(self, request: dict[str, Any], key: str) -> Any:
        """Send a request and return what the answer holds."""
        self._send(request)
        return _value(self._receive(), key, None)

    def _send(self, request: dict[str, Any], descriptors: Sequence[int] = ()) -> None:
        self.settle()
        try:
            send(self._connection, request, descriptors)
        except Closed:
            raise SystemExit(1) from None

    def _receive(self) -> dict[str, Any]:
        """Return the answer. A launcher that is gone takes us with it: SystemExit."""
        try:
            answer, unexpected = receive(self._connection)
        except Closed:
            # The kernel kills us for its death; that we see the connection's end first is all this is.
            raise SystemExit(1) from None
        for descriptor in unexpected:
            os.close(descriptor)
        return answer


def _value(answer: dict[str, Any], key: str, path: str | None) -> Any:
    if "errno" in answer:
        raise OSError(answer["errno"], os.strerror(answer["errno"]), path)
    return answer[key]


def close_all_but(kept: set[int | None]) -> None:
    """Close every other descriptor, by its number."""
    first = 0
    for number in sorted(number for number in kept if number is not None):
        if first < number:  # an empty range is taken for one without end
            os.closerange(first, number)
        first = number + 1
    os.closerange(first, _BEYOND)


def take_priorities(pid: int) -> None:
    """Be scheduled as another process is: policy, nice value, and I/O priority (sched(7), ioprio_set(2)).

    What needs CAP_SYS_NICE stays as it is without it: then the other has not been raised either.
    """
    with contextlib.suppress(PermissionError):
        nice = os.getpriority(os.PRIO_PROCESS, pid)
        if nice != os.getpriority(os.PRIO_PROCESS, 0):
            os.setpriority(os.PRIO_PROCESS, 0, nice)
        policy = os.sched_getscheduler(pid)
        if policy != os.sched_getscheduler(0):
            os.sched_setscheduler(0, policy, os.sched_getparam(pid))
    _take_io_priority(pid)


def _take_io_priority(pid: int) -> None:
    number = _IOPRIO_SET.get(os.uname().machine)
    if number is not None:
        value = _syscall(number + 1, _IOPRIO_WHO_PROCESS, pid)  # ioprio_get(2) is the next
        if value >= 0:
            _syscall(number, _IOPRIO_WHO_PROCESS, 0, value)


def _enter_cgroups() -> None:
    """Enter the caller's cgroups."""
    for path in _cgroup_files():
        with open(path, "wb", buffering=0) as file:
            file.write(b"0")


def _cgroup_files() -> Iterator[str]:
    """Yield the files through which this process enters the caller's cgroups, but those that it is in already.

    v1's `tasks` is quick for oneself; `cgroup.procs` waits for the kernel (RCU), which takes milliseconds.
    """
    layout = read_layout()
    with open("/proc/self/cgroup", "rb") as file:
        here = parse_own(file.read().decode(errors="surrogateescape"))
    for hierarchy in layout.legacy:
        name = hierarchy.controllers[0]
        if here.get(name) != layout.own.get(name):
            yield f"{hierarchy.directory(layout.own.get(name, '/'))}/tasks"
    if layout.unified is not None and here.get("") != layout.own.get(""):
        yield f"{layout.unified.directory(layout.own.get('', '/'))}/cgroup.procs"
