"""A fork made beforehand, for a command that will leave a process behind: one that lives long should be small.

Serving a command, Python writes to the reference counts of all that it looks at, and each page written to is a copy. So
who has accepted a shim's launcher forks before it does anything else. That fork waits to be told what it is for; where
it is not wanted, it ends with its maker.
"""

from __future__ import annotations

import _socket
import ctypes
import os
import resource

from pysandbox.executor import held_executor
from pysandbox.warm.launcher import close_all_but
from pysandbox.warm.peer import JOINED, RLIM_NLIMITS
from pysandbox.warm.spare import move
from pysandbox.warm.wire import Closed, receive, send

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from typing import Any

    from pysandbox.warm.title import Title

    #: What it runs when it is wanted: connection to who serves, both ends of the pipe that is its life; the exit code.
    Keep = Callable[[_socket.socket, int, int], int]


#: linux/prctl.h; bound here, for a fork that looks it up has hundreds of KiB to itself then.
_PR_SET_CHILD_SUBREAPER = 36
_prctl = ctypes.CDLL(None).prctl


class Second:
    """The fork, seen from its maker. `life` is the pipe that hangs up when it ends; `pid` its process id."""

    def __init__(self, keep: Keep, title: Title) -> None:
        """Fork. Raises OSError."""
        ours, theirs = _socket.socketpair(_socket.AF_UNIX, _socket.SOCK_STREAM)
        reader, writer = os.pipe2(os.O_CLOEXEC)
        self.pid = os.fork()  # noqa: TID251 (the server has one thread, and so has a fork of it)
        if not self.pid:
            _run(keep, title, theirs, reader, writer)
        theirs.close()
        os.close(writer)
        self.connection, self.life = _socket.socket(fileno=move(ours.detach())), move(reader)
        self._placed = False

    def place(self, files: Sequence[int]) -> None:
        """Have it be where this process is, but for the session, which is its own, and the directory, which is `/`.

        It adopts orphans from then on (`PR_SET_CHILD_SUBREAPER` of prctl(2)), is shown under the same name, shares
        standard error, and writes `0` into `files`. Raises OSError.
        """
        os.sched_setaffinity(self.pid, os.sched_getaffinity(0))
        for limit in range(RLIM_NLIMITS):
            if (wanted := resource.getrlimit(limit)) != resource.prlimit(self.pid, limit):
                resource.prlimit(self.pid, limit, wanted)
        os.umask(umask := os.umask(0o077))
        with open("/proc/self/cmdline", "rb", buffering=0) as file:
            words = os.fsdecode(file.read()).rstrip("\0").split("\0")
        order = {"words": words, "umask": umask, "gid": os.getgid(), "groups": os.getgroups()}
        others = [kind for name, kind in JOINED.items() if _namespace("self", name) != _namespace(self.pid, name)]
        order["kinds"] = sum(others)
        myself = os.pidfd_open(os.getpid())
        try:
            send(self.connection, order, [2, myself, *files])
            answer, _ = receive(self.connection)
        except Closed as error:
            raise OSError(f"the process that is to stay has ended: {error}") from error
        finally:
            os.close(myself)
        if "failed" in answer:
            raise OSError(f"the process that is to stay: {answer['failed']}")
        self._placed = True

    def dismiss(self) -> None:
        """Have it end, if nobody wanted it; any number of times."""
        if not self._placed and self.connection.fileno() >= 0:
            self.connection.close()
            os.close(self.life)
            os.waitpid(self.pid, 0)


def _run(keep: Keep, title: Title, connection: _socket.socket, reader: int, writer: int) -> None:
    code = 1
    try:
        close_all_but({0, 1, 2, connection.fileno(), reader, writer, held_executor()})
        try:
            order, descriptors = receive(connection)
        except Closed:
            code = 0
            return
        try:
            title.set(order["words"])
            _take_place(order, descriptors)
        except OSError as error:
            send(connection, {"failed": str(error)})
            return
        send(connection, {"placed": True})
        code = keep(connection, reader, writer)
    finally:
        os._exit(code)


def _take_place(order: dict[str, Any], descriptors: Sequence[int]) -> None:
    errors, maker, *files = descriptors
    for file in files:
        os.write(file, b"0")
    if order["kinds"]:
        from pysandbox.linux import setns

        setns(maker, order["kinds"])
    if os.getgroups() != order["groups"]:
        os.setgroups(order["groups"])
    if os.getgid() != order["gid"]:
        os.setresgid(order["gid"], order["gid"], order["gid"])
    os.umask(order["umask"])
    os.chdir("/")
    os.setsid()
    _prctl(_PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0)
    os.dup2(errors, 2)
    for descriptor in descriptors:
        os.close(descriptor)


def _namespace(process: int | str, name: str) -> str:
    return os.readlink(f"/proc/{process}/ns/{name}")
