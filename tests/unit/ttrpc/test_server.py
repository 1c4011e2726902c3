"""The server through its own client: answers, errors, deadlines, streams, and many at a time."""

from __future__ import annotations

import _socket
import os
import socket
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING

import pytest
from unit.ttrpc.peer import ECHO, Echo, Peer, until

from pysandbox.ttrpc.client import Client
from pysandbox.ttrpc.errors import Code, RpcError
from pysandbox.ttrpc.frame import MESSAGE_LIMIT
from pysandbox.ttrpc.messages.wellknown import Any as AnyMessage
from pysandbox.ttrpc.messages.wellknown import Empty, Timestamp
from pysandbox.ttrpc.server import Limits, Server
from pysandbox.ttrpc.service import Service

if TYPE_CHECKING:
    from pathlib import Path


def _code(client: Client, method: str, request: object, **options: object) -> int:
    with pytest.raises(RpcError) as raised:
        client.call(ECHO, method, request, **options)  # type: ignore[arg-type]
    return raised.value.code


def test_a_call_is_answered(client: Client) -> None:
    assert client.call(ECHO, "Echo", AnyMessage(type_url="a", value=b"\0"), timeout=5) == AnyMessage(
        type_url="a", value=b"\0"
    )


def test_a_failure_comes_with_code_text_and_details(client: Client) -> None:
    with pytest.raises(RpcError, match="^no such thing$") as raised:
        client.call(ECHO, "Fail", AnyMessage(type_url="detail", value=b"1"))

    assert raised.value.code == Code.NOT_FOUND
    assert raised.value.details == [AnyMessage(type_url="detail", value=b"1")]


def test_of_a_bug_only_its_type_is_told(client: Client) -> None:
    with pytest.raises(RpcError, match="^internal error: KeyError$") as raised:
        client.call(ECHO, "Fail", AnyMessage(type_url="bug"))

    assert raised.value.code == Code.UNKNOWN


def test_the_server_may_translate_what_methods_raise(echo: Echo) -> None:
    server = Server(translate=lambda error: RpcError(Code.ABORTED, f"told: {type(error).__name__}"))
    server.register(ECHO, echo)
    ours, theirs = socket.socketpair()
    server.attach(theirs)

    with Client(ours) as client, pytest.raises(RpcError, match="told: KeyError"):
        client.call(ECHO, "Fail", AnyMessage(type_url="bug"))
    server.close()


def test_what_is_not_implemented_is_said_with_its_name(client: Client) -> None:
    other = Service("test.Other", tuple(ECHO.methods.values()))

    with pytest.raises(RpcError, match="test.Other") as raised:
        client.call(other, "Echo", AnyMessage())
    assert raised.value.code == Code.UNIMPLEMENTED
    with pytest.raises(RpcError, match="test.Echo/Missing") as raised:
        client.call(ECHO, "Missing", Empty())
    assert raised.value.code == Code.UNIMPLEMENTED


def test_metadata_and_time_left_reach_the_method(client: Client) -> None:
    answer = client.call(
        ECHO, "Metadata", AnyMessage(type_url="k-one"), timeout=100, metadata={"K-One": ["a", "b"], "other": ["c"]}
    )

    assert answer == AnyMessage(type_url="a,b", value=b"100")


def test_an_answer_of_the_wrong_type_is_an_internal_error(client: Client) -> None:
    assert _code(client, "Wrong", Empty()) == Code.INTERNAL


def test_a_slow_method_holds_up_no_other(client: Client, echo: Echo) -> None:
    slow = [client.begin(ECHO, "Sleep", Timestamp(seconds=20)) for _ in range(8)]

    assert client.call(ECHO, "Echo", AnyMessage(type_url="quick"), timeout=5).type_url == "quick"
    assert not any(each.done() for each in slow)
    echo.release.set()
    assert [each.result() for each in slow] == [Empty()] * 8


def test_a_deferred_call_holds_no_thread(client: Client, echo: Echo) -> None:
    before = threading.active_count()
    waits = [client.begin(ECHO, "Wait", Empty()) for _ in range(2000)]
    until(lambda: len(echo.waiting) == 2000)

    assert threading.active_count() - before <= 64
    for number, call in enumerate(echo.waiting):
        call.answer(Timestamp(seconds=number))
    assert sorted(wait.result().seconds for wait in waits) == list(range(2000))


def test_a_second_answer_is_dropped(client: Client, echo: Echo) -> None:
    wait = client.begin(ECHO, "Wait", Empty(), timeout=5)
    until(lambda: echo.waiting)
    echo.waiting[0].answer(Timestamp(seconds=1))
    echo.waiting[0].answer(Timestamp(seconds=2))
    echo.waiting[0].fail(RpcError(Code.ABORTED, "late"))

    assert wait.result().seconds == 1
    assert client.call(ECHO, "Echo", AnyMessage(), timeout=5) == AnyMessage()


def test_the_client_waits_no_longer_than_it_said(client: Client) -> None:
    began = time.monotonic()

    assert _code(client, "Sleep", Timestamp(seconds=20), timeout=0.2) == Code.DEADLINE_EXCEEDED
    assert time.monotonic() - began < 5


def test_a_method_is_told_when_its_client_is_gone(server: Server, echo: Echo) -> None:
    ours, theirs = socket.socketpair()
    server.attach(theirs)
    client = Client(ours)
    wait = client.begin(ECHO, "Wait", Empty())
    until(lambda: echo.waiting)
    client.close()

    assert echo.gone.wait(5)
    assert echo.errors[0].code == Code.CANCELED
    with pytest.raises(RpcError) as raised:
        wait.result()
    assert raised.value.code == Code.UNAVAILABLE
    echo.waiting[0].answer(Timestamp())  # harmless


def test_a_cancelled_call_is_forgotten(client: Client, echo: Echo) -> None:
    wait = client.begin(ECHO, "Wait", Empty())
    wait.cancel()

    with pytest.raises(RpcError) as raised:
        wait.result()
    assert raised.value.code == Code.CANCELED
    until(lambda: echo.waiting)
    echo.waiting[0].answer(Timestamp())
    assert client.call(ECHO, "Echo", AnyMessage(), timeout=5) == AnyMessage()


def test_too_large_an_answer_is_an_error_of_that_call_alone(client: Client) -> None:
    assert _code(client, "Large", Timestamp(seconds=MESSAGE_LIMIT)) == Code.RESOURCE_EXHAUSTED
    assert (
        len(client.call(ECHO, "Large", Timestamp(seconds=MESSAGE_LIMIT - 100), timeout=10).value) == MESSAGE_LIMIT - 100
    )


def test_too_large_a_request_is_not_sent(client: Client) -> None:
    assert _code(client, "Echo", AnyMessage(value=bytes(MESSAGE_LIMIT))) == Code.RESOURCE_EXHAUSTED
    assert client.call(ECHO, "Echo", AnyMessage(), timeout=5) == AnyMessage()


def test_the_client_streams(client: Client) -> None:
    stream = client.stream(ECHO, "Sum", timeout=20)
    for number in range(1000):
        stream.send(Timestamp(seconds=number))
    stream.close_send()

    assert stream.receive() == Timestamp(seconds=499500)
    assert stream.receive() is None


def test_the_server_streams(client: Client) -> None:
    stream = client.stream(ECHO, "Count", Timestamp(seconds=1000), timeout=20)
    got = []
    while (message := stream.receive()) is not None:
        got.append(message.seconds)

    assert got == list(range(1000))


def test_both_stream(client: Client) -> None:
    stream = client.stream(ECHO, "Both", timeout=20)
    for number in range(100):
        stream.send(Timestamp(seconds=number))
        assert stream.receive() == Timestamp(seconds=number)
    stream.close_send()

    assert stream.receive() is None


def test_a_stream_that_nobody_reads_fails_and_holds_up_no_other_for_long(
    client: Client, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("pysandbox.ttrpc.connection.STREAM_PATIENCE", 0.2)
    stream = client.stream(ECHO, "Deaf")
    for number in range(200):
        stream.send(Timestamp(seconds=number))

    with pytest.raises(RpcError, match="faster than they are taken") as raised:
        stream.receive()
    assert raised.value.code == Code.RESOURCE_EXHAUSTED
    assert client.call(ECHO, "Echo", AnyMessage(), timeout=5) == AnyMessage()


def test_many_threads_share_a_connection(client: Client) -> None:
    def one(number: int) -> bool:
        value = AnyMessage(type_url=str(number), value=bytes(number % 5000))
        return bool(client.call(ECHO, "Echo", value, timeout=30) == value)

    with ThreadPoolExecutor(16) as pool:
        assert all(pool.map(one, range(2000)))


@pytest.mark.parametrize("limits", [Limits(requests=10)])
def test_more_requests_than_allowed_are_refused(client: Client, echo: Echo) -> None:
    waits = [client.begin(ECHO, "Wait", Empty()) for _ in range(10)]
    until(lambda: len(echo.waiting) == 10)

    assert _code(client, "Wait", Empty(), timeout=5) == Code.RESOURCE_EXHAUSTED
    for call in echo.waiting:
        call.answer(Timestamp())
    assert [wait.result() for wait in waits] == [Timestamp()] * 10
    assert client.call(ECHO, "Echo", AnyMessage(), timeout=5) == AnyMessage()


@pytest.mark.parametrize("limits", [Limits(in_flight=1_000_000)])
def test_more_bytes_under_way_than_allowed_are_refused(client: Client) -> None:
    assert _code(client, "Echo", AnyMessage(value=bytes(1_000_000)), timeout=5) == Code.RESOURCE_EXHAUSTED
    for _ in range(3):
        assert len(client.call(ECHO, "Echo", AnyMessage(value=bytes(900_000)), timeout=5).value) == 900_000


@pytest.mark.parametrize("limits", [Limits(threads=2)])
def test_requests_wait_for_a_thread(client: Client, echo: Echo) -> None:
    slow = [client.begin(ECHO, "Sleep", Timestamp(seconds=20)) for _ in range(6)]
    until(lambda: echo.sleeping == 2)
    time.sleep(0.05)

    assert echo.sleeping == 2
    echo.release.set()
    assert [each.result() for each in slow] == [Empty()] * 6


@pytest.mark.parametrize("limits", [Limits(connections=2)])
def test_more_connections_than_allowed_are_closed(server: Server) -> None:
    pairs = [socket.socketpair() for _ in range(3)]

    assert [server.attach(theirs) for _, theirs in pairs] == [True, True, False]
    assert pairs[2][0].recv(1) == b""
    for ours, _ in pairs:
        ours.close()


def test_who_is_not_admitted_is_closed(echo: Echo) -> None:
    server = Server(admit=lambda connected: False)
    ours, theirs = socket.socketpair()

    assert not server.attach(theirs)
    assert ours.recv(1) == b""
    server.close()


def test_a_server_on_a_path_serves_until_it_is_closed(server: Server, tmp_path: Path) -> None:
    path = str(tmp_path / "s")
    listener = _socket.socket(_socket.AF_UNIX, _socket.SOCK_STREAM)
    listener.bind(path)
    listener.listen()
    thread = threading.Thread(target=server.serve, args=(listener,))
    thread.start()

    with Client.connect(path) as one, Client.connect(path) as two:
        assert one.call(ECHO, "Echo", AnyMessage(type_url="1"), timeout=5).type_url == "1"
        assert two.call(ECHO, "Echo", AnyMessage(type_url="2"), timeout=5).type_url == "2"
        server.close(1)
        thread.join(5)
        assert not thread.is_alive()
        assert _code(one, "Echo", AnyMessage(), timeout=5) == Code.UNAVAILABLE
    with pytest.raises(ConnectionRefusedError):
        Client.connect(path)


def test_closing_lets_a_request_end(server: Server, echo: Echo) -> None:
    ours, theirs = socket.socketpair()
    server.attach(theirs)
    client = Client(ours)
    slow = client.begin(ECHO, "Sleep", Timestamp(seconds=20))
    until(lambda: echo.sleeping == 1)
    threading.Timer(0.2, echo.release.set).start()
    server.close(5)

    assert slow.result() == Empty()
    client.close()


def test_threads_that_idle_end(client: Client, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("pysandbox.ttrpc.pool.LINGER", 0.05)
    before = threading.active_count()
    for each in [client.begin(ECHO, "Sleep", Timestamp(seconds=0)) for _ in range(20)]:
        each.result()

    until(lambda: threading.active_count() <= before)


def test_a_server_and_its_clients_leave_no_descriptor(echo: Echo) -> None:
    def once() -> None:
        server = Server()
        server.register(ECHO, echo)
        ours, theirs = socket.socketpair()
        server.attach(theirs)
        with Client(ours) as client:
            client.call(ECHO, "Echo", AnyMessage())
        server.close()

    once()
    before = len(os.listdir("/proc/self/fd"))
    for _ in range(10):
        once()

    until(lambda: len(os.listdir("/proc/self/fd")) <= before)


# -- leaving it alone --------------------------------------------------------------------------------------------------


def test_another_server_goes_on_with_a_connection_and_with_who_waits_on_it(
    server: Server, client: Client, echo: Echo
) -> None:
    """As a shim that rests and is woken, where the other server is in another process."""
    waits = client.begin(ECHO, "Wait", Empty())
    until(lambda: len(echo.waiting) == 1)
    parked = server.park(5)
    assert parked is not None
    ((connection, rested),) = parked.items()
    (waiting,) = echo.waiting
    assert waiting.is_of(connection)
    asked = client.begin(ECHO, "Echo", AnyMessage(type_url="a"))
    other, taken = Server(), []
    other.register(ECHO, Echo())

    descriptor = os.dup(rested.descriptor)
    other.resume(socket.socket(fileno=descriptor), rested.last, [waiting.stream], ECHO.methods["Wait"], taken.extend)

    assert asked.result() == AnyMessage(type_url="a")
    taken[0].answer(Timestamp(seconds=7))
    assert waits.result() == Timestamp(seconds=7)
    assert client.call(ECHO, "Echo", AnyMessage(type_url="b"), timeout=5) == AnyMessage(type_url="b")
    assert other.under_way == 0
    other.close()
    server.unpark()


def test_a_server_that_was_parked_can_go_on_itself(server: Server, client: Client) -> None:
    assert server.park(5) is not None
    asked = client.begin(ECHO, "Echo", AnyMessage(type_url="a"))

    server.unpark()

    assert asked.result() == AnyMessage(type_url="a")


def test_a_server_does_not_park_in_the_middle_of_a_frame(server: Server, peer: Peer) -> None:
    peer.socket.send(bytes(5))
    until(lambda: any(each._reader.partial for each in server._connections))

    assert server.park(0.1) is None
    server.unpark()
