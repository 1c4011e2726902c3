"""A fork of the server that waits for a caller, takes its place, and runs its command.

It is forked before it is needed, so that no caller waits for a fork. Everything up to the claim can be taken back:
whatever is wrong until then sends the launcher its own way.
"""

from __future__ import annotations

import _signal
import _socket
import contextlib
import ctypes
import fcntl
import os
import resource
import select
import signal
import sys
import time

from pysandbox import caller
from pysandbox.caller import Cold
from pysandbox.warm import peer, proof, wire
from pysandbox.warm.launcher import Launcher
from pysandbox.warm.life import Life
from pysandbox.warm.peer import OUR_DESCRIPTORS, RLIM_NLIMITS, Peer, Refused, Stale, Standing

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Any

    from pysandbox.warm.second import Second
    from pysandbox.warm.title import Title

    #: A command: its words and the descriptors from 3 on that it was started with; returns the exit code.
    Command = Callable[[list[str], frozenset[int]], int]

#: Seconds for a launcher to say what it wants: it connects with the request ready.
REQUEST_LIMIT = 1.0
#: pidfd_getfd(2), newer than the C library of Debian 12; bound here: a fork should not have to look it up.
_PIDFD_GETFD = 438
_syscall = ctypes.CDLL(None, use_errno=True).syscall
_syscall.argtypes = (ctypes.c_long, ctypes.c_int, ctypes.c_int, ctypes.c_uint)


#: How programs are called that `detach`.
SHIMS = "containerd-shim-"


class Request:
    """What a launcher asks for, and the descriptors that came with it, moved out of the way of the caller's numbers.

    Those that its caller left open do not come with it: `descriptors` are their numbers. What is sent stays open in the
    queue of a server that does not answer, and whoever reads what the command writes would wait for its end in vain.
    """

    def __init__(self, connection: _socket.socket) -> None:
        """Receive it. Raises Refused for what is no request."""
        try:
            message, received = wire.receive(connection, REQUEST_LIMIT)
        except wire.Closed as error:
            raise Refused(f"no request: {error}") from error
        connection.settimeout(None)
        held = [move(descriptor) for descriptor in received]
        try:
            self.program = str(message["program"])
            self.args = [str(word) for word in message["args"]]
            self.environment = dict(entry.split("=", 1) for entry in message["env"] if "=" in entry)
            self.umask = int(message["umask"])
            self.ignored = _signals(message["ignored"])
            self.blocked = _signals(message["blocked"])
            self.securebits = int(message["securebits"])
            self.descriptors = frozenset(int(number) for number in message["descriptors"])
            self.claim, self.life, self.directory, self.proof = held
        except (AttributeError, KeyError, TypeError, ValueError, OverflowError) as error:
            raise Refused(f"a request not understood: {error!r}") from error
        if any(not 0 <= number < OUR_DESCRIPTORS for number in self.descriptors):
            raise Refused(f"a descriptor numbered above {OUR_DESCRIPTORS - 1} cannot be taken over")
        if not {0, 1, 2} <= self.descriptors:
            raise Refused("it has closed one of its descriptors 0 to 2")


def move(descriptor: int) -> int:
    """Move a descriptor out of the way of the callers' numbers."""
    moved = fcntl.fcntl(descriptor, fcntl.F_DUPFD_CLOEXEC, OUR_DESCRIPTORS)
    os.close(descriptor)
    return moved


def _signals(mask: int) -> list[int]:
    """Return the numbers in a mask, but for 32 and 33, the C library's own: posix_spawn(3) has them ignored."""
    return [number for number in _signal.valid_signals() if mask >> (number - 1) & 1] if mask else []


# -- taking the caller's place -----------------------------------------------------------------------------------------


def take_place(request: Request, their: Standing, own: Standing, who: Peer, proc: int) -> None:
    """Become as the caller is: namespaces, directory, umask, groups, limits, CPUs, descriptors, environment, signals.

    Raises Refused, or OSError, for what cannot be had.
    """
    if request.securebits != 0:
        raise Refused("its securebits are not the server's")
    _join(their, own, who, proc)
    os.fchdir(request.directory)
    os.umask(request.umask)
    if (their.gids, their.groups) != (own.gids, own.groups):
        os.setgroups(their.groups)
        os.setresgid(*their.gids[:3])
    if their.oom_score_adj != own.oom_score_adj:
        _write(proc, "self/oom_score_adj", their.oom_score_adj)
    _take_descriptors(who.pidfd, request.descriptors)
    os.sched_setaffinity(0, os.sched_getaffinity(who.pid))  # plans go by it
    if their.limits != own.limits:
        _take_limits(who.pid)
    os.environ.clear()
    os.environ.update(request.environment)
    if "TZ" in request.environment:  # the server has none
        time.tzset()
    for number in request.ignored:
        signal.signal(number, signal.SIG_IGN)
    if request.blocked:
        signal.pthread_sigmask(signal.SIG_SETMASK, request.blocked)


def _take_limits(pid: int) -> None:
    for limit in range(RLIM_NLIMITS):
        try:
            resource.setrlimit(limit, resource.prlimit(pid, limit))
        except (ValueError, PermissionError) as error:  # a higher one than that of whoever started the server
            raise Stale(f"its limit {limit} cannot be taken over: {error}") from error


def _join(their: Standing, own: Standing, who: Peer, proc: int) -> None:
    kinds = [kind for kind in peer.JOINED if their.joined[kind] != own.joined[kind]]
    if not kinds:
        return
    from pysandbox.linux import setns

    setns(who.pidfd, sum(peer.JOINED[kind] for kind in kinds))
    if "mnt" in kinds and their.root != peer.root_of(proc, os.getpid()):
        raise Refused("it has another root directory than its mount namespace")


def _write(proc: int, name: str, text: bytes) -> None:
    with open(os.open(name, os.O_WRONLY | os.O_CLOEXEC, dir_fd=proc), "wb", buffering=0) as file:
        file.write(text)


def _take_descriptors(caller: int, numbers: frozenset[int]) -> None:
    """Copy descriptors out of the caller, which is asking us and so keeps them, and put them at their numbers here."""
    for number in numbers:
        copy = _syscall(_PIDFD_GETFD, caller, number, 0)
        if copy < 0:
            errno = ctypes.get_errno()
            raise OSError(errno, f"descriptor {number}: {os.strerror(errno)}")
        if copy != number:
            os.dup2(copy, number, inheritable=False)
            os.close(copy)


# -- serving -----------------------------------------------------------------------------------------------------------


class Spare:
    """One fork of the server. `tell` reports to the server in one word and a text."""

    def __init__(
        self,
        listener: _socket.socket,
        server: int,
        own: Standing,
        power: proof.Proof,
        proc: int,
        commands: dict[str, Command],
        changed: Callable[[], bool],
        tell: Callable[[str, str], None],
        title: Title,
    ) -> None:
        self._listener, self._server = listener, server
        self._own, self._power, self._proc = own, power, proc
        self._commands, self._changed, self._tell = commands, changed, tell
        self._title = title
        self.served = False

    def wanted(self) -> bool:
        """Say whether a caller waits to be accepted."""
        poll = select.poll()
        poll.register(self._listener, select.POLLIN)
        return bool(poll.poll(0))

    def wait(self) -> int:
        """Wait for a caller and serve it; return this process's exit code."""
        connection = self._accept()
        return 0 if connection is None else self.serve(connection)

    def serve(self, connection: _socket.socket, second: Second | None = None) -> int:
        """Serve who has connected; return this process's exit code. `second` is for a command that detaches."""
        try:
            who = Peer(connection)
            their = who.standing(self._proc)
            peer.check(their, self._own)
            if self._changed():
                raise Stale("the server's files have changed")
            request = Request(connection)
            proof.check(request.proof, self._power)
            os.close(request.proof)
            who.confirm(their, self._proc)
            command = self._command(request)
            if second is not None and not request.program.startswith(SHIMS):
                second.dismiss()
                second = None
            take_place(request, their, self._own, who, self._proc)
        except (Refused, OSError, ValueError, OverflowError) as error:
            self._tell("stale" if isinstance(error, Stale) else "refused", str(error))
            _send_away(connection, str(error))
            return 0
        if not _claim(request):
            self._tell("refused", "too late")
            return 0
        life = Life(request.life)
        life.share()
        _answer(connection)
        self._tell("served", "")
        self._leave_server()
        self.served = True
        self._title.set([request.program, *request.args])
        return _serve(Launcher(connection, who.pid, request.descriptors, life, second), request, command)

    def _accept(self) -> _socket.socket | None:
        """Wait for a caller; None when the server has gone, or wants us to."""
        poll = select.poll()
        poll.register(self._listener, select.POLLIN)
        poll.register(self._server, 0)  # POLLHUP
        while True:
            ready = dict(poll.poll())
            if self._server in ready:
                return None
            try:
                descriptor, _ = self._listener._accept()  # type: ignore[attr-defined]  # the C half has no other
            except (BlockingIOError, ConnectionAbortedError):
                continue  # another spare was quicker
            return _socket.socket(fileno=move(descriptor))

    def _leave_server(self) -> None:
        """Hold nothing of the server's any more: its socket must be dead when it is."""
        self._listener.close()
        for descriptor in (self._server, self._proc):
            os.close(descriptor)

    def _command(self, request: Request) -> Command:
        if request.program not in self._commands:
            raise Refused(f"no command named {request.program}")
        return self._commands[request.program]


def _send_away(connection: _socket.socket, reason: str) -> None:
    with contextlib.suppress(wire.Closed, OSError):
        wire.send(connection, {"cold": reason})


def _answer(connection: _socket.socket) -> None:
    """Tell the launcher that its command is being served, and by whom: it passes signals on."""
    pidfd = os.pidfd_open(os.getpid())
    try:
        wire.send(connection, {"serving": True}, [pidfd])
    except wire.Closed:
        os._exit(1)  # the launcher has died, and the kernel's word of it is on its way
    finally:
        os.close(pidfd)


def _claim(request: Request) -> bool:
    """Take the command, unless the launcher has lost its patience and gone cold."""
    try:
        os.eventfd_read(request.claim)
    except BlockingIOError:
        return False
    os.close(request.claim)
    return True


def _serve(launcher: Launcher, request: Request, command: Command) -> int:
    caller.become(launcher)
    sys.stdin, sys.stdout, sys.stderr = _stream(0, "r"), _stream(1, "w"), _stream(2, "w")
    try:
        code = command(request.args, frozenset(number for number in request.descriptors if number > 2))
    except Cold as reason:
        launcher.run_cold(str(reason))
        return 0
    except SystemExit as exit_:
        code = exit_.code if isinstance(exit_.code, int) else 1
    launcher.exit(code)
    launcher.stay()
    return 0


def _stream(number: int, mode: str) -> Any:
    """Return a text stream as the interpreter makes them at its start, in UTF-8 mode."""
    errors = "surrogateescape" if number < 2 else "backslashreplace"
    return open(number, mode, encoding="utf-8", errors=errors, closefd=False)
