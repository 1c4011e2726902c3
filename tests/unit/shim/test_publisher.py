"""Events reach containerd in order, whenever it comes back, under names that every version resolves."""

from __future__ import annotations

import _socket
import threading
from typing import TYPE_CHECKING

import pytest
from unit.ttrpc.peer import until

from pysandbox.shim.messages.events import TaskExit, TaskStart
from pysandbox.shim.messages.forward import Events
from pysandbox.shim.publisher import Publisher
from pysandbox.ttrpc.errors import Code, RpcError
from pysandbox.ttrpc.messages.wellknown import Empty
from pysandbox.ttrpc.server import Server

if TYPE_CHECKING:
    from pathlib import Path

    from pysandbox.shim.messages.forward import ForwardRequest
    from pysandbox.ttrpc.server import Call


class Containerd:
    """Takes events on a socket; can be away, and can refuse."""

    def __init__(self, path: Path) -> None:
        self.path, self.envelopes, self.refused = str(path), [], 0
        self.server: Server | None = None

    def come(self) -> None:
        listener = _socket.socket(_socket.AF_UNIX, _socket.SOCK_STREAM)
        listener.bind(self.path)
        listener.listen()
        self.server = Server()
        self.server.register(Events, self)
        threading.Thread(target=self.server.serve, args=(listener,)).start()

    def go(self) -> None:
        import os

        if self.server is not None:
            self.server.close()
            os.unlink(self.path)
            self.server = None

    def Forward(self, request: ForwardRequest, call: Call) -> Empty:
        assert request.envelope is not None
        assert request.envelope.event is not None
        if request.envelope.topic == "/tasks/bad":
            self.refused += 1
            raise RpcError(Code.INVALID_ARGUMENT, "not this one")
        self.envelopes.append(request.envelope)
        return Empty()

    def pids(self) -> list[int]:
        return [TaskStart.decode(each.event.value).pid for each in self.envelopes]


@pytest.fixture
def containerd(tmp_path: Path):  # type: ignore[no-untyped-def]
    containerd = Containerd(tmp_path / "c")
    yield containerd
    containerd.go()


def test_an_event_has_namespace_topic_time_and_a_bare_type_name(containerd: Containerd) -> None:
    containerd.come()
    publisher = Publisher(f"unix://{containerd.path}", "k8s.io", print)
    publisher.publish("exit", TaskExit(container_id="web", exit_status=7))
    publisher.close(5)

    (envelope,) = containerd.envelopes
    assert (envelope.namespace, envelope.topic) == ("k8s.io", "/tasks/exit")
    assert envelope.event.type_url == "containerd.events.TaskExit"
    assert TaskExit.decode(envelope.event.value) == TaskExit(container_id="web", exit_status=7)
    assert envelope.timestamp.seconds > 1_600_000_000


def test_events_wait_for_containerd_in_order(containerd: Containerd, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("pysandbox.shim.publisher.LONGEST_PAUSE", 0.05)
    publisher = Publisher(containerd.path, "default", print)
    for number in range(1, 101):
        publisher.publish("start", TaskStart(pid=number))
        if number in (20, 60):
            containerd.come()
            until(lambda: containerd.envelopes)
        if number == 40:
            containerd.go()
    publisher.close(5)

    assert sorted(set(containerd.pids())) == list(range(1, 101))
    # At the moment it went, one may have been taken whose answer was lost: it is sent again, in its place.
    assert containerd.pids() == sorted(containerd.pids())
    assert len(containerd.pids()) <= 101


def test_what_containerd_refuses_holds_up_nothing(containerd: Containerd, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("pysandbox.shim.publisher.FIRST_PAUSE", 0.001)
    containerd.come()
    lines: list[str] = []
    publisher = Publisher(containerd.path, "default", lines.append)
    publisher.publish("bad", TaskStart(pid=1))
    publisher.publish("start", TaskStart(pid=2))
    publisher.close(5)

    assert containerd.pids() == [2]
    assert containerd.refused == 5
    assert lines == ["containerd refuses an event: not this one"]


def test_the_queue_is_limited(containerd: Containerd, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("pysandbox.shim.publisher.QUEUE_LIMIT", 10)
    lines: list[str] = []
    publisher = Publisher(containerd.path, "default", lines.append)
    for number in range(12):
        publisher.publish("start", TaskStart(pid=number))

    assert len(publisher._queue) == 10
    assert lines == ["event /tasks/start is lost: 10 others wait for containerd"] * 2
    publisher.close(0)


def test_without_an_address_there_is_nobody_to_tell() -> None:
    publisher = Publisher("", "default", print)
    publisher.publish("start", TaskStart())
    publisher.close(0)
