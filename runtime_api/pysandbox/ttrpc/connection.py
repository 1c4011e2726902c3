"""One connection: what server and client have in common.

One thread reads, and writes what could not be written at once; any thread may send and is never held up by a peer that
does not read. What a peer can make us keep is limited: while it does not take its answers, nothing more is read from
it, and one that stalls in the middle of a frame, or does not read at all, is cut off.
"""

from __future__ import annotations

import contextlib
import os
import select
import time
from _socket import MSG_NOSIGNAL
from collections import deque
from threading import Condition, Lock

from pysandbox.ttrpc.errors import Closed, Code, RpcError
from pysandbox.ttrpc.frame import MESSAGE_LIMIT, FrameReader, header

TYPE_CHECKING = False
if TYPE_CHECKING:
    from _socket import socket
    from collections.abc import Callable

    from pysandbox.ttrpc.frame import Frame

#: Seconds without one byte of progress, in the middle of a frame, until a connection is closed.
STALL_LIMIT = 30.0
#: Seconds that a stream may leave its messages untaken while all others on its connection wait, until it fails.
STREAM_PATIENCE = 5.0
#: Messages that a stream keeps for who receives them, and bytes (one message may be larger).
STREAM_LIMIT = 64
STREAM_BYTES = 1024 * 1024
#: Bytes waiting to be written from which on nothing more is read, and streams wait.
WRITE_LIMIT = 1024 * 1024
#: Bytes waiting to be written at which a connection is closed: answers to what was read before the peer stopped.
UNSENT_LIMIT = 16 * 1024 * 1024
_READ = 64 * 1024


class Inbox:
    """Messages of a stream that have come, until somebody takes them. `taken` is called after each that is."""

    def __init__(self, taken: Callable[[], None]) -> None:
        self._taken = taken
        self._changed = Condition(Lock())
        self._payloads: deque[bytes] = deque()
        self._bytes = 0
        self._ended = False
        self._error: RpcError | None = None

    def offer(self, payload: bytes) -> bool:
        """Add a message; False if there is no room. After the end it is dropped."""
        with self._changed:
            if self._ended:
                return True
            if self._payloads and (len(self._payloads) >= STREAM_LIMIT or self._bytes + len(payload) > STREAM_BYTES):
                return False
            self._payloads.append(payload)
            self._bytes += len(payload)
            self._changed.notify()
            return True

    def end(self, error: RpcError | None = None) -> None:
        """Say that no more will come. The messages before are still taken; then the error is raised."""
        with self._changed:
            if not self._ended:
                self._ended, self._error = True, error
                self._changed.notify_all()

    def take(self, deadline: float | None = None) -> bytes | None:
        """Wait for the next message; None at the end. Raises RpcError."""
        with self._changed:
            while not self._payloads:
                if self._ended:
                    if self._error is not None:
                        raise self._error
                    return None
                left = None if deadline is None else deadline - time.monotonic()
                if left is not None and left <= 0:
                    raise RpcError(Code.DEADLINE_EXCEEDED, "deadline exceeded")
                self._changed.wait(left)
            payload = self._payloads.popleft()
            self._bytes -= len(payload)
        self._taken()
        return payload


class Connection:
    """A connected stream socket, which it closes in the end. `run` is its thread."""

    def __init__(self, connected: socket) -> None:
        connected.setblocking(False)
        self._socket = connected
        self._lock = Lock()
        self._drained = Condition(self._lock)
        self._bell = os.eventfd(0, os.EFD_CLOEXEC | os.EFD_NONBLOCK)
        self._poll = select.poll()
        self._poll.register(self._bell, select.POLLIN)
        self._poll.register(connected.fileno(), 0)
        self._reader = FrameReader()
        self._frames: deque[Frame] = deque()
        self._held: tuple[Inbox, Frame, float] | None = None
        self._unsent: deque[memoryview] = deque()
        self._unsent_bytes = 0
        self._end_at: float | None = None
        self._closed = False
        self._read_at = self._written_at = time.monotonic()

    # -- for server and client to fill in ------------------------------------------------------------------------------

    def received(self, frame: Frame) -> None:
        """Act on a frame; called by the connection's thread."""
        raise NotImplementedError

    def overflowed(self, frame: Frame) -> None:
        """A stream did not take its messages in time; fail it."""
        raise NotImplementedError

    def ended(self) -> None:
        """The connection is closed; fail what is under way."""
        raise NotImplementedError

    def park(self) -> bool:
        """Say whether the thread should end here, where nothing is under way, and leave the connection open."""
        return False

    def next_time(self) -> float | None:
        """Return when `on_time` wants to be called (monotonic), None for never."""
        return None

    def on_time(self, now: float) -> None:
        """Act on deadlines that have passed."""

    # -- for any thread ------------------------------------------------------------------------------------------------

    def send(self, stream: int, kind: int, flags: int, payload: bytes) -> None:
        """Send a frame, or leave it for the connection's thread to send. Raises Closed, RpcError if it is too large."""
        check_length(payload)
        parts = [memoryview(header(stream, kind, flags, len(payload))), memoryview(payload)]
        with self._lock:
            if self._closed:
                raise Closed
            first = not self._unsent
            if first:
                parts = self._write(parts)
            elif self._unsent_bytes + len(payload) > UNSENT_LIMIT:
                self._break()
                raise Closed
            self._unsent.extend(parts)
            self._unsent_bytes += sum(map(len, parts))
            if first and parts:
                self._written_at = time.monotonic()
                self._ring()

    def send_when_room(self, stream: int, kind: int, flags: int, payload: bytes, deadline: float | None) -> None:
        """Send a frame of a stream when the peer has taken enough of what is before it. Raises Closed, RpcError."""
        with self._drained:
            while self._unsent_bytes > WRITE_LIMIT and not self._closed:
                left = None if deadline is None else deadline - time.monotonic()
                if left is not None and left <= 0:
                    raise RpcError(Code.DEADLINE_EXCEEDED, "deadline exceeded")
                self._drained.wait(left)
        self.send(stream, kind, flags, payload)

    def close(self, patience: float = 0.0) -> None:
        """Close it, after at most `patience` seconds in which what was sent is written. Does not wait for that."""
        with self._lock:
            if not self._closed:
                self._end_at = time.monotonic() + patience
                self._ring()

    def wake(self) -> None:
        """Have the connection's thread look again."""
        with self._lock:
            if not self._closed:
                self._ring()

    def _break(self) -> None:
        """Have the connection's thread close it at once."""
        self._end_at = 0.0
        self._ring()

    def _ring(self) -> None:
        with contextlib.suppress(BlockingIOError):
            os.eventfd_write(self._bell, 1)

    # -- the connection's thread ---------------------------------------------------------------------------------------

    def run(self) -> None:
        """Serve the connection until it ends, or `park` says so."""
        try:
            while self._goes_on():
                if self._is_at_rest() and self.park():
                    return
                self._turn()
        except (OSError, Closed):
            pass  # the peer is gone, or has stalled
        except BaseException:
            self._finish()
            raise
        self._finish()

    def _is_at_rest(self) -> bool:
        """Say whether all that was read has been acted on, and all that was to be sent is."""
        return not (self._reader.partial or self._frames or self._held or self._unsent) and self._end_at is None

    def _goes_on(self) -> bool:
        if self._end_at is None:
            return True
        return bool(self._unsent) and time.monotonic() < self._end_at

    def _turn(self) -> None:
        reading = self._end_at is None and self._held is None and self._unsent_bytes <= WRITE_LIMIT
        wanted = (select.POLLIN if reading else 0) | (select.POLLOUT if self._unsent else 0)
        self._poll.modify(self._socket.fileno(), wanted)
        if not reading:
            self._read_at = time.monotonic()  # that nothing comes is our doing
        for descriptor, events in self._poll.poll(self._milliseconds()):
            if descriptor == self._bell:
                os.eventfd_read(self._bell)
                continue
            if events & select.POLLOUT:
                self._flush()
            if reading and events & (select.POLLIN | select.POLLHUP | select.POLLERR):
                self._read()
            elif events & (select.POLLHUP | select.POLLERR):
                raise Closed  # nobody will take an answer any more
        self._on_time(time.monotonic())
        self._dispatch()

    def _milliseconds(self) -> int:
        """Return for how long to wait, -1 for ever."""
        times = [
            self._end_at,
            self._held[2] if self._held else None,
            self._read_at + STALL_LIMIT if self._reader.partial else None,
            self._written_at + STALL_LIMIT if self._unsent else None,
            self.next_time(),
        ]
        known = [each for each in times if each is not None]
        return max(0, int((min(known) - time.monotonic()) * 1000) + 1) if known else -1

    def _on_time(self, now: float) -> None:
        if self._reader.partial and now > self._read_at + STALL_LIMIT:
            raise Closed
        if self._unsent and now > self._written_at + STALL_LIMIT:
            raise Closed
        self.on_time(now)

    def _read(self) -> None:
        try:
            data = self._socket.recv(_READ)
        except BlockingIOError:
            return
        if not data:
            raise Closed
        self._read_at = time.monotonic()
        self._frames.extend(self._reader.feed(data))

    def _dispatch(self) -> None:
        """Act on frames, in order, as far as the streams that they are for take them."""
        if self._held is not None:
            inbox, frame, until = self._held
            if inbox.offer(frame.payload or b""):
                self._held = None
                self.delivered(frame)
            elif time.monotonic() >= until:
                self._held = None
                self.overflowed(frame)
        while self._frames and self._held is None and self._unsent_bytes <= WRITE_LIMIT:
            self.received(self._frames.popleft())

    def deliver(self, inbox: Inbox, frame: Frame) -> None:
        """Put a frame's message into an inbox; where there is no room, nothing is read until there is."""
        if inbox.offer(frame.payload or b""):
            self.delivered(frame)
        else:
            self._held = (inbox, frame, time.monotonic() + STREAM_PATIENCE)
            self.wake()  # to look once more: what was taken in between rang no bell

    def taken(self) -> None:
        """Somebody took a message out of an inbox: there is room again."""
        if self._held is not None:
            self.wake()

    def delivered(self, frame: Frame) -> None:
        """Act on the flags of a frame whose message is in its inbox."""

    def _write(self, parts: list[memoryview]) -> list[memoryview]:
        """Write as much as there is room for and return the rest. A broken connection is found by its own thread."""
        try:
            sent = self._socket.sendmsg(parts, (), MSG_NOSIGNAL)
        except BlockingIOError:
            return parts
        except OSError:
            self._break()
            return []
        rest = []
        for part in parts:
            if sent < len(part):
                rest.append(part[sent:])
            sent = max(0, sent - len(part))
        return rest

    def _flush(self) -> None:
        with self._drained:
            before = self._unsent_bytes
            parts = [self._unsent.popleft() for _ in range(min(len(self._unsent), 64))]
            rest = self._write(parts)
            self._unsent.extendleft(reversed(rest))
            self._unsent_bytes -= sum(map(len, parts)) - sum(map(len, rest))
            if self._unsent_bytes < before:
                self._written_at = time.monotonic()
                self._drained.notify_all()

    def _finish(self) -> None:
        with self._drained:
            self._closed = True
            self._unsent.clear()
            self._unsent_bytes = 0
            self._drained.notify_all()
            self._socket.close()
            os.close(self._bell)
        self.ended()


def check_length(payload: bytes) -> None:
    """Raise RpcError if it is too long for one frame."""
    if len(payload) > MESSAGE_LIMIT:
        text = f"message of {len(payload)} bytes exceeds the limit of {MESSAGE_LIMIT}"
        raise RpcError(Code.RESOURCE_EXHAUSTED, text)
