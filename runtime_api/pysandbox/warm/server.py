"""The fork server: one thread, everything imported, two forks of itself waiting for callers.

It does as little as can be: fork, reap, count, and end, when nobody has called for a while, when it is told to, or when
its files have changed. What is served, and for whom, is the forks' business (spare.py).
"""

from __future__ import annotations

import _signal
import _socket
import contextlib
import ctypes
import fcntl
import gc
import json
import os
import select
import signal
import time

from pysandbox.errors import SandboxError, Unavailable
from pysandbox.warm import peer, place, proof
from pysandbox.warm.launcher import Launcher
from pysandbox.warm.memory import Pages, one_heap
from pysandbox.warm.peer import OUR_DESCRIPTORS
from pysandbox.warm.preload import Files, commands, keeper, preload
from pysandbox.warm.second import Second
from pysandbox.warm.spare import Spare, move
from pysandbox.warm.title import Title

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Any

#: Forks that wait: one to be taken, and one for whoever comes while the next is made.
SPARES = 2
#: Seconds without a caller after which the server ends.
IDLE_LIMIT = 600.0
#: Seconds that the next fork waits for a command to end.
DEFERRED = 0.05
#: Launchers that may wait to be accepted. One more goes cold.
BACKLOG = 512
#: Forks in a row that may end without having been asked for anything.
FAILURE_LIMIT = 5
#: Characters of a reason to refuse that are kept: `status` tells them all in one message.
REASON_LIMIT = 200
#: ioprio_set(2), for which the C library has no function: asm/unistd.h.
_IOPRIO_SET, _IOPRIO_WHO_PROCESS = {"x86_64": 251, "aarch64": 30}, 1
#: Seconds for which no launcher shall try again where no server can be.
GIVE_UP = 60


class Server:
    """The server of one installation: `key` names it in the `directory`, `program` is its `pysandbox-cold`."""

    def __init__(self, directory: str, key: str, program: str) -> None:
        self._key, self._program = key, program
        self._directory = move(place.open_directory(directory))
        self._idle: set[int] = set()
        self._busy: set[int] = set()
        self._served, self._refused = 0, dict[str, int]()
        self._failures = 0
        self._ending = ""

    def serve(self) -> None:
        """Serve until it is time to end. Raises Unavailable where another server is, or none can be."""
        self._lock()
        try:
            leave_caller()
            self._prepare()
        except (SandboxError, peer.Refused, OSError):
            later = time.time() + GIVE_UP
            os.utime(self._lock_file, (later, later))
            raise
        self._loop()

    # -- beginning -----------------------------------------------------------------------------------------------------

    def _lock(self) -> None:
        flags = os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC
        self._lock_file = move(os.open(f"{self._key}.lock", flags, 0o600, dir_fd=self._directory))
        try:
            fcntl.flock(self._lock_file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise Unavailable("there is a server already") from None
        os.truncate(self._lock_file, 0)
        os.pwrite(self._lock_file, os.fsencode(os.path.abspath(self._program)), 0)
        with contextlib.suppress(OSError):
            place.sweep(self._directory)

    def _prepare(self) -> None:
        from pysandbox import executor

        self._proc = move(os.open("/proc", os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC))
        self._own = peer.standing(os.getpid(), self._proc)
        peer.check(self._own, self._own)
        self._power = proof.make()
        preload()
        self._commands, self._keep = commands(), keeper()
        executor.hold_executor(OUR_DESCRIPTORS)
        self._files = Files(OUR_DESCRIPTORS, executor.executor_path(), self._program)
        self._events, self._tell = _pipe()
        os.set_blocking(self._events, False)
        self._hold, self._held = _pipe()[::-1]  # readable for nobody: its end is what spares wait for
        self._control = self._listen("control")
        self._listener = self._listen("sock")
        self._shims = self._listen("shim")
        self._wakeup, self._wake = _pipe()
        os.set_blocking(self._wake, False)
        os.set_blocking(self._wakeup, False)
        signal.set_wakeup_fd(self._wake, warn_on_full_buffer=False)
        for number in (signal.SIGCHLD, signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
            signal.signal(number, lambda *_: None)
        self._pages, self._title = Pages(), Title()
        Launcher.directory = os.path.dirname(self._program)
        one_heap()
        gc.collect()
        gc.freeze()
        gc.disable()

    def _listen(self, kind: str) -> _socket.socket:
        """Listen under a new name, then take the old one's place: whoever looks finds a socket that is listened at."""
        listener = _socket.socket(_socket.AF_UNIX, _socket.SOCK_STREAM | _socket.SOCK_CLOEXEC | _socket.SOCK_NONBLOCK)
        listener = _socket.socket(fileno=move(listener.detach()))
        name = f"{self._key}.{kind}"
        temporary = f"{name}:{os.getpid()}"
        with contextlib.suppress(FileNotFoundError):
            os.unlink(temporary, dir_fd=self._directory)
        umask = os.umask(0o177)
        try:
            listener.bind(f"/proc/self/fd/{self._directory}/{temporary}")
        finally:
            os.umask(umask)
        listener.listen(BACKLOG)
        os.rename(temporary, name, src_dir_fd=self._directory, dst_dir_fd=self._directory)
        return listener

    # -- forks ---------------------------------------------------------------------------------------------------------

    def _fork(self) -> None:
        began = time.perf_counter_ns()
        pid = os.fork()  # noqa: TID251 (this process has one thread, and forking is all it is for)
        if pid:
            self._idle.add(pid)
            self._fork_time = (time.perf_counter_ns() - began) / 1e6
            return
        code = 1
        try:
            spare = self._become_spare()
            self._pages.populate(spare.wanted)
            code = spare.wait()
            if spare.served and self._pages.wanted:
                self._report("pages", self._pages.mine())
        finally:
            os._exit(code)

    def _fork_for_shim(self) -> None:
        """Fork when a shim is asked for, and copy no page beforehand: it will live long, so it should be small."""
        try:
            connection = _socket.socket(fileno=move(self._shims._accept()[0]))  # type: ignore[attr-defined]
        except (BlockingIOError, ConnectionAbortedError):
            return
        try:
            pid = os.fork()  # noqa: TID251 (as above)
        except OSError as error:
            self._ending = f"cannot fork: {error.strerror}"
            return
        if pid:
            self._busy.add(pid)
            connection.close()
            return
        code = 1
        try:
            _forget_signals()
            second = Second(self._keep, self._title)  # first of all: what is written to from now on is not its
            code = self._become_spare().serve(connection, second)
            second.dismiss()
        finally:
            os._exit(code)

    def _become_spare(self) -> Spare:
        """Undo what only the server needs: handlers, and descriptors that would keep something of it alive."""
        _forget_signals()
        self._control.close()
        self._shims.close()
        ours = (self._directory, self._hold, self._lock_file, self._events, self._wakeup, self._wake, proof.NUMBER)
        for descriptor in ours:
            os.close(descriptor)
        return Spare(
            self._listener,
            self._held,
            self._own,
            self._power,
            self._proc,
            self._commands,
            self._files.changed,
            self._report,
            self._title,
        )

    def _report(self, word: str, text: str) -> None:
        """Tell the server, from a spare: one line, which pipe(7) keeps whole up to PIPE_BUF bytes."""
        line = f"{word} {os.getpid()} {text}".encode(errors="replace")[: select.PIPE_BUF - 1].replace(b"\n", b" ")
        with contextlib.suppress(OSError):
            os.write(self._tell, line + b"\n")

    # -- the loop ------------------------------------------------------------------------------------------------------

    def _loop(self) -> None:
        poll = select.poll()
        for each in (self._events, self._wakeup, self._control, self._shims, self._files.descriptor):
            poll.register(each, select.POLLIN)
        self._started = self._last = time.monotonic()
        while not self._ending:
            self._fill()
            full = len(self._idle) == SPARES
            patience = max(0.0, self._last + IDLE_LIMIT - time.monotonic()) if full else DEFERRED
            ready = dict(poll.poll(patience * 1000))
            if self._files.descriptor in ready:
                self._ending = "its files have changed"
            if self._events in ready:
                self._hear()
            if self._wakeup in ready:
                self._reap(os.read(self._wakeup, 4096))
            if self._shims.fileno() in ready:
                self._fork_for_shim()
            if self._control.fileno() in ready:
                self._answer()
            if time.monotonic() - self._last > IDLE_LIMIT:
                self._ending = "idle"
        self._end()

    def _fill(self) -> None:
        """Fork what is missing; where that fails, end, so that the next server finds out whether it can."""
        try:
            while len(self._idle) < SPARES and self._may_fork():
                self._fork()
        except OSError as error:
            self._ending = f"cannot fork: {error.strerror}"

    def _may_fork(self) -> bool:
        """Say whether it is time: a fork slows down whoever is being served, so it waits while there is a spare."""
        return not self._idle or not self._busy or time.monotonic() - self._last >= DEFERRED

    def _hear(self) -> None:
        # A reason may hold what a caller has said: nothing but our own line ends are ends.
        for line in os.read(self._events, 65536).removesuffix(b"\n").split(b"\n"):
            word, pid, text = line.decode(errors="replace").split(" ", 2)
            self._last = time.monotonic()
            self._failures = 0
            if int(pid) in self._idle:
                self._idle.remove(int(pid))
                self._busy.add(int(pid))
            if word == "served":
                self._served += 1
            elif word == "refused":
                reason = text[:REASON_LIMIT]
                if reason in self._refused or len(self._refused) < 100:
                    self._refused[reason] = self._refused.get(reason, 0) + 1
            elif word == "stale":
                self._ending = text
            elif word == "pages":
                self._pages.learn(text)

    def _reap(self, numbers: bytes) -> None:
        if signal.SIGTERM in numbers:
            self._ending = "SIGTERM"
        with contextlib.suppress(ChildProcessError):
            while (pid := os.waitpid(-1, os.WNOHANG)[0]) != 0:
                self._busy.discard(pid)
                if pid in self._idle:
                    self._idle.remove(pid)
                    self._failures += 1
        if self._failures >= FAILURE_LIMIT:
            self._ending = "its forks end by themselves"

    def _end(self) -> None:
        """Let go of the name first, so that the next launcher starts another server; then of the spares."""
        for kind in ("sock", "shim", "control"):
            with contextlib.suppress(FileNotFoundError):
                os.unlink(f"{self._key}.{kind}", dir_fd=self._directory)
        os.close(self._hold)

    # -- status --------------------------------------------------------------------------------------------------------

    def _answer(self) -> None:
        with contextlib.suppress(OSError):
            descriptor, _ = self._control._accept()  # type: ignore[attr-defined]  # the C half has no other
            connection = _socket.socket(fileno=descriptor)
            connection.settimeout(0.2)
            if connection.recv(16) == b"stop":
                self._ending = "stop"
            connection.send(json.dumps(self._status()).encode())
            connection.close()

    def _status(self) -> dict[str, Any]:
        return {
            "pid": os.getpid(),
            "seconds": round(time.monotonic() - self._started, 3),
            "served": self._served,
            "refused": self._refused,
            "spares": sorted(self._idle),
            "serving": sorted(self._busy),
            "fork_ms": round(self._fork_time, 3),
        }


def _forget_signals() -> None:
    """Undo, in a fork, what the server has done to signals."""
    # By the C half: `signal` makes enumeration members of what it returns, and whatever is looked at is written to.
    _signal.set_wakeup_fd(-1)
    for number in (_signal.SIGCHLD, _signal.SIGTERM, _signal.SIGHUP):
        _signal.signal(number, _signal.SIG_DFL)
    _signal.signal(_signal.SIGINT, _signal.default_int_handler)


def leave_caller() -> None:
    """Leave what the first caller had and the server must not keep: cgroups, the favour of the OOM killer, priorities.

    The launcher has seen to descriptors, session, directory, umask, signals and environment before it executed us.
    """
    for path in _cgroup_mounts():
        with open(f"{path}/cgroup.procs", "wb", buffering=0) as file:
            file.write(b"0")
    with open("/proc/self/oom_score_adj", "r+b", buffering=0) as file:
        if int(file.read()) < 0:
            file.write(b"0")
    _reset_priorities()


def _reset_priorities() -> None:
    """Be scheduled as any process is: nobody whom the server serves should wait because who started it was patient.

    What needs CAP_SYS_NICE stays as it is without it (sched(7), ioprio_set(2)).
    """
    steps: list[Callable[[], object]] = [
        lambda: os.sched_setscheduler(0, os.SCHED_OTHER, os.sched_param(0)),
        lambda: os.setpriority(os.PRIO_PROCESS, 0, 0),
        # Those that there are: the cpuset takes away what is not ours.
        lambda: os.sched_setaffinity(0, range(os.sysconf("SC_NPROCESSORS_CONF"))),
    ]
    number = _IOPRIO_SET.get(os.uname().machine)
    if number is not None:
        steps.append(lambda: ctypes.CDLL(None).syscall(number, _IOPRIO_WHO_PROCESS, 0, 0))
    for step in steps:
        with contextlib.suppress(OSError):
            step()


def _cgroup_mounts() -> list[str]:
    """Return where hierarchies are mounted in which we are not at the root yet."""
    from pysandbox.cgroup.layout import read_layout

    layout = read_layout()
    hierarchies = [*layout.legacy, *([layout.unified] if layout.unified else [])]
    return [each.mount_point for each in hierarchies if layout.own.get((*each.controllers, "")[0], "/") != "/"]


def _pipe() -> tuple[int, int]:
    reader, writer = os.pipe2(os.O_CLOEXEC)
    return move(reader), move(writer)
