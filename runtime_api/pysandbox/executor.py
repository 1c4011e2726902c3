"""Run a plan: start the sealed executor, give it the plan, talk to it over the report socket.

`start` has the caller's process start the static executor from a sealed memfd, as `pysandbox-init report=N`: N is its
end of the report socket (SOCK_SEQPACKET), descriptors 3 … 2+preserve are the container's own, in order. A second
argument, `network`, has it make a network namespace at once, for a plan that will ask for one. It waits for its first
datagram, which `give` sends: {"slots": [name, …]}, with one SCM_RIGHTS descriptor for each name, at most 32.
`plan` is a memfd with the plan's JSON; the caller adds what the plan needs (`start`, `process`, `cgroup`), and in a
guest `stdin`, `stdout`, `stderr`, which take the place of those that it was started with. So the executor starts while
Python still plans. End of file, or anything odd, in place of that datagram: it exits without a word, having done
nothing.

One JSON object in each datagram. From the executor:

    {"steps": [[i, name, CLOCK_MONOTONIC in ns], …]}   what has begun since the last; only under "trace": true. The
                                                       first are `network`, if that is made at once, `wait_plan`, and
                                                       `plan` when that came, all i 0
    {"stop": name}                                     waits for {"go": true}
    {"pid": n}                                         after clone, from the new process, before all else it says;
                                                       and once more from the one that made it, if that was forked
    {"descriptor": name}                               with one SCM_RIGHTS descriptor
    {"listener": n}                                    number of the seccomp descriptor in that process; waits for go
    {"error": {"op", "index", "call", "path", "errno", "text"}}   the last datagram; the process exits with 1

The socket closes when the program has been executed (CLOEXEC): end of file after the last step means success. So
it does when the kernel does not execute the program: the process says why on its stderr and exits with 255.
To the executor: {"go": true}; end of file means abort: it exits without a word.

`_socket` is the C half of `socket`, in every CPython: its Python half (enum, selectors) would cost each command 13 ms.
The sealed copy is what a container sees as /proc/PID/exe of its init: it cannot be written, whoever opens it
(CVE-2019-5736).
"""

from __future__ import annotations

import _socket
import contextlib
import fcntl
import json
import os
import stat
import sys
import time

from pysandbox.caller import Start, current
from pysandbox.errors import DeadlineExceeded, SandboxError, Unavailable
from pysandbox.record import dataclass

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Mapping
    from typing import Any

    from pysandbox.backend import Stdio

#: The name of the program's file, in the package and in a checkout.
PROGRAM = "pysandbox-executor"
#: argv[0] of the executor: what `ps` shows of a container whose program has not started.
ARGV0 = "pysandbox-init"
#: Seconds that one message may take. Hooks inside the container have their own time-outs, so this is generous.
MESSAGE_TIMEOUT = 60.0
#: The most descriptors that one executor is given (`MOST` in guest_agent/src/slots.rs).
MOST_SLOTS = 32
#: Seconds for processes to end once they have been killed.
END_TIMEOUT = 10.0
#: No datagram of the executor is longer: an error's text is cut at 8 KiB.
_LONGEST_MESSAGE = 64 * 1024

# linux/memfd.h, linux/fcntl.h: newer than Python 3.11's constants.
_MFD_EXEC = 0x10
_F_ADD_SEALS = 1033
_F_SEALS = 0x1 | 0x2 | 0x4 | 0x8  # F_SEAL_SEAL | F_SEAL_SHRINK | F_SEAL_GROW | F_SEAL_WRITE
_F_SEAL_EXEC = 0x20


class ExecutorError(SandboxError):
    """An operation of a plan failed.

    `op` and `index` say which, `call` which system call or check, `path` on what; `errno` is 0 where there is none.
    """

    def __init__(self, op: str, index: int, call: str, path: str, errno: int, text: str) -> None:
        # For the program itself the words that callers of runc know.
        words = f"exec {path}: {text}" if call == "execve" else ": ".join(filter(None, (op, call, path, text)))
        super().__init__(words)
        self.op = op
        self.index = index
        self.call = call
        self.path = path
        self.errno = errno
        self.text = text


@dataclass(frozen=True, slots=True)
class Step:
    """The executor begins with an operation; `ns` is CLOCK_MONOTONIC."""

    index: int
    op: str
    ns: int


@dataclass(frozen=True, slots=True)
class Stop:
    """The executor waits for `go`."""

    name: str


@dataclass(frozen=True, slots=True)
class Pid:
    """The process that goes on with the plan: a child of this process."""

    pid: int


@dataclass(frozen=True, slots=True)
class Descriptor:
    """A descriptor of the executor's, now the receiver's to close."""

    name: str
    descriptor: int


@dataclass(frozen=True, slots=True)
class Listener:
    """The seccomp notify descriptor's number in the process; the executor waits for `go`."""

    number: int


Message = Step | Stop | Pid | Descriptor | Listener


class Launch:
    """An executor that waits for its plan, then runs. `close` lets it go on alone, `abort` ends it."""

    def __init__(self, outer: Start, report: _socket.socket, spawned: int = 0) -> None:
        self._outer = outer
        self.spawned = spawned  # CLOCK_MONOTONIC in ns
        self.pid = 0
        self._report: _socket.socket | None = report
        self._outer_ended = False
        self._steps: list[Step] = []  # received and not yet returned

    @property
    def outer_pid(self) -> int:
        """The process that was spawned. Raises OSError or Unavailable where it could not be."""
        return self._outer.pid()

    def give(self, plan_json: bytes, slots: Mapping[str, int]) -> None:
        """Hand over the plan and what it needs. The descriptors in `slots` stay the caller's.

        Raises OSError for trouble with the kernel, Unavailable where there is no executor to trust; then, as whenever
        there is no plan to give, the launch is the caller's to abort. An executor that has died shows at `next`.
        """
        if len(slots) >= MOST_SLOTS:
            raise ValueError(f"{len(slots)} slots and the plan are more than an executor takes")
        plan = _memfd("plan", plan_json)
        try:
            self._send_slots({"plan": plan, **slots})
        finally:
            os.close(plan)
        self._outer.pid()  # from here on the end of the socket is the end of the executor

    def _send_slots(self, slots: Mapping[str, int]) -> None:
        if self._report is None:
            return
        names = json.dumps({"slots": list(slots)}).encode()
        numbers = b"".join(number.to_bytes(4, sys.byteorder) for number in slots.values())
        control = [(_socket.SOL_SOCKET, _socket.SCM_RIGHTS, numbers)]
        with contextlib.suppress(BrokenPipeError, ConnectionResetError):
            self._report.sendmsg([names], control, _socket.MSG_NOSIGNAL)

    def next(self, timeout: float = MESSAGE_TIMEOUT) -> Message | None:
        """Return the executor's next message, None when the program has been executed.

        Raises ExecutorError when an operation has failed, DeadlineExceeded after `timeout` seconds; the processes are
        gone then.
        """
        if self._steps:
            return self._steps.pop(0)
        while True:
            try:
                data, descriptor = self._receive(timeout)
            except TimeoutError:
                self.abort()
                raise DeadlineExceeded(f"the executor has said nothing for {timeout:g} s") from None
            if not data:
                self._ended()
                return None
            message = self._understand(data, descriptor)
            if message is not None:
                return message

    def _understand(self, data: bytes, descriptor: int | None) -> Message | None:
        """Return the message in a datagram, None for the pid told again.

        Whoever traces the executor in a container can send what it likes: anything odd ends the launch.
        """
        try:
            return self._interpret(json.loads(data), descriptor)
        except (ValueError, TypeError, RecursionError):
            if descriptor is not None:
                os.close(descriptor)
            self.abort()
            raise ExecutorError("", 0, "recvmsg", "", 0, f"message not understood: {data[:200]!r}") from None

    def _receive(self, timeout: float) -> tuple[bytes, int | None]:
        if self._report is None:
            return b"", None
        self._report.settimeout(timeout)
        try:
            data, control, _, _ = self._report.recvmsg(
                _LONGEST_MESSAGE, _socket.CMSG_SPACE(4), _socket.MSG_CMSG_CLOEXEC
            )
        except ConnectionResetError:  # it ended with our word unread
            return b"", None
        descriptors = [
            int.from_bytes(payload[:4], sys.byteorder, signed=True)
            for level, kind, payload in control
            if level == _socket.SOL_SOCKET and kind == _socket.SCM_RIGHTS and len(payload) >= 4
        ]
        return data, descriptors[0] if descriptors else None

    def _interpret(self, message: Any, descriptor: int | None) -> Message | None:
        """Take a message apart; ValueError or TypeError for one that is not of the protocol."""
        match message:
            case {"error": dict(fields)}:
                error = ExecutorError(**fields)
                self.abort()
                raise error
            case {"steps": [_, *_] as steps}:
                self._steps = [Step(*step) for step in steps]
                return self._steps.pop(0)
            case {"stop": str(name)}:
                return Stop(name)
            case {"pid": int(pid)} if self.pid in (0, pid) and pid > 0:
                if self.pid:
                    return None
                self.pid = pid
                return Pid(pid)
            case {"descriptor": str(name)} if descriptor is not None:
                return Descriptor(name, descriptor)
            case {"listener": int(number)}:
                return Listener(number)
        raise ValueError

    def _ended(self) -> None:
        """Tell a program that runs from an executor that died without a word."""
        self.close()
        if self.pid:
            return
        status = _wait(self.outer_pid) if not self._outer_ended else 0
        self._outer_ended = True
        code = os.waitstatus_to_exitcode(status)
        how = f"exit code {code}" if code >= 0 else f"signal {-code}"
        raise ExecutorError("", 0, "", "", 0, f"the executor ended without a word ({how})")

    def go(self) -> None:
        """Let the executor go on from a stop. One that has died meanwhile shows at `next`."""
        if self._report is not None:
            with contextlib.suppress(BrokenPipeError, ConnectionResetError):
                self._report.send(b'{"go":true}', _socket.MSG_NOSIGNAL)

    def close(self) -> None:
        """Leave the executor alone: it goes on, unless it waits for `go`. Safe to call twice."""
        if self._report is not None:
            self._report.close()
            self._report = None
        if self.pid:
            self.reap_outer()

    def abort(self) -> None:
        """Kill what was made and reap it. Safe to call twice, and after the processes ended by themselves."""
        try:
            self._outer.pid()
        except (OSError, SandboxError):  # it has never started
            self._outer_ended = True
        self._take_pid()
        self.close()
        if not self._outer_ended:
            self._outer_ended = True
            _end(self.outer_pid)
        if self.pid:
            _end(self.pid)

    def _take_pid(self) -> None:
        """Look whether the executor has cloned since the last message: a child nobody knows of could not be killed.

        The outer process is killed first, so that it cannot clone any more. A child that it made before reports itself
        before it does anything else; without one the socket ends.
        """
        if self.pid or self._report is None:
            return
        if not self._outer_ended:
            with contextlib.suppress(ProcessLookupError):
                os.kill(self.outer_pid, 9)
        deadline = time.monotonic() + END_TIMEOUT
        while not self.pid and time.monotonic() < deadline:
            try:
                data, descriptor = self._receive(END_TIMEOUT)
            except TimeoutError:
                return
            if descriptor is not None:
                os.close(descriptor)
            if not data:
                return
            self.pid = _told_pid(data)

    def reap_outer(self) -> None:
        """Reap the process that was spawned, which ends once it has cloned. The later, the less to wait for."""
        if not self._outer_ended:
            self._outer_ended = True
            _wait(self.outer_pid)


def _told_pid(data: bytes) -> int:
    """Return the pid that a datagram tells, 0 for any other."""
    try:
        match json.loads(data):
            case {"pid": int(pid)} if pid > 0:
                return pid
    except (ValueError, RecursionError):
        pass
    return 0


def _end(pid: int) -> None:
    """Kill a child and reap it: its pid is ours until we do, so it cannot be another's. What is no child is let be.

    The pid comes over a socket that a container may get hold of, if it may look into other processes.
    """
    if current().is_child(pid):
        os.kill(pid, 9)
        _wait(pid)


def _wait(pid: int) -> int:
    """Reap a child that is about to end; its wait status, 0 where another has reaped it."""
    import select

    with contextlib.suppress(ChildProcessError):
        if (status := current().reap(pid)) is not None:
            return status
    try:
        pidfd = os.pidfd_open(pid)
    except ProcessLookupError:
        return 0
    try:
        poll = select.poll()
        poll.register(pidfd, select.POLLIN)
        if not poll.poll(END_TIMEOUT * 1000):
            raise DeadlineExceeded(f"process {pid} has not ended after {END_TIMEOUT:g} s")
        return current().reap(pid) or 0
    except ChildProcessError:
        return 0
    finally:
        os.close(pidfd)


# -- spawning ----------------------------------------------------------------------------------------------------------


def spawn(plan_json: bytes, *, stdio: Stdio, slots: Mapping[str, int]) -> Launch:
    """Start an executor with the plan: `start` and `give`, for whoever has all of it at once."""
    launch = start(stdio)
    try:
        launch.give(plan_json, slots)
    except BaseException:
        launch.abort()
        raise
    return launch


def start(stdio: Stdio, *, network: bool = False) -> Launch:
    """Start an executor that waits for `Launch.give`. The descriptors in `stdio` stay the caller's, open until then.

    `network` has it make a network namespace meanwhile, which takes as long as all mounts; a plan that does not make
    one, or that has a user namespace, which should own it, is then refused.

    Raises Unavailable where there is no executor to trust, OSError for trouble with the kernel. A plan's
    `parent_death_signal` looks at the calling *thread* (prctl(2)): it must live until the plan takes the signal back.
    Until the plan comes, the end of the report socket tells the executor that its caller has died.
    """
    ours, theirs = _socket.socketpair(_socket.AF_UNIX, _socket.SOCK_SEQPACKET)
    try:
        outer = _Outer([stdio.stdin, stdio.stdout, stdio.stderr, *stdio.preserved], theirs, network=network)
    except BaseException:
        ours.close()
        theirs.close()
        raise
    return Launch(outer, ours, outer.since)


class _Outer(Start):
    """The executor's first process, started from the copy that is held, or from one of its own."""

    def __init__(self, streams: list[int], report: _socket.socket, *, network: bool) -> None:
        super().__init__()
        self._arguments = [ARGV0, f"report={len(streams)}", *(["network"] if network else [])]
        self._streams = [*streams, report.fileno()]
        self._report: _socket.socket | None = report  # until it has been started with it
        self._shared = _held is not None
        copy = _held if _held is not None else sealed_executor()
        self.since = time.monotonic_ns()
        try:
            self._begun = current().begin(copy, self._arguments, {}, self._streams)
        finally:
            if not self._shared:
                os.close(copy)

    def pid(self) -> int:
        """Return its pid as soon as it is known. Raises OSError or Unavailable where it did not start."""
        if self._report is not None:
            try:
                self._pid = self._started()
            except (OSError, SandboxError) as error:
                self._error = error
            self._report.close()
            self._report = None
        return super().pid()

    def _started(self) -> int:
        try:
            return self._begun.pid()
        except PermissionError:
            if not self._shared:
                raise
        # A container that got hold of the shared copy has taken its mode away: by an ACL, which seals do not stop.
        copy = sealed_executor()
        try:
            return current().spawn(copy, self._arguments, {}, self._streams)
        finally:
            os.close(copy)


def hold_executor(at_least: int) -> None:
    """Make one sealed copy for all that this process and its forks will spawn; its number is at least `at_least`.

    Containers share it as they share the page cache's pages of any program: nobody can write to it. It is held open for
    reading: a container that got hold of it could else take a lease on it, and each execve(2) would wait 45 s for that
    to be broken (fcntl(2), F_SETLEASE: no write lease while another has the file open).
    """
    global _held
    copy = sealed_executor()
    reader = os.open(f"/proc/self/fd/{copy}", os.O_RDONLY | os.O_CLOEXEC)
    _held = fcntl.fcntl(reader, fcntl.F_DUPFD_CLOEXEC, at_least)
    os.close(reader)
    os.close(copy)


def held_executor() -> int | None:
    """Return the descriptor of the copy that is held."""
    return _held


_held: int | None = None


def _memfd(name: str, content: bytes) -> int:
    """Return a memfd that holds `content`, its offset at the beginning."""
    descriptor = os.memfd_create(name, os.MFD_CLOEXEC | os.MFD_ALLOW_SEALING)
    try:
        rest = memoryview(content)
        while rest:
            rest = rest[os.write(descriptor, rest) :]
        os.lseek(descriptor, 0, os.SEEK_SET)
    except BaseException:
        os.close(descriptor)
        raise
    return descriptor


def sealed_executor() -> int:
    """Return a memfd with a copy of the executor that nobody can change any more."""
    source = _open_executor(executor_path())
    try:
        copy = _executable_memfd()
        try:
            _copy(source, copy)
            _make_executable(copy)
            _seal(copy)
        except BaseException:
            os.close(copy)
            raise
    finally:
        os.close(source)
    return copy


def _make_executable(descriptor: int) -> None:
    try:
        os.fchmod(descriptor, 0o511)
    except PermissionError:  # the kernel has made the memfd with MFD_NOEXEC_SEAL
        raise Unavailable("vm.memfd_noexec is 2 on this host: no sealed copy of the executor would run") from None


def _executable_memfd() -> int:
    flags = os.MFD_CLOEXEC | os.MFD_ALLOW_SEALING
    try:
        return os.memfd_create(ARGV0, flags | _MFD_EXEC)  # Linux 6.3; asked for where vm.memfd_noexec is 1
    except OSError:
        return os.memfd_create(ARGV0, flags)


def _copy(source: int, target: int) -> None:
    rest = os.fstat(source).st_size
    while rest:
        copied = os.sendfile(target, source, None, rest)
        if not copied:
            raise Unavailable("the executor's file was cut short while it was read")
        rest -= copied


def _seal(descriptor: int) -> None:
    try:
        fcntl.fcntl(descriptor, _F_ADD_SEALS, _F_SEALS | _F_SEAL_EXEC)  # Linux 6.3
    except OSError:
        fcntl.fcntl(descriptor, _F_ADD_SEALS, _F_SEALS)


# -- the program -------------------------------------------------------------------------------------------------------


def executor_path() -> str:
    """Return where the executor is. Raises Unavailable where there is none."""
    return program_path(PROGRAM)


def program_path(name: str) -> str:
    """Return where one of our programs is: in the installed package, else in this checkout's release build.

    Raises Unavailable where there is none.
    """
    package = os.path.dirname(os.path.abspath(__file__))
    checkout = os.path.dirname(os.path.dirname(package))
    installed = os.path.join(package, "libexec", name)
    built = os.path.join(checkout, "guest_agent", "target", "release", name)
    for path in (installed, built):
        if os.path.exists(path):
            return path
    raise Unavailable(f"{name} is not there: neither {installed} nor {built} exists")


def open_program(name: str) -> int:
    """Open one of our programs, which only root can have changed. Raises Unavailable for any other."""
    return _open_executor(program_path(name))


def _open_executor(path: str) -> int:
    """Open a program that only root can have changed; Unavailable for any other."""
    descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW | os.O_NONBLOCK)
    status = os.fstat(descriptor)
    trusted = stat.S_ISREG(status.st_mode) and status.st_uid == 0 and not status.st_mode & 0o022
    if not trusted:
        os.close(descriptor)
        raise Unavailable(f"{path}: is not a regular file of root's that only root can write")
    return descriptor
