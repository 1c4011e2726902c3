"""The client: calls over one connection, any number at a time, from any thread."""

from __future__ import annotations

import time
from _socket import AF_UNIX, SOCK_CLOEXEC, SOCK_STREAM, socket
from threading import Event, Lock, Thread

from pysandbox.ttrpc.connection import Connection, Inbox
from pysandbox.ttrpc.errors import Closed, Code, RpcError, from_status
from pysandbox.ttrpc.frame import DATA, NO_DATA, REMOTE_CLOSED, REMOTE_OPEN, REQUEST, RESPONSE
from pysandbox.ttrpc.message import DecodeError
from pysandbox.ttrpc.messages.request import KeyValue, Request, Response

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from typing import Any, Self

    from pysandbox.ttrpc.frame import Frame
    from pysandbox.ttrpc.message import Message
    from pysandbox.ttrpc.service import Method, Service

    Metadata = Mapping[str, Sequence[str]]

_LAST_STREAM = 2**32 - 1


def _closed() -> RpcError:
    return RpcError(Code.UNAVAILABLE, "connection closed")


class Pending:
    """A call that has been sent."""

    def __init__(self, client: _Calling, method: Method, deadline: float | None) -> None:
        self._client, self._method, self._deadline = client, method, deadline
        self._came = Event()
        self._response: Response | None = None
        self._error: RpcError | None = None
        self.stream = 0

    def done(self) -> bool:
        """Whether `result` would return at once."""
        return self._came.is_set()

    def result(self) -> Any:
        """Wait for the answer. Raises RpcError, DEADLINE_EXCEEDED too."""
        left = None if self._deadline is None else max(0.0, self._deadline - time.monotonic())
        if not self._came.wait(left):
            self._client.forget(self.stream)
            raise RpcError(Code.DEADLINE_EXCEEDED, f"{self._method.name}: deadline exceeded")
        if self._error is not None:
            raise self._error
        assert self._response is not None
        return _answer(self._response, self._method)

    def cancel(self) -> None:
        """Wait no longer: `result` raises CANCELED. ttrpc has no way to tell the server."""
        self._client.forget(self.stream)
        self.end(RpcError(Code.CANCELED, f"{self._method.name}: canceled"))

    def frame(self, frame: Frame, response: Response | None) -> None:
        """Take what the server says."""
        if response is None:
            self.end(RpcError(Code.INTERNAL, f"{self._method.name}: a frame of type {frame.kind} is no answer"))
        elif not self._came.is_set():
            self._response = response
            self._came.set()

    def end(self, error: RpcError) -> None:
        """No answer will come."""
        if not self._came.is_set():
            self._error = error
            self._came.set()


class ClientStream:
    """A call with streams. `receive` returns None when the server is done."""

    def __init__(self, client: _Calling, method: Method, deadline: float | None) -> None:
        self._client, self._method, self._deadline = client, method, deadline
        self.inbox = Inbox(client.taken)
        self._answer: Response | None = None
        self.stream = 0

    def send(self, request: Message) -> None:
        """Send one message, when the server has taken most of those before it. Raises RpcError."""
        try:
            self._client.send_when_room(self.stream, DATA, 0, request.encode(), self._deadline)
        except Closed:
            raise _closed() from None

    def close_send(self) -> None:
        """Say that this was the last message. Raises RpcError."""
        try:
            self._client.send(self.stream, DATA, REMOTE_CLOSED | NO_DATA, b"")
        except Closed:
            raise _closed() from None

    def receive(self) -> Any:
        """Wait for the next message, or for the answer if it is only one; None after the last. Raises RpcError."""
        payload = self.inbox.take(self._deadline)
        if payload is not None:
            return _decode(self._method.response, payload)
        answer, self._answer = self._answer, None
        return None if answer is None else _answer(answer, self._method)

    def cancel(self) -> None:
        """Take no more. ttrpc has no way to tell the server."""
        self._client.forget(self.stream)
        self.inbox.end(RpcError(Code.CANCELED, f"{self._method.name}: canceled"))

    def frame(self, frame: Frame, response: Response | None) -> None:
        """Take what the server says."""
        if response is None:
            if not frame.flags & NO_DATA:
                self._client.deliver(self.inbox, frame)
            else:
                self.delivered(frame)
        elif response.status is not None and response.status.code:
            self.inbox.end(from_status(response.status))
        else:
            self._answer = None if self._method.server_streams else response
            self.inbox.end()

    def delivered(self, frame: Frame) -> None:
        """The server may end its stream."""
        if frame.flags & REMOTE_CLOSED:
            self._client.forget(self.stream)
            self.inbox.end()

    def end(self, error: RpcError) -> None:
        """Nothing more will come."""
        self.inbox.end(error)


def _answer(response: Response, method: Method) -> Any:
    if response.status is not None and response.status.code:
        raise from_status(response.status)
    return _decode(method.response, response.payload)


def _decode(kind: type[Message], payload: bytes) -> Message:
    try:
        return kind.decode(payload)
    except DecodeError as error:
        raise RpcError(Code.INTERNAL, f"the server's answer: {error}") from None


class _Calling(Connection):
    """A connection's client side."""

    def __init__(self, connected: socket) -> None:
        super().__init__(connected)
        self._order = Lock()
        self._next = 1
        self._waiting: dict[int, Pending | ClientStream] = {}

    def begin(self, waiting: Pending | ClientStream, request: Request, flags: int) -> None:
        """Send a request. Numbers of streams rise on the wire, so one lock holds both. Raises RpcError."""
        payload = request.encode()
        with self._order:
            waiting.stream = self._next
            if waiting.stream > _LAST_STREAM:
                raise RpcError(Code.UNAVAILABLE, "the connection has used all its streams")
            self._waiting[waiting.stream] = waiting
            try:
                self.send(waiting.stream, REQUEST, flags, payload)
            except Closed:
                self.forget(waiting.stream)
                raise _closed() from None
            except RpcError:
                self.forget(waiting.stream)
                raise
            self._next += 2

    def forget(self, stream: int) -> None:
        """Ignore what comes for a stream."""
        self._waiting.pop(stream, None)

    def received(self, frame: Frame) -> None:
        """Hand a frame to who waits for it. What comes for others was cancelled."""
        waiting = self._waiting.get(frame.stream)
        if waiting is None:
            return
        if frame.payload is None:
            self.forget(frame.stream)
            waiting.end(RpcError(Code.RESOURCE_EXHAUSTED, f"answer of {frame.length} bytes is too long"))
        elif frame.kind == RESPONSE:
            self.forget(frame.stream)
            self._respond(waiting, frame)
        elif frame.kind == DATA:
            waiting.frame(frame, None)

    def _respond(self, waiting: Pending | ClientStream, frame: Frame) -> None:
        assert frame.payload is not None
        try:
            response = Response.decode(frame.payload)
        except DecodeError as error:
            waiting.end(RpcError(Code.INTERNAL, f"the server's answer: {error}"))
        else:
            waiting.frame(frame, response)

    def delivered(self, frame: Frame) -> None:
        """A message that waited for room has been taken."""
        waiting = self._waiting.get(frame.stream)
        if isinstance(waiting, ClientStream):
            waiting.delivered(frame)

    def overflowed(self, frame: Frame) -> None:
        """Nobody takes the messages of a stream."""
        if (waiting := self._waiting.pop(frame.stream, None)) is not None:
            waiting.end(RpcError(Code.RESOURCE_EXHAUSTED, "messages come faster than they are taken"))

    def ended(self) -> None:
        """Fail all that waits."""
        for stream in list(self._waiting):
            if (waiting := self._waiting.pop(stream, None)) is not None:
                waiting.end(_closed())


class Client:
    """Calls over a connected stream socket, which it closes in the end. Use `connect` for a path."""

    def __init__(self, connected: socket) -> None:
        self._calling = _Calling(connected)
        self._thread = Thread(target=self._calling.run, name="ttrpc client", daemon=True)
        self._thread.start()

    @classmethod
    def connect(cls, path: str, timeout: float = 5.0) -> Client:
        """Connect to a Unix socket; one whose name begins with NUL is abstract. Raises OSError, TimeoutError."""
        connected = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC)
        try:
            connected.settimeout(timeout)
            connected.connect(path)
        except BaseException:
            connected.close()
            raise
        return cls(connected)

    def call(
        self,
        service: Service,
        method: str,
        request: Message,
        *,
        timeout: float | None = None,
        metadata: Metadata | None = None,
    ) -> Any:
        """Call a unary method and wait for its answer, `timeout` seconds at most. Raises RpcError."""
        return self.begin(service, method, request, timeout=timeout, metadata=metadata).result()

    def begin(
        self,
        service: Service,
        method: str,
        request: Message,
        *,
        timeout: float | None = None,
        metadata: Metadata | None = None,
    ) -> Pending:
        """Send a call, do not wait. Raises RpcError."""
        pending = Pending(self._calling, service.methods[method], _deadline(timeout))
        self._calling.begin(pending, _request(service, method, request, timeout, metadata), 0)
        return pending

    def stream(
        self,
        service: Service,
        method: str,
        request: Message | None = None,
        *,
        timeout: float | None = None,
        metadata: Metadata | None = None,
    ) -> ClientStream:
        """Begin a call with streams. `request` is its one message, unless the client streams. Raises RpcError."""
        described = service.methods[method]
        flags = REMOTE_OPEN if described.client_streams else REMOTE_CLOSED
        stream = ClientStream(self._calling, described, _deadline(timeout))
        self._calling.begin(stream, _request(service, method, request, timeout, metadata), flags)
        return stream

    def close(self) -> None:
        """Close the connection. Calls under way fail with UNAVAILABLE."""
        self._calling.close()
        self._thread.join(5.0)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


def _deadline(timeout: float | None) -> float | None:
    return None if timeout is None else time.monotonic() + timeout


def _request(
    service: Service, method: str, request: Message | None, timeout: float | None, metadata: Metadata | None
) -> Request:
    pairs = [KeyValue(key=key, value=value) for key, values in (metadata or {}).items() for value in values]
    # Zero would mean for ever.
    nanoseconds = 0 if timeout is None else max(1, int(timeout * 1e9))
    return Request(
        service=service.name,
        method=method,
        payload=request.encode() if request is not None else b"",
        timeout_nano=nanoseconds,
        metadata=pairs,
    )
