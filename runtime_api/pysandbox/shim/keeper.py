"""The shim that is left while nobody asks it for anything: descriptors and children, and no memory of its own.

Serving, Python writes to the reference count of nearly all that it looks at: some 4 MiB of pages that a fork of the
server shares with nobody any more. So a shim is two processes. The *keeper* is what containerd takes for the shim: it
is the parent of all that is started, adopts orphans, and lives as long as the shim. It was forked before anything was
done (`pysandbox.warm.second`) and does next to nothing. Who *serves* has everything started by the keeper, as a command
of the warm start has it started by its launcher (docs/warm.md), with `spawn`, `reap`, `is_child` and `adopt`. When all
is quiet it says

    {"rest": n}, with a memfd that holds what it knows, n descriptors to watch, and all others that it holds

and ends. When one of those watched becomes readable, the keeper forks, and the fork goes on where the other stopped.
The first to serve is who has served `start`. `{"end": true}` is the end of both. One does not outlive the other: the
keeper ends when who serves is gone without a word, and the kernel kills who serves when the keeper is (`Life`).

A shim that was started cold serves by itself and never rests.
"""

from __future__ import annotations

import _socket
import contextlib
import errno
import gc
import os
import select
import time
from threading import RLock

from pysandbox.caller import become, current
from pysandbox.warm.launcher import Launcher
from pysandbox.warm.life import Life
from pysandbox.warm.wire import DESCRIPTOR_LIMIT, Closed, Truncated, receive, send

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from typing import Any

#: Seconds between two attempts to fork, where the kernel does not let us.
PAUSE = 0.1


class Kept(Launcher):
    """The keeper, seen from who serves: the caller of all its threads."""

    def __init__(self, connection: _socket.socket, pid: int) -> None:
        """`pid` is the keeper's."""
        super().__init__(connection, pid, frozenset())
        self._lock = RLock()

    def _begin(
        self,
        program: str | int,
        args: Sequence[str],
        env: Mapping[str, str] | None,
        streams: Sequence[int],
        *,
        group: bool,
    ) -> Any:
        with self._lock:  # the caller's environment is ours: the keeper has none
            return super()._begin(program, args, os.environ if env is None else env, streams, group=group)

    def _ask(self, request: dict[str, Any], key: str) -> Any:
        with self._lock:
            return super()._ask(request, key)

    def settle(self) -> None:
        """Take the answer to the last `begin`, if it is still to come."""
        with self._lock:
            super().settle()

    def rest(self, knowledge: int, watched: Sequence[int], others: Sequence[int]) -> None:
        """Leave all to the keeper: whoever calls this should end. Raises OSError where it has no room for it."""
        with self._lock:
            self._send({"rest": len(watched)}, [knowledge, *watched, *others])
            answer = self._receive()
        if "errno" in answer:
            raise OSError(answer["errno"], "the keeper has no room for what is to be left to it")

    def end(self) -> None:
        """Let the keeper end."""
        self._tell({"end": True})


def fits(descriptors: int) -> bool:
    """Say whether so many descriptors can be left to the keeper."""
    return descriptors < DESCRIPTOR_LIMIT


def keep(connection: _socket.socket, reader: int, writer: int) -> int:
    """Be the keeper of who is at the other end; return the exit code.

    `reader` and `writer` are the pipe that is the keeper's life: who serves is killed when no `writer` is left.
    """
    pid = 0
    while True:
        try:
            message, descriptors = _serve(connection)
        except (Closed, OSError):
            return 1
        if "end" in message:
            return 0
        with contextlib.suppress(Closed):
            send(connection, {"kept": True})
        connection.close()
        if pid:
            os.waitpid(pid, 0)
        connection, pid = _forked_when_asked(reader, writer, descriptors, message["rest"])
        for descriptor in descriptors:
            os.close(descriptor)


def _forked_when_asked(
    reader: int, writer: int, descriptors: Sequence[int], watched: int
) -> tuple[_socket.socket, int]:
    """Wait for something to do, fork, and return the connection to who does it, and its pid."""
    poll = select.poll()
    for descriptor in descriptors[1 : 1 + watched]:
        poll.register(descriptor, select.POLLIN)
    while True:
        poll.poll()
        try:
            ours, theirs = _socket.socketpair(_socket.AF_UNIX, _socket.SOCK_STREAM)
            pid = os.fork()  # noqa: TID251 (the keeper has one thread)
        except OSError:
            time.sleep(PAUSE)  # nothing is lost: it stays readable
            continue
        if not pid:
            _go_on(ours, theirs, reader, writer, descriptors, watched)
        theirs.close()
        return ours, pid


def _go_on(
    ours: _socket.socket, theirs: _socket.socket, reader: int, writer: int, descriptors: Sequence[int], watched: int
) -> None:
    """Serve, in the keeper's fork."""
    code = 1
    try:
        keeper = os.getppid()
        ours.close()
        os.close(writer)
        attend(theirs, reader, keeper)
        from pysandbox.shim.serving import go_on

        code = go_on(descriptors[0], descriptors[1:], watched)
    finally:
        os._exit(code)


def attend(connection: _socket.socket, life: int, keeper: int) -> None:
    """Become the one who serves: have everything started by the keeper, and end with it."""
    Life(life).share()
    become(Kept(connection, keeper))
    gc.enable()


# -- the keeper's side -------------------------------------------------------------------------------------------------


def _serve(connection: _socket.socket) -> tuple[dict[str, Any], list[int]]:
    """Do what only the parent of all can, until something else is said. Raises Closed, OSError."""
    while True:
        try:
            message, descriptors = receive(connection)
        except Truncated:
            send(connection, {"errno": errno.EMFILE})
            continue
        answer = _answer(message, descriptors)
        if answer is None:
            return message, descriptors
        send(connection, answer)


def _answer(asked: Mapping[str, Any], descriptors: list[int]) -> dict[str, Any] | None:
    try:
        if "spawn" in asked:
            return {"pid": _spawn(asked["spawn"], descriptors)}
        if "reap" in asked:
            return {"status": current().reap(asked["reap"])}
    except OSError as error:
        return {"errno": error.errno}
    if "is_child" in asked:
        return {"is_child": current().is_child(asked["is_child"])}
    if "adopt" in asked:
        return {"adopted": True}  # it has been so from the beginning
    return None


def _spawn(request: Mapping[str, Any], descriptors: Sequence[int]) -> int:
    """Start a program in the directory of who asks."""
    path, environment = request["program"], request["env"]
    *sent, directory = descriptors
    program = sent.pop(0) if path is None else path
    try:
        os.fchdir(directory)
        return current().spawn(
            program,
            request["args"],
            None if environment is None else dict(entry.split("=", 1) for entry in environment),
            [number if number >= 0 else sent[-number - 1] for number in request["streams"]],
            group=request["group"],
        )
    finally:
        os.chdir("/")
        for descriptor in descriptors:
            os.close(descriptor)
