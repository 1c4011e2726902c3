"""The server: services offered to whoever connects.

Each request is served on a thread of a pool, so that one that waits holds up no other on its connection. One that waits
for long should hold no thread either: it calls `Call.defer` and is answered later, from anywhere (`Wait` of a shim: one
for every process). All that a peer can ask for is limited, and told with RESOURCE_EXHAUSTED.
"""

from __future__ import annotations

import contextlib
import errno
import heapq
import os
import select
import time
from _socket import socket
from threading import Condition, Lock, Thread

from pysandbox.ttrpc.connection import Connection, Inbox, check_length
from pysandbox.ttrpc.errors import Closed, Code, RpcError
from pysandbox.ttrpc.frame import DATA, NO_DATA, REMOTE_CLOSED, REQUEST, RESPONSE
from pysandbox.ttrpc.message import DecodeError, EncodeError
from pysandbox.ttrpc.messages.request import Request, Response
from pysandbox.ttrpc.pool import Pool

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from typing import Any

    from pysandbox.ttrpc.frame import Frame
    from pysandbox.ttrpc.message import Message
    from pysandbox.ttrpc.service import Method, Service

#: What accept(2) says when there is nothing left to make a connection of; it comes back at once while that lasts.
_SCARCE = {errno.EMFILE, errno.ENFILE, errno.ENOBUFS, errno.ENOMEM}


class Limits:
    """What a server has at most: threads, connections, requests under way (deferred ones too), their bytes together."""

    __slots__ = ("bytes", "connections", "requests", "threads")

    def __init__(
        self, *, threads: int = 64, connections: int = 64, requests: int = 8192, in_flight: int = 64 * 1024 * 1024
    ) -> None:
        self.threads, self.connections, self.requests, self.bytes = threads, connections, requests, in_flight


class Call:
    """One request that is being served: what its method is told besides the message, and how it is answered.

    A unary method returns its answer, or calls `defer` and has somebody call `answer` or `fail`. A method that streams
    uses `receive` and `send`; what it returns is the answer, if its service has one and no stream of them.
    """

    def __init__(self, connection: _Serving, stream: int, method: Method, request: Request, size: int) -> None:
        self._connection, self._stream, self._size = connection, stream, size
        self._payload = request.payload
        self._inbox: Inbox | None = None if method.unary else Inbox(connection.taken)
        self._lock = Lock()
        self._callbacks: list[Callable[[], None]] = []
        self._error: RpcError | None = None
        self._deferred = self._done = False
        self.method = method
        #: Metadata by key, in lower case.
        self.metadata: dict[str, list[str]] = {}
        for pair in request.metadata:
            self.metadata.setdefault(pair.key.lower(), []).append(pair.value)
        #: When the client gives up, by time.monotonic(); None for never.
        self.deadline = time.monotonic() + request.timeout_nano / 1e9 if request.timeout_nano else None

    @property
    def error(self) -> RpcError | None:
        """Why nobody waits for the answer any more, CANCELED or DEADLINE_EXCEEDED; None while somebody does."""
        return self._error

    def remaining(self) -> float | None:
        """Return the seconds until the deadline, None for no deadline."""
        return None if self.deadline is None else max(0.0, self.deadline - time.monotonic())

    def on_cancel(self, callback: Callable[[], None]) -> None:
        """Have it called when nobody waits any more, at once if so already. It must not block."""
        with self._lock:
            if self._error is None:
                self._callbacks.append(callback)
                return
        callback()

    def defer(self) -> None:
        """Answer later: what the method returns is not the answer."""
        self._deferred = True

    def answer(self, response: Message) -> None:
        """Send a deferred answer. The second one, or one that nobody waits for, is dropped. Raises EncodeError."""
        self._finish(Response(payload=_encoded(response, self.method.response)))

    def fail(self, error: RpcError) -> None:
        """Send a deferred failure."""
        self._finish(Response(status=error.status()))

    def receive(self) -> Any:
        """Wait for the client's next message; None when it has sent its last. Raises RpcError."""
        assert self._inbox is not None, "a unary method has its message"
        payload = self._inbox.take(self.deadline)
        return None if payload is None else _decoded(self.method.request, payload)

    def send(self, response: Message) -> None:
        """Send one message of a stream, when the client has taken most of those before it. Raises RpcError."""
        if self._error is not None:
            raise self._error
        payload = _encoded(response, self.method.response)
        try:
            self._connection.send_when_room(self._stream, DATA, 0, payload, self.deadline)
        except Closed:
            raise RpcError(Code.CANCELED, "connection closed") from None

    # -- for the server ------------------------------------------------------------------------------------------------

    @property
    def stream(self) -> int:
        """Its number on its connection."""
        return self._stream

    def is_of(self, connection: object) -> bool:
        """Say whether it came by this connection."""
        return self._connection is connection

    def serve(self, handler: Callable[[Any, Call], Any]) -> None:
        """Call the method and send what it says."""
        if self._done:
            return
        server = self._connection.server
        try:
            if self._inbox is None:
                payload, self._payload = self._payload, b""
                answer = handler(_decoded(self.method.request, payload), self)
            else:
                answer = handler(None, self)
            if not self._deferred:
                self._succeed(answer)
        except Exception as error:  # noqa: BLE001 (whatever a method raises is an answer)
            self.fail(server.failure(error))

    def _succeed(self, answer: Any) -> None:
        if self.method.server_streams:
            self._finish(None)
        else:
            self.answer(answer)

    def _finish(self, response: Response | None) -> None:
        with self._lock:
            if self._done:
                return
            self._done = True
        try:
            if response is None:
                self._connection.send(self._stream, DATA, REMOTE_CLOSED | NO_DATA, b"")
            else:
                self._connection.respond(self._stream, response)
        except Closed:
            pass  # nobody waits for it
        finally:
            self._connection.finish(self._stream, self._size)
            self.end_input()

    def cancel(self, error: RpcError) -> None:
        """Nobody waits any more."""
        with self._lock:
            if self._error is not None:
                return
            self._error = error
            callbacks, self._callbacks = self._callbacks, []
        if self._inbox is not None:
            self._inbox.end(error)
        for callback in callbacks:
            callback()

    def expire(self) -> None:
        """The deadline has passed: say so, whatever the method is doing."""
        error = RpcError(Code.DEADLINE_EXCEEDED, "deadline exceeded")
        self.fail(error)
        self.cancel(error)

    @property
    def inbox(self) -> Inbox | None:
        """Where messages of the stream go; None for a unary method."""
        return self._inbox

    def end_input(self) -> None:
        """The client has sent its last message."""
        if self._inbox is not None:
            self._inbox.end()


def _decoded(kind: type[Message], payload: bytes) -> Message:
    try:
        return kind.decode(payload)
    except DecodeError as error:
        raise RpcError(Code.INVALID_ARGUMENT, str(error)) from None


def _encoded(message: Any, kind: type[Message]) -> bytes:
    if not isinstance(message, kind):
        raise EncodeError(f"the answer is a {type(message).__name__}, not a {kind.__name__}")
    payload = message.encode()
    check_length(payload)
    return payload


class Rested:
    """A connection that nobody serves for now: its descriptor, and the last stream that its client has begun."""

    __slots__ = ("descriptor", "last")

    def __init__(self, descriptor: int, last: int) -> None:
        self.descriptor, self.last = descriptor, last


class _Serving(Connection):
    """A connection's server side."""

    def __init__(self, connected: socket, server: Server) -> None:
        super().__init__(connected)
        self.server = server
        self._last = 0
        self._calls: dict[int, Call] = {}
        self._deadlines: list[tuple[float, int]] = []

    @property
    def rested(self) -> Rested:
        """What another process needs to go on with it."""
        return Rested(self._socket.fileno(), self._last)

    def resume(self, last: int, streams: Sequence[int], method: Method) -> list[Call]:
        """Go on where another process has stopped; return the calls of a method that wait to be answered."""
        self._last = last
        calls = []
        for stream in streams:
            call = Call(self, stream, method, Request(), 0)
            call.defer()
            self.server.began(0)
            self._calls[stream] = call
            calls.append(call)
        return calls

    def park(self) -> bool:
        """Say whether the server is to be left alone."""
        return self.server.parks(self)

    def begin(self) -> None:
        """Have a thread serve it. Raises RuntimeError where there is none to be had."""
        Thread(target=self.run, name="ttrpc connection", daemon=True).start()

    def respond(self, stream: int, response: Response) -> None:
        """Send the frame that ends a stream. Raises Closed."""
        try:
            self.send(stream, RESPONSE, 0, response.encode())
        except RpcError as error:
            self.send(stream, RESPONSE, 0, Response(status=error.status()).encode())

    def refuse(self, stream: int, code: int, text: str) -> None:
        """Answer a frame with an error."""
        self.respond(stream, Response(status=RpcError(code, text).status()))

    def finish(self, stream: int, size: int) -> None:
        """Forget a call that is answered."""
        if self._calls.pop(stream, None) is not None:
            self.server.finished(size)

    def received(self, frame: Frame) -> None:
        """Act on a frame. What is wrong with it is said on its stream; unknown types are for later versions."""
        self.server.heard_at = time.monotonic()
        if frame.payload is None:
            self.refuse(frame.stream, Code.RESOURCE_EXHAUSTED, f"message of {frame.length} bytes is too long")
        elif frame.stream % 2 == 0:
            self.refuse(frame.stream, Code.INVALID_ARGUMENT, "a stream that the client begins has an odd number")
        elif frame.kind == REQUEST:
            self._request(frame)
        elif frame.kind == DATA:
            self._data(frame)

    def _request(self, frame: Frame) -> None:
        if frame.stream <= self._last:
            self.refuse(frame.stream, Code.INVALID_ARGUMENT, "numbers of streams rise and are not used again")
            return
        self._last = frame.stream
        assert frame.payload is not None
        try:
            self._begin(frame, Request.decode(frame.payload))
        except (DecodeError, RpcError) as error:
            code = error.code if isinstance(error, RpcError) else Code.INVALID_ARGUMENT
            self.refuse(frame.stream, code, str(error))

    def _begin(self, frame: Frame, request: Request) -> None:
        method, handler = self.server.find(request.service, request.method)
        call = Call(self, frame.stream, method, request, frame.length)
        self.server.began(frame.length)
        self._calls[frame.stream] = call
        if call.inbox is not None:
            # As Go's server: an empty message of a client that streams is none.
            if request.payload or not method.client_streams:
                call.inbox.offer(request.payload)
            if frame.flags & REMOTE_CLOSED or not method.client_streams:
                call.end_input()
        if call.deadline is not None:
            heapq.heappush(self._deadlines, (call.deadline, frame.stream))
        if not self.server.pool.submit(lambda: call.serve(handler)):
            call.fail(RpcError(Code.RESOURCE_EXHAUSTED, "too many requests"))

    def _data(self, frame: Frame) -> None:
        call = self._calls.get(frame.stream)
        if call is None or call.inbox is None:
            self.refuse(frame.stream, Code.INVALID_ARGUMENT, "no such stream is open")
            if call is not None:
                call.cancel(RpcError(Code.CANCELED, "data for a method that has no stream"))
        elif frame.flags & NO_DATA:
            self.delivered(frame)
        else:
            self.deliver(call.inbox, frame)

    def delivered(self, frame: Frame) -> None:
        """A client may close its side of a stream."""
        if frame.flags & REMOTE_CLOSED and (call := self._calls.get(frame.stream)) is not None:
            call.end_input()

    def overflowed(self, frame: Frame) -> None:
        """The method does not take its messages."""
        if (call := self._calls.get(frame.stream)) is not None:
            error = RpcError(Code.RESOURCE_EXHAUSTED, "messages come faster than they are taken")
            call.fail(error)
            call.cancel(error)

    def next_time(self) -> float | None:
        """Return the next deadline."""
        while self._deadlines and self._deadlines[0][1] not in self._calls:
            heapq.heappop(self._deadlines)
        return self._deadlines[0][0] if self._deadlines else None

    def on_time(self, now: float) -> None:
        """End calls whose deadline has passed."""
        while (first := self.next_time()) is not None and first <= now:
            call = self._calls.get(heapq.heappop(self._deadlines)[1])
            if call is not None:
                call.expire()

    def ended(self) -> None:
        """Tell every method that nobody waits for it."""
        error = RpcError(Code.CANCELED, "connection closed")
        for call in list(self._calls.values()):
            call.cancel(error)
            call.fail(error)
        self.server.lost(self)


def translate_unknown(error: Exception) -> RpcError:
    """Return what a client is told of an exception: an RpcError as it is, of all else only the type."""
    if isinstance(error, RpcError):
        return error
    if isinstance(error, EncodeError):
        return RpcError(Code.INTERNAL, str(error))
    return RpcError(Code.UNKNOWN, f"internal error: {type(error).__name__}")


class Server:
    """Services, and the connections that they are offered on.

    `translate` makes an RpcError of what a method raised; it is the place to log it too. `admit` says of a connected
    socket whether it may call at all. `rested` is called when nothing has been asked for a while.
    """

    def __init__(
        self,
        *,
        translate: Callable[[Exception], RpcError] = translate_unknown,
        admit: Callable[[socket], bool] = lambda _: True,
        limits: Limits | None = None,
        rested: Callable[[], None] | None = None,
    ) -> None:
        self._translate, self._admit = translate, admit
        self._limits = limits or Limits()
        self._services: dict[str, tuple[Service, object]] = {}
        self.pool = Pool(self._limits.threads, self._limits.requests, rested)
        self._changed = Condition(Lock())
        self._connections: set[_Serving] = set()
        self._parked: set[_Serving] = set()
        self._requests = self._bytes = 0
        self._bell = os.eventfd(0, os.EFD_CLOEXEC | os.EFD_NONBLOCK)
        self._closing = self._accepting = False
        self._listener: socket | None = None
        #: When something was heard last, by time.monotonic().
        self.heard_at = time.monotonic()
        #: Set while connections are to be left alone.
        self.parking = False

    def __del__(self) -> None:
        os.close(self._bell)  # not before: a thread in `serve` may be looking at it

    def register(self, service: Service, implementation: object) -> None:
        """Offer a service: methods of the object that have the methods' names, as `(message, call) -> answer`.

        Those that it has not are UNIMPLEMENTED. A method that streams gets None for the message.
        """
        if service.name in self._services:
            raise ValueError(f"service {service.name} is offered already")
        self._services[service.name] = (service, implementation)

    def serve(self, listener: socket) -> None:
        """Accept connections until `close`, then close the listener; until `park`, and leave it open."""
        self._listener = listener
        listener.setblocking(False)
        poll = select.poll()
        poll.register(listener.fileno(), select.POLLIN)
        poll.register(self._bell, select.POLLIN)
        with self._changed:
            self._accepting = True
        try:
            while self._accepts():
                poll.poll()
                if self._accepts():
                    self._accept(listener)
        finally:
            if not self.parking:
                listener.close()
            with self._changed:
                self._accepting = False
                self._changed.notify_all()

    def _accepts(self) -> bool:
        return not self._closing and not self.parking

    def _accept(self, listener: socket) -> None:
        try:
            descriptor, _ = listener._accept()  # type: ignore[attr-defined] # what socket.accept() is made of
        except OSError as error:
            if error.errno in _SCARCE:
                time.sleep(0.05)
            return
        self.attach(socket(fileno=descriptor))

    def attach(self, connected: socket) -> bool:
        """Serve a connected stream socket, which is closed when too many are, or when `admit` says no."""
        with self._changed:
            full = self._closing or len(self._connections) >= self._limits.connections
        if full or not self._admit(connected):
            connected.close()
            return False
        try:
            connection = _Serving(connected, self)
        except OSError:
            connected.close()
            return False
        with self._changed:
            self._connections.add(connection)
        try:
            connection.begin()
        except RuntimeError:  # no thread to be had
            connection.close()
            connection.run()
            return False
        return True

    # -- leaving it alone ----------------------------------------------------------------------------------------------

    def park(self, patience: float) -> dict[Connection, Rested] | None:
        """Have nobody accept or read, so that another process can go on, and return the connections.

        None if frames are under way for longer than `patience`. What methods are doing goes on: see `under_way`.
        """
        self.parking = True
        self._ring()
        with self._changed:
            for connection in self._connections:
                connection.wake()
            done = self._changed.wait_for(lambda: not self._accepting and self._parked >= self._connections, patience)
            return {each: each.rested for each in self._connections} if done else None

    @property
    def under_way(self) -> int:
        """How many requests have not been answered."""
        return self._requests

    def unpark(self) -> None:
        """Go on, in this process, after `park`. Raises RuntimeError where no thread is to be had."""
        listener = self._listener
        with self._changed:
            self._changed.wait_for(lambda: not self._accepting)
            self.parking = False
            with contextlib.suppress(BlockingIOError):
                os.eventfd_read(self._bell)
            parked, self._parked = self._parked, set()
            for connection in parked & self._connections:
                connection.begin()
        if listener is not None:
            Thread(target=self.serve, args=(listener,), name="accept", daemon=True).start()

    def resume(
        self, connected: socket, last: int, streams: Sequence[int], method: Method, begin: Callable[[list[Call]], None]
    ) -> None:
        """Serve a connection that another process has left alone.

        `begin` is called with the calls of `method` that are still to be answered, before anything is read.
        """
        connection = _Serving(connected, self)
        with self._changed:
            self._connections.add(connection)
        begin(connection.resume(last, streams, method))
        connection.begin()

    def parks(self, connection: _Serving) -> bool:
        """Say whether a connection, which has nothing under way, is to be left alone, and remember that it is."""
        with self._changed:
            if self.parking:
                self._parked.add(connection)
                self._changed.notify_all()
            return self.parking

    def _ring(self) -> None:
        with contextlib.suppress(BlockingIOError):
            os.eventfd_write(self._bell, 1)

    def close(self, patience: float = 0.0) -> None:
        """Accept no more, wait at most so long for calls to be answered, and close the connections."""
        self._closing = True
        self._ring()
        deadline = time.monotonic() + patience
        with self._changed:
            while self._requests and (left := deadline - time.monotonic()) > 0:
                self._changed.wait(left)
            connections = list(self._connections)
        for connection in connections:
            connection.close(min(1.0, max(0.1, deadline - time.monotonic())))
        with self._changed:
            self._changed.wait_for(lambda: not self._connections, 2.0)

    # -- for its connections -------------------------------------------------------------------------------------------

    def failure(self, error: Exception) -> RpcError:
        """Return what the client is told of an exception."""
        try:
            return self._translate(error)
        except Exception:  # noqa: BLE001 (the client must get an answer)
            return translate_unknown(error)

    def find(self, service: str, method: str) -> tuple[Method, Callable[[Any, Call], Any]]:
        """Return a method and what serves it. Raises RpcError."""
        offered, implementation = self._services.get(service, (None, None))
        if offered is None:
            raise RpcError(Code.UNIMPLEMENTED, f"service {service!r} is not offered")
        found = offered.methods.get(method)
        # By the table, never by the peer's word: no attribute that is not a method of the service can be reached.
        handler = getattr(implementation, found.name, None) if found else None
        if found is None or handler is None:
            raise RpcError(Code.UNIMPLEMENTED, f"{service}/{method} is not implemented")
        return found, handler

    def began(self, size: int) -> None:
        """Count a request. Raises RpcError."""
        with self._changed:
            if self._requests >= self._limits.requests:
                raise RpcError(Code.RESOURCE_EXHAUSTED, f"more than {self._limits.requests} requests under way")
            if self._bytes + size > self._limits.bytes:
                raise RpcError(Code.RESOURCE_EXHAUSTED, f"requests of more than {self._limits.bytes} bytes under way")
            self._requests += 1
            self._bytes += size

    def finished(self, size: int) -> None:
        """Count a request no more."""
        with self._changed:
            self._requests -= 1
            self._bytes -= size
            if not self._requests:
                self._changed.notify_all()

    def lost(self, connection: _Serving) -> None:
        """Forget a connection."""
        with self._changed:
            self._connections.discard(connection)
            self._changed.notify_all()
