"""Peers that break the protocol, stall, or flood: what is wrong is said, the rest goes on, memory stays bounded."""

from __future__ import annotations

import random
import socket
import time
from typing import TYPE_CHECKING

import pytest
from unit.ttrpc.peer import ECHO, Echo, Peer, until

from pysandbox.ttrpc.client import Client
from pysandbox.ttrpc.connection import UNSENT_LIMIT, WRITE_LIMIT
from pysandbox.ttrpc.errors import Code, RpcError
from pysandbox.ttrpc.frame import (
    DATA,
    HEADER,
    MESSAGE_LIMIT,
    NO_DATA,
    REMOTE_CLOSED,
    REMOTE_OPEN,
    REQUEST,
    RESPONSE,
    FrameReader,
)
from pysandbox.ttrpc.messages.request import Request, Response
from pysandbox.ttrpc.messages.wellknown import Any as AnyMessage
from pysandbox.ttrpc.messages.wellknown import Empty, Timestamp

if TYPE_CHECKING:
    from pysandbox.ttrpc.server import Server


def test_the_bytes_are_those_of_the_protocol(peer: Peer) -> None:
    # By hand: length 29, stream 1, request, no flags; then service (1), method (2), payload (3).
    request = b"\x0a\x09test.Echo\x12\x04Echo\x1a\x03\x12\x01!"
    peer.socket.sendall(
        b"\x00\x00\x00\x16\x00\x00\x00\x01\x01\x00"[:3] + bytes([len(request)]) + b"\x00\x00\x00\x01\x01\x00" + request
    )

    assert peer.receive() == (1, RESPONSE, 0, b"\x12\x03\x12\x01!")


def test_a_frame_may_come_byte_by_byte(peer: Peer) -> None:
    payload = Request(service="test.Echo", method="Echo").encode()
    for byte in HEADER.pack(len(payload), 1, REQUEST, 0) + payload:
        peer.socket.sendall(bytes([byte]))

    assert peer.response() == (1, 0, b"")


def test_requests_may_come_in_one_piece(peer: Peer) -> None:
    payload = Request(service="test.Echo", method="Echo").encode()
    peer.socket.sendall(
        b"".join(HEADER.pack(len(payload), stream, REQUEST, 0) + payload for stream in range(1, 401, 2))
    )

    assert sorted(peer.response()[0] for _ in range(200)) == list(range(1, 401, 2))


def test_an_oversized_frame_is_discarded_and_answered(peer: Peer) -> None:
    peer.frame(1, REQUEST, 0, bytes(MESSAGE_LIMIT + 1))

    assert peer.response()[:2] == (1, Code.RESOURCE_EXHAUSTED)
    peer.still_answered(3)


def test_a_frame_of_the_limit_is_served(peer: Peer) -> None:
    padding = MESSAGE_LIMIT - len(
        Request(service="test.Echo", method="Large", payload=bytes(MESSAGE_LIMIT - 100)).encode()
    )
    request = Request(service="test.Echo", method="Wrong", payload=bytes(MESSAGE_LIMIT - 100 + padding)).encode()
    assert len(request) == MESSAGE_LIMIT
    peer.frame(1, REQUEST, 0, request)

    assert peer.response()[:2] == (1, Code.INVALID_ARGUMENT)  # zeros are no field: it was read to its end
    peer.still_answered(3)


def test_a_length_of_four_gigabytes_takes_no_memory() -> None:
    reader = FrameReader()
    reader.feed(HEADER.pack(2**32 - 1, 1, REQUEST, 0))
    for _ in range(64):
        assert reader.feed(bytes(65536)) == []

    assert len(reader._buffer) == 0
    assert reader.partial


@pytest.mark.parametrize(
    ("stream", "kind", "payload", "code"),
    [
        (2, REQUEST, b"", Code.INVALID_ARGUMENT),
        (0, REQUEST, b"", Code.INVALID_ARGUMENT),
        (1, REQUEST, b"\xff", Code.INVALID_ARGUMENT),
        (1, REQUEST, b"", Code.UNIMPLEMENTED),
        (1, REQUEST, Request(service="test.Echo", method="secret").encode(), Code.UNIMPLEMENTED),
        (1, REQUEST, Request(service="test.Echo", method="__init__").encode(), Code.UNIMPLEMENTED),
        (1, REQUEST, Request(service="test.Echo", method="Echo", payload=b"\xff").encode(), Code.INVALID_ARGUMENT),
        (1, DATA, b"", Code.INVALID_ARGUMENT),
    ],
)
def test_a_bad_frame_is_answered_and_the_next_is_served(
    peer: Peer, stream: int, kind: int, payload: bytes, code: int
) -> None:
    peer.frame(stream, kind, 0, payload)

    assert peer.response()[:2] == (stream, code)
    peer.still_answered(3)


def test_unknown_types_are_ignored(peer: Peer) -> None:
    for kind in (0, RESPONSE, 4, 255):
        peer.frame(1, kind, 0xFF, b"x")

    peer.still_answered(1)


def test_numbers_of_streams_must_rise(peer: Peer) -> None:
    peer.still_answered(5)
    peer.request(5, "Echo")
    assert peer.response()[:2] == (5, Code.INVALID_ARGUMENT)
    peer.request(3, "Echo")
    assert peer.response()[:2] == (3, Code.INVALID_ARGUMENT)

    peer.still_answered(7)


def test_data_for_a_unary_call_is_refused(peer: Peer, echo: Echo) -> None:
    peer.request(1, "Wait")
    until(lambda: echo.waiting)
    peer.frame(1, DATA, 0, b"x")

    assert peer.response()[:2] == (1, Code.INVALID_ARGUMENT)
    peer.still_answered(3)


def test_a_stream_is_ended_by_an_empty_or_by_the_last_message(peer: Peer) -> None:
    peer.request(1, "Sum", flags=REMOTE_OPEN)
    peer.frame(1, DATA, 0, Timestamp(seconds=2).encode())
    peer.frame(1, DATA, REMOTE_CLOSED | NO_DATA, b"")
    assert peer.response() == (1, 0, Timestamp(seconds=2).encode())

    peer.request(3, "Sum", flags=REMOTE_OPEN)
    peer.frame(3, DATA, REMOTE_CLOSED, Timestamp(seconds=3).encode())
    assert peer.response() == (3, 0, Timestamp(seconds=3).encode())


def test_a_stream_of_the_server_ends_with_flags_and_no_response(server: Server, peer: Peer) -> None:
    peer.request(1, "Count", Timestamp(seconds=1).encode(), flags=REMOTE_CLOSED)

    assert peer.receive() == (1, DATA, 0, b"")
    assert peer.receive() == (1, DATA, REMOTE_CLOSED | NO_DATA, b"")
    until(lambda: not server._requests)
    peer.frame(1, DATA, 0, b"")
    assert peer.response()[:2] == (1, Code.INVALID_ARGUMENT)


def test_a_bad_message_of_a_stream_fails_the_call(peer: Peer) -> None:
    peer.request(1, "Sum", flags=REMOTE_OPEN)
    peer.frame(1, DATA, 0, b"\xff")

    assert peer.response()[:2] == (1, Code.INVALID_ARGUMENT)
    peer.still_answered(3)


def test_the_server_keeps_the_deadline_whatever_the_method_does(peer: Peer, echo: Echo) -> None:
    began = time.monotonic()
    peer.request(1, "Sleep", Timestamp(seconds=20).encode(), timeout_nano=200_000_000)

    assert peer.response()[:2] == (1, Code.DEADLINE_EXCEEDED)
    assert 0.15 < time.monotonic() - began < 5
    peer.request(3, "Wait", timeout_nano=1)
    assert peer.response()[:2] == (3, Code.DEADLINE_EXCEEDED)
    peer.request(5, "Wait", timeout_nano=-5)
    assert peer.response()[:2] == (5, Code.DEADLINE_EXCEEDED)
    peer.still_answered(7)
    echo.release.set()


def test_a_deadline_passes_while_a_frame_is_half_sent(peer: Peer, echo: Echo) -> None:
    peer.request(1, "Wait", timeout_nano=200_000_000)
    peer.socket.sendall(b"\0\0")

    assert peer.response()[:2] == (1, Code.DEADLINE_EXCEEDED)


def test_who_stalls_within_a_frame_is_cut_off(server: Server, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("pysandbox.ttrpc.connection.STALL_LIMIT", 0.2)
    ours, theirs = socket.socketpair()
    server.attach(theirs)
    idle, other = socket.socketpair()
    server.attach(other)
    peer = Peer(ours)
    peer.frame(1, REQUEST, 0, b"half", length=100)

    assert peer.at_end()
    Peer(idle).still_answered(1)  # no frame had begun
    idle.close()
    ours.close()


def test_who_does_not_read_is_cut_off(server: Server, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("pysandbox.ttrpc.connection.STALL_LIMIT", 0.3)
    ours, theirs = socket.socketpair()
    server.attach(theirs)
    connection = next(iter(server._connections))
    peer = Peer(ours)
    for stream in range(1, 9, 2):  # more than the kernel's buffers hold, less than the limit
        peer.request(stream, "Large", Timestamp(seconds=1_000_000).encode())

    until(lambda: connection not in server._connections)
    ours.close()


def test_who_asks_and_does_not_read_fills_no_memory(server: Server, echo: Echo) -> None:
    ours, theirs = socket.socketpair()
    server.attach(theirs)
    connection = next(iter(server._connections))
    peer, most = Peer(ours), 0
    for stream in range(1, 81, 2):
        peer.request(stream, "Hold")
    until(lambda: len(echo.waiting) == 40)
    for call in echo.waiting:
        call.answer(AnyMessage(value=bytes(1_000_000)))
        most = max(most, connection._unsent_bytes)

    assert WRITE_LIMIT < most <= UNSENT_LIMIT
    until(lambda: connection not in server._connections)
    ours.close()


def test_while_answers_are_not_read_nothing_more_is_read(server: Server) -> None:
    ours, theirs = socket.socketpair()
    server.attach(theirs)
    connection = next(iter(server._connections))
    peer = Peer(ours)
    for stream in range(1, 9, 2):
        peer.request(stream, "Large", Timestamp(seconds=1_000_000).encode())
    until(lambda: connection._unsent_bytes > WRITE_LIMIT and not server._requests)
    peer.request(9, "Echo")
    time.sleep(0.1)

    assert connection._last < 9
    assert [peer.response()[0] for _ in range(5)][-1] == 9
    ours.close()


def test_who_leaves_with_calls_under_way_leaves_nothing(server: Server, echo: Echo) -> None:
    ours, theirs = socket.socketpair()
    server.attach(theirs)
    peer = Peer(ours)
    for stream in range(1, 41, 2):
        peer.request(stream, "Wait")
    until(lambda: len(echo.waiting) == 20)
    ours.close()

    until(lambda: not server._connections)
    until(lambda: len(echo.errors) == 20)
    assert server._requests == server._bytes == 0


def test_noise_ends_no_server(server: Server, echo: Echo) -> None:
    echo.release.set()
    chance = random.Random(1)
    for _ in range(150):
        ours, theirs = socket.socketpair()
        server.attach(theirs)
        for _ in range(chance.randrange(1, 8)):
            payload = chance.randbytes(chance.randrange(40))
            if chance.random() < 0.6:
                name = chance.choice([*ECHO.methods, "x"])
                payload = Request(
                    service="test.Echo", method=name, payload=payload, timeout_nano=chance.randrange(3)
                ).encode()
            header = HEADER.pack(len(payload), chance.randrange(8), chance.randrange(5), chance.randrange(8))
            ours.sendall(header + payload if chance.random() < 0.9 else chance.randbytes(30))
        ours.close()

    until(lambda: not server._connections)
    until(lambda: server._requests == 0)
    ours, theirs = socket.socketpair()
    server.attach(theirs)
    Peer(ours).still_answered(1)
    ours.close()


# -- and servers ---------------------------------------------------------------------------------------------------------


@pytest.fixture
def pair() -> tuple[Client, Peer]:
    """A client, and the raw end of its server."""
    ours, theirs = socket.socketpair()
    return Client(ours), Peer(theirs)


def _failure(client: Client, peer: Peer, kind: int, payload: bytes, **header: int) -> int:
    pending = client.begin(ECHO, "Echo", AnyMessage(), timeout=5)
    stream = peer.receive()[0]
    peer.frame(stream, kind, 0, payload, **header)
    with pytest.raises(RpcError) as raised:
        pending.result()
    return raised.value.code


def test_a_client_refuses_what_is_no_answer(pair: tuple[Client, Peer]) -> None:
    client, peer = pair

    assert _failure(client, peer, RESPONSE, b"\xff") == Code.INTERNAL
    assert _failure(client, peer, RESPONSE, Response(payload=b"\xff").encode()) == Code.INTERNAL
    assert _failure(client, peer, DATA, b"") == Code.INTERNAL
    assert _failure(client, peer, RESPONSE, bytes(MESSAGE_LIMIT + 1)) == Code.RESOURCE_EXHAUSTED
    client.close()


def test_a_client_ignores_answers_that_it_did_not_ask_for(pair: tuple[Client, Peer]) -> None:
    client, peer = pair
    pending = client.begin(ECHO, "Echo", AnyMessage(), timeout=5)
    for stream in (0, 2, 7, 2**32 - 1):
        peer.frame(stream, RESPONSE, 0, b"")
    peer.frame(1, RESPONSE, 0, Response(payload=AnyMessage(type_url="x").encode()).encode())

    assert pending.result().type_url == "x"
    client.close()


def test_a_client_numbers_its_streams_oddly_and_flags_them(pair: tuple[Client, Peer]) -> None:
    client, peer = pair
    client.begin(ECHO, "Echo", AnyMessage())
    client.stream(ECHO, "Count", Timestamp(seconds=1))
    both = client.stream(ECHO, "Both")
    both.send(Timestamp(seconds=1))
    both.close_send()

    assert [peer.receive()[:3] for _ in range(5)] == [
        (1, REQUEST, 0), (3, REQUEST, REMOTE_CLOSED), (5, REQUEST, REMOTE_OPEN), (5, DATA, 0), (5, DATA, REMOTE_CLOSED | NO_DATA),
    ]  # fmt: skip
    client.close()


def test_a_client_says_how_long_it_waits(pair: tuple[Client, Peer]) -> None:
    client, peer = pair
    client.begin(ECHO, "Echo", AnyMessage(), timeout=2, metadata={"containerd-namespace-ttrpc": ["k8s.io"]})
    request = Request.decode(peer.receive()[3])

    assert request.timeout_nano == 2_000_000_000
    assert [(pair.key, pair.value) for pair in request.metadata] == [("containerd-namespace-ttrpc", "k8s.io")]
    client.close()


def test_all_calls_fail_when_the_server_goes(pair: tuple[Client, Peer]) -> None:
    client, peer = pair
    pending = [client.begin(ECHO, "Wait", Empty()) for _ in range(10)]
    stream = client.stream(ECHO, "Both")
    peer.socket.close()

    for each in (*pending, stream):
        with pytest.raises(RpcError) as raised:
            each.receive() if each is stream else each.result()  # type: ignore[union-attr]
        assert raised.value.code == Code.UNAVAILABLE
    with pytest.raises(RpcError) as raised:
        client.call(ECHO, "Echo", AnyMessage())
    assert raised.value.code == Code.UNAVAILABLE
    client.close()
