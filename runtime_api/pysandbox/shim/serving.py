"""Serving tasks until containerd says that it is enough, or until all is quiet and the keeper can have it all.

What another process goes on with is small: for each container its names, settings, pid and open descriptors, for each
connection the last stream and the `Wait`s that are to be answered. So a shim rests only while it has nothing but
containers whose init runs, and neither an exec, a terminal, a logger nor an event that containerd has not taken.
"""

from __future__ import annotations

import _socket
import contextlib
import json
import os
import time
from threading import Thread

from pysandbox.caller import current
from pysandbox.cgroup import oom
from pysandbox.config import Config
from pysandbox.lifecycle import Runtime
from pysandbox.shim import keeper, namespace
from pysandbox.shim.keeper import Kept
from pysandbox.shim.messages.task import Task as Service
from pysandbox.shim.messages.task_v3 import Task as ServiceV3
from pysandbox.shim.publisher import Publisher
from pysandbox.shim.reaper import Reaper
from pysandbox.shim.service import TaskService, translate
from pysandbox.shim.stdio import Names, Streams
from pysandbox.shim.task import RUNNING, Process, Task
from pysandbox.shim.warning import warn
from pysandbox.ttrpc.server import Server
from pysandbox.warm.memory import give_back

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from typing import Any

    from pysandbox.ttrpc.connection import Connection
    from pysandbox.ttrpc.server import Call, Rested

#: Seconds at the end for events to be told and answers to be sent; containerd gives 3 (shim.shutdown).
LAST_EVENTS, LAST_ANSWERS = 1.5, 0.5
#: Seconds without a word from containerd after which a shim rests, and between two looks whether it can.
QUIET, LOOK = 1.0, 0.5
#: Seconds for frames that are under way, when it is about to rest.
PARKING = 0.2


class Busy(Exception):
    """Something is under way that no other process could go on with."""


class Descriptors:
    """What is left to another process: a place, ascending for those to watch, below zero for the others."""

    def __init__(self, watched: Sequence[int] = (), others: Sequence[int] = ()) -> None:
        self.watched, self.others = list(watched), list(others)

    def watch(self, descriptor: int) -> int:
        """Add one that has the shim woken when it is readable, and return its place."""
        self.watched.append(descriptor)
        return len(self.watched) - 1

    def hold(self, descriptor: int) -> int:
        """Add another and return its place."""
        self.others.append(descriptor)
        return -len(self.others)

    def at(self, place: int) -> int:
        """Return the one at a place."""
        return self.watched[place] if place >= 0 else self.others[-place - 1]


class Serving:
    """The services of one shim: of `namespace`, on a socket that is listened at, with a backend if the shim has one."""

    def __init__(self, space: str, backend: str | None, listener: _socket.socket) -> None:
        self._space, self._backend, self._listener = space, backend, listener
        self._path = listener.getsockname()
        current().adopt()
        self._store = namespace.enter(space)
        self._publisher = Publisher(os.environ.get("TTRPC_ADDRESS", ""), space, warn)
        self._reaper = Reaper()
        self._service = TaskService(self._store, self._publisher, self._reaper, warn, backend)
        self._server = Server(translate=translate, rested=give_back)
        self._server.register(Service, self._service)
        self._server.register(ServiceV3, self._service)

    def run(self) -> int:
        """Serve; return the exit code."""
        Thread(target=self._server.serve, args=(self._listener,), name="accept", daemon=True).start()
        caller = current()
        if not isinstance(caller, Kept):
            self._service.stopping.wait()
        else:
            while not self._service.stopping.wait(LOOK):
                if self._is_quiet() and self._rest(caller):
                    return 0
        self._end()
        if isinstance(caller, Kept):
            caller.end()
        return 0

    def _end(self) -> None:
        self._publisher.close(LAST_EVENTS)
        with contextlib.suppress(FileNotFoundError):
            os.unlink(self._path)
        self._server.close(LAST_ANSWERS)
        namespace.leave(self._store)

    # -- resting -------------------------------------------------------------------------------------------------------

    def _is_quiet(self) -> bool:
        """Say whether it is worth trying: what is under way now may well be so for hours."""
        if time.monotonic() - self._server.heard_at < QUIET or self._publisher.busy:
            return False
        try:
            return bool([_task_left(task, Descriptors()) for task in self._service.tasks or ()])
        except (Busy, OSError):  # OSError: a process has ended in this moment
            return False

    def _rest(self, keeper: Kept) -> bool:
        """Leave all to the keeper, or go on here."""
        try:
            connections = self._server.park(PARKING)
            self._reaper.stop()
            try:
                held = Descriptors()
                knowledge = json.dumps(self._knowledge(connections, held)).encode()
            except (Busy, TypeError):
                # TypeError: settings that have times in them
                return self._go_on()
            with open(os.memfd_create("shim", os.MFD_CLOEXEC), "wb", buffering=0) as file:
                file.write(knowledge)
                keeper.rest(file.fileno(), held.watched, held.others)
        except OSError:  # no descriptor to be had
            return self._go_on()
        return True

    def _go_on(self) -> bool:
        self._server.heard_at = time.monotonic()  # the next attempt is to come later
        self._reaper.go_on()
        self._server.unpark()
        return False

    def _knowledge(self, connections: Mapping[Connection, Rested] | None, held: Descriptors) -> dict[str, Any]:
        tasks = self._service.tasks
        if connections is None or not tasks or self._server.pool.busy or self._publisher.busy:
            raise Busy
        waits = {connection: _waits(tasks, connection) for connection in connections}
        if sum(map(len, waits.values())) != self._server.under_way:
            raise Busy
        known = {
            "namespace": self._space,
            "backend": self._backend,
            "environment": dict(os.environ),
            "listener": held.watch(self._listener.fileno()),
            "tasks": [_task_left(task, held) for task in tasks],
            "connections": [
                (held.watch(rested.descriptor), rested.last, waits[connection])
                for connection, rested in connections.items()
            ],
        }
        if not keeper.fits(len(held.watched) + len(held.others)):
            raise Busy
        return known

    def take_over(self, known: Mapping[str, Any], held: Descriptors) -> None:
        """Go on with what another process has left."""
        for each in known["tasks"]:
            self._service.take_over(*_task_taken(each, held, self._store))
        for place, last, waits in known["connections"]:
            streams = [stream for stream, _ in waits]

            def begin(calls: Sequence[Call], waits: Sequence[tuple[int, str]] = waits) -> None:
                for call, (_, task_id) in zip(calls, waits, strict=True):
                    self._service.wait_again(task_id, call)

            connected = _socket.socket(fileno=held.at(place))
            self._server.resume(connected, last, streams, Service.methods["Wait"], begin)


def go_on(knowledge: int, descriptors: Sequence[int], watched: int) -> int:
    """Serve, in the keeper's fork, with what the process before has left; return the exit code."""
    with open(knowledge, "rb", buffering=0) as file:
        known = json.loads(os.pread(file.fileno(), os.fstat(file.fileno()).st_size, 0))
    held = Descriptors(descriptors[:watched], descriptors[watched:])
    os.environ.clear()
    os.environ.update(known["environment"])
    listener = _socket.socket(fileno=held.at(known["listener"]))
    serving = Serving(known["namespace"], known["backend"], listener)
    serving.take_over(known, held)
    return serving.run()


def _waits(tasks: Sequence[Task], connection: Connection) -> list[tuple[int, str]]:
    """Return stream and task of each `Wait` for an init that came by a connection. Raises Busy."""
    found = []
    for task in tasks:
        for call in list(task.init.waiters):
            if call.is_of(connection):
                if call.deadline is not None:
                    raise Busy
                found.append((call.stream, task.id))
    return found


_SETTINGS = tuple(Config.__slots__)


def _task_left(task: Task, held: Descriptors) -> dict[str, Any]:
    """Return what is known of a task. Raises Busy."""
    init, streams = task.init, task.init.streams
    left = streams.left() if streams is not None else None
    if init.status != RUNNING or task.execs or task.shares_pids or task.init_end is not None or left is None:
        raise Busy
    assert streams is not None
    kept, unread = left
    memory = None
    if task.memory is not None:
        watch = task.memory.left()
        if watch is None:
            raise Busy
        what, (first, *rest) = watch
        memory = what, held.watch(first), [held.hold(each) for each in rest]
    return {
        "id": task.id,
        "bundle": task.bundle,
        "paused": task.paused,
        "config": [getattr(task.runtime.config, name) for name in _SETTINGS],
        "pid": init.pid,
        "pidfd": held.watch(init.pidfd),
        "names": [getattr(init.names, name) for name in Names.__slots__],
        "kept": {name: held.hold(descriptor) for name, descriptor in kept.items()},
        "unread": unread,
        "input": held.watch(streams.followed) if streams.followed >= 0 else None,
        "memory": memory,
    }


def _task_taken(left: Mapping[str, Any], held: Descriptors, store: Any) -> tuple[Task, oom.OomWatch | None]:
    names = Names(**dict(zip(Names.__slots__, map(_frozen, left["names"]), strict=True)))
    config = Config(**dict(zip(_SETTINGS, map(_frozen, left["config"]), strict=True)))
    init = Process("", names)
    init.began(left["pid"], held.at(left["pidfd"]))
    init.status = RUNNING
    kept = {name: held.at(place) for name, place in left["kept"].items()}
    watch = -1 if left["input"] is None else held.at(left["input"])
    init.streams = Streams.resumed(names, kept, left["unread"], watch)
    runtime = Runtime(store=store, warn=warn, config=config)
    task = Task(left["id"], left["bundle"], runtime, init, shares_pids=False)
    task.paused = left["paused"]
    memory = None
    if left["memory"] is not None:
        what, first, rest = left["memory"]
        memory = oom.resumed(what, [held.at(first), *(held.at(each) for each in rest)])
    return task, memory


def _frozen(value: Any) -> Any:
    """Return what JSON has made a list of as the tuple that it was."""
    return tuple(value) if isinstance(value, list) else value
