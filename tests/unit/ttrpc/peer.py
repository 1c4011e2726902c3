"""A service to call, and a peer that says what it likes."""

from __future__ import annotations

import threading
import time
from typing import TYPE_CHECKING, Any

from pysandbox.ttrpc.errors import Code, RpcError
from pysandbox.ttrpc.frame import HEADER, REQUEST, RESPONSE
from pysandbox.ttrpc.messages.request import Request, Response
from pysandbox.ttrpc.messages.wellknown import Any as AnyMessage
from pysandbox.ttrpc.messages.wellknown import Empty, Timestamp
from pysandbox.ttrpc.service import Method, Service

if TYPE_CHECKING:
    import socket

    from pysandbox.ttrpc.server import Call

ECHO = Service(
    "test.Echo",
    (
        Method("Echo", AnyMessage, AnyMessage),
        Method("Sleep", Timestamp, Empty),
        Method("Fail", AnyMessage, Empty),
        Method("Wait", Empty, Timestamp),
        Method("Hold", Empty, AnyMessage),
        Method("Wrong", Empty, Timestamp),
        Method("Missing", Empty, Empty),
        Method("Metadata", AnyMessage, AnyMessage),
        Method("Large", Timestamp, AnyMessage),
        Method("Sum", Timestamp, Timestamp, client_streams=True),
        Method("Count", Timestamp, Timestamp, server_streams=True),
        Method("Both", Timestamp, Timestamp, client_streams=True, server_streams=True),
        Method("Deaf", Timestamp, Timestamp, client_streams=True),
    ),
)


class Echo:
    """Serves the methods; what it saw is there to look at."""

    def __init__(self) -> None:
        self.waiting: list[Call] = []
        self.errors: list[RpcError] = []
        self.gone = threading.Event()
        self.release = threading.Event()
        self.sleeping = 0

    def Echo(self, request: AnyMessage, call: Call) -> AnyMessage:
        return request

    def Sleep(self, request: Timestamp, call: Call) -> Empty:
        self.sleeping += 1
        self.release.wait(request.seconds)
        return Empty()

    def Fail(self, request: AnyMessage, call: Call) -> Empty:
        if request.type_url == "bug":
            raise KeyError("/secret/path")
        raise RpcError(Code.NOT_FOUND, "no such thing", [request])

    def Wait(self, request: Empty, call: Call) -> None:
        call.defer()
        call.on_cancel(lambda: (self.errors.append(call.error), self.gone.set()))  # type: ignore[arg-type, func-returns-value]
        self.waiting.append(call)

    Hold = Wait

    def Wrong(self, request: Empty, call: Call) -> Empty:
        return Empty()

    def Metadata(self, request: AnyMessage, call: Call) -> AnyMessage:
        text = ",".join(call.metadata.get(request.type_url, []))
        return AnyMessage(type_url=text, value=str(round(call.remaining() or 0)).encode())

    def Large(self, request: Timestamp, call: Call) -> AnyMessage:
        return AnyMessage(value=bytes(request.seconds))

    def Sum(self, _: None, call: Call) -> Timestamp:
        total = 0
        while (message := call.receive()) is not None:
            total += message.seconds
        return Timestamp(seconds=total)

    def Count(self, _: None, call: Call) -> None:
        for number in range(call.receive().seconds):
            call.send(Timestamp(seconds=number))

    def Both(self, _: None, call: Call) -> None:
        while (message := call.receive()) is not None:
            call.send(message)

    def Deaf(self, _: None, call: Call) -> Timestamp:
        self.release.wait(20)
        return Timestamp()

    def secret(self, request: Any, call: Call) -> Empty:
        raise AssertionError("not a method of the service")


def until(condition: Any, limit: float = 5.0) -> None:
    """Wait for a condition; fail when it does not come."""
    deadline = time.monotonic() + limit
    while not condition():
        assert time.monotonic() < deadline, "it did not happen"
        time.sleep(0.005)


class Peer:
    """A client that says what it likes."""

    def __init__(self, end: socket.socket) -> None:
        self.socket = end
        end.settimeout(10)

    def frame(self, stream: int, kind: int, flags: int, payload: bytes, *, length: int | None = None) -> None:
        self.socket.sendall(HEADER.pack(len(payload) if length is None else length, stream, kind, flags) + payload)

    def request(self, stream: int, method: str, payload: bytes = b"", *, flags: int = 0, **fields: Any) -> None:
        request = Request(service="test.Echo", method=method, payload=payload, **fields)
        self.frame(stream, REQUEST, flags, request.encode())

    def receive(self) -> tuple[int, int, int, bytes]:
        """Return stream, type, flags, payload."""
        length, stream, kind, flags = HEADER.unpack(self._exactly(HEADER.size))
        return stream, kind, flags, self._exactly(length)

    def response(self) -> tuple[int, int, bytes]:
        """Return stream, status code, payload of the response that comes."""
        stream, kind, flags, payload = self.receive()
        assert (kind, flags) == (RESPONSE, 0)
        response = Response.decode(payload)
        return stream, response.status.code if response.status else 0, response.payload

    def still_answered(self, stream: int) -> None:
        """The next good request is answered."""
        self.request(stream, "Echo", AnyMessage(type_url="good").encode())
        assert self.response() == (stream, 0, AnyMessage(type_url="good").encode())

    def at_end(self) -> bool:
        try:
            return self.socket.recv(1) == b""
        except ConnectionResetError:
            return True

    def _exactly(self, length: int) -> bytes:
        data = b""
        while len(data) < length:
            piece = self.socket.recv(length - len(data))
            assert piece, f"closed after {data!r}"
            data += piece
        return data
