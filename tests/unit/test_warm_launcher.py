"""The launcher as the process that serves it sees it: what it is asked to start, and when the answer is taken."""

from __future__ import annotations

import os
import socket
from collections.abc import Iterator

import pytest

from pysandbox.warm import wire
from pysandbox.warm.launcher import Launcher

TRUE = "/bin/true"


class Served(Launcher):
    """A launcher that is nothing but a connection."""

    def __init__(self, connection: socket.socket) -> None:
        self._connection = connection  # type: ignore[assignment]
        self._own = frozenset()


@pytest.fixture
def ends() -> Iterator[tuple[socket.socket, socket.socket]]:
    here, there = socket.socketpair()
    there.settimeout(5)
    with here, there:
        yield here, there


def asked(there: socket.socket) -> str:
    """Return which request comes next."""
    message, descriptors = wire.receive(there)
    for descriptor in descriptors:
        os.close(descriptor)
    (name,) = message
    return str(name)


def test_a_start_is_asked_for_without_waiting_for_the_answer(ends: tuple[socket.socket, socket.socket]) -> None:
    here, there = ends
    start = Served(here).begin(TRUE, [TRUE], {}, [])
    assert asked(there) == "spawn"
    wire.send(there, {"pid": 7})
    assert [start.pid(), start.pid()] == [7, 7]


def test_another_request_takes_the_answer_to_a_start_first(ends: tuple[socket.socket, socket.socket]) -> None:
    here, there = ends
    launcher = Served(here)
    for answer in ({"pid": 7}, {"status": None}, {"pid": 8}, {"pid": 9}):
        wire.send(there, answer)
    first = launcher.begin(TRUE, [TRUE], {}, [])
    assert launcher.reap(7) is None
    second = launcher.begin(TRUE, [TRUE], {}, [])
    third = launcher.spawn(TRUE, [TRUE], {}, [])
    assert (first.pid(), second.pid(), third) == (7, 8, 9)
    assert [asked(there) for _ in range(4)] == ["spawn", "reap", "spawn", "spawn"]


def test_a_program_that_did_not_start_is_told_where_its_pid_is_asked_for(
    ends: tuple[socket.socket, socket.socket],
) -> None:
    here, there = ends
    launcher = Served(here)
    wire.send(there, {"errno": 2})
    wire.send(there, {"is_child": True})
    start = launcher.begin("/not/there", ["x"], {}, [])
    assert launcher.is_child(5)
    for _ in range(2):
        with pytest.raises(FileNotFoundError, match="/not/there"):
            start.pid()


def test_a_launcher_that_has_died_takes_the_process_with_it(ends: tuple[socket.socket, socket.socket]) -> None:
    here, there = ends
    start = Served(here).begin(TRUE, [TRUE], {}, [])
    there.close()
    with pytest.raises(SystemExit):
        start.pid()
