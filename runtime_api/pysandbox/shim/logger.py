"""A program that takes a process's output: `binary:///PATH?key=value` in the place of a FIFO.

As under containerd's own shims it gets the output on the descriptors 3 and 4, closes 5 when it is ready, and has
CONTAINER_ID and CONTAINER_NAMESPACE in its environment, here and nothing else. The keys and values are its arguments.

It runs as root, by the word of whoever may call containerd, so it must be a program that only root can have put there.
"""

from __future__ import annotations

import contextlib
import os
import select
import signal
import stat
from threading import Event

from pysandbox.caller import current
from pysandbox.errors import DeadlineExceeded, FailedPrecondition, InvalidArgument, PermissionDenied
from pysandbox.shim.reaper import end

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable

    #: Called with a pid and what is to be told of its end: `Reaper.watch`.
    Watch = Callable[[int, Callable[[int, float], None]], None]

SCHEMES = ("binary", "binary-v2")
#: Seconds for it to be ready, and to end when there is no more output, then after SIGTERM.
READY_LIMIT, END_LIMIT, TERM_LIMIT = 10.0, 10.0, 2.0


class Logger:
    """One such program. `stdout` and `stderr` are the ends to write to, ours until `let_go`."""

    def __init__(self, where: str, container: str, namespace: str, watch: Watch) -> None:
        """Start it and wait until it is ready. Raises SandboxError, OSError; it has ended then."""
        path, arguments = _read(where)
        check_program(path)
        self._ended = Event()
        environment = {"CONTAINER_ID": container, "CONTAINER_NAMESPACE": namespace}
        with contextlib.ExitStack() as theirs, contextlib.ExitStack() as ours:
            ends = []
            for keep in (1, 1, 0):  # two pipes that we write to, and one that we read
                pair = os.pipe2(os.O_CLOEXEC)
                ours.callback(os.close, pair[keep])
                theirs.callback(os.close, pair[1 - keep])
                ends.append(pair)
            (out_read, self.stdout), (err_read, self.stderr), (ready, ready_write) = ends
            null = os.open("/dev/null", os.O_RDWR | os.O_CLOEXEC)
            theirs.callback(os.close, null)
            streams = (null, null, null, out_read, err_read, ready_write)
            self._pid = current().spawn(path, [path, *arguments], environment, streams)
            try:
                self._pidfd = os.pidfd_open(self._pid)
                watch(self._pid, lambda _code, _now: self._ended.set())
            except BaseException:
                end(self._pid)
                raise
            ours.callback(self._kill)
            theirs.close()
            self._wait_ready(ready, where)
            ours.pop_all()
            os.close(ready)

    def _wait_ready(self, ready: int, where: str) -> None:
        poll = select.poll()
        poll.register(ready, select.POLLIN)
        if not poll.poll(READY_LIMIT * 1000):
            raise DeadlineExceeded(f"{where}: has not closed descriptor 5 after {READY_LIMIT:g} s")
        if not os.read(ready, 1) and self._ended.wait(0.05):
            raise FailedPrecondition(f"{where}: ended at once")

    def let_go(self) -> None:
        """Close our ends: it reads the end when the process has closed its own. Any number of times."""
        for name in ("stdout", "stderr"):
            if (descriptor := getattr(self, name)) >= 0:
                setattr(self, name, -1)
                os.close(descriptor)

    def finish(self) -> None:
        """Wait until it has taken everything and ended; what does not end is made to."""
        self.let_go()
        if not self._ended.wait(END_LIMIT):
            self._signal(signal.SIGTERM)
            if not self._ended.wait(TERM_LIMIT):
                self._kill()
        if self._pidfd >= 0:
            os.close(self._pidfd)
            self._pidfd = -1

    def _kill(self) -> None:
        self._signal(signal.SIGKILL)
        self._ended.wait(TERM_LIMIT)

    def _signal(self, number: int) -> None:
        with contextlib.suppress(ProcessLookupError):
            signal.pidfd_send_signal(self._pidfd, number)


def is_logger(where: str) -> bool:
    """Say whether output goes to a program."""
    return where.partition("://")[0] in SCHEMES and "://" in where


def _read(where: str) -> tuple[str, list[str]]:
    """Return path and arguments. Raises InvalidArgument."""
    from urllib.parse import parse_qsl, unquote

    path, _, query = where.partition("://")[2].partition("?")
    path = unquote(path)
    arguments = [word for pair in parse_qsl(query, keep_blank_values=True) for word in pair if word]
    if not path.startswith("/") or any("\0" in word for word in (path, *arguments)):
        raise InvalidArgument(f"{where}: is no absolute path of a program")
    return path, arguments


def check_program(path: str) -> None:
    """Raise PermissionDenied unless only root can have put the program there: it, and each directory above it."""
    real = os.path.realpath(path)
    try:
        status = os.stat(real)
    except OSError as error:
        raise InvalidArgument(f"{path}: {error.strerror}") from error
    if not stat.S_ISREG(status.st_mode) or not status.st_mode & 0o111:
        raise InvalidArgument(f"{path}: is not a program")
    where, allowed = real, 0
    while True:
        # In a sticky directory others can make files, and not replace root's.
        if status.st_uid != 0 or (status.st_mode & 0o022 and not status.st_mode & allowed):
            raise PermissionDenied(f"{path}: {where} must be owned by root and writable by nobody else")
        if where == "/":
            return
        where, allowed = os.path.dirname(where), stat.S_ISVTX
        status = os.stat(where)
