"""Frames: a header of ten bytes, then at most 4 MiB.

Length and stream are unsigned 32-bit numbers, big-endian, type and flags one byte each (containerd/ttrpc, PROTOCOL.md).
A frame that says it is larger is discarded as it comes and told to the reader without its bytes: its stream can then be
answered, and the connection lives on.
"""

from __future__ import annotations

import struct

HEADER = struct.Struct(">IIBB")
#: Bytes in one frame.
MESSAGE_LIMIT = 4 * 1024 * 1024

# Types.
REQUEST, RESPONSE, DATA = 1, 2, 3
# Flags of requests and data. "Remote" is whoever sent the frame.
REMOTE_CLOSED, REMOTE_OPEN, NO_DATA = 1, 2, 4


class Frame:
    """One frame. `payload` is None when it was too large; `length` then says how large."""

    __slots__ = ("flags", "kind", "length", "payload", "stream")

    def __init__(self, stream: int, kind: int, flags: int, length: int, payload: bytes | None) -> None:
        self.stream, self.kind, self.flags, self.length, self.payload = stream, kind, flags, length, payload


def header(stream: int, kind: int, flags: int, length: int) -> bytes:
    """Return a frame's first ten bytes."""
    return HEADER.pack(length, stream, kind, flags)


class FrameReader:
    """Frames from bytes as they come. Keeps no more than what was fed and is not yet a whole frame."""

    def __init__(self) -> None:
        self._buffer = bytearray()
        self._discard = 0
        self._discarded: Frame | None = None

    @property
    def partial(self) -> bool:
        """Whether a frame has begun and not ended."""
        return bool(self._buffer) or self._discarded is not None

    def feed(self, data: bytes) -> list[Frame]:
        """Take bytes, return the frames that they complete."""
        self._buffer += data
        frames = []
        while (frame := self._next()) is not None:
            frames.append(frame)
        return frames

    def _next(self) -> Frame | None:
        if self._discarded is not None:
            return self._go_on_discarding()
        if len(self._buffer) < HEADER.size:
            return None
        length, stream, kind, flags = HEADER.unpack_from(self._buffer)
        if length > MESSAGE_LIMIT:
            del self._buffer[: HEADER.size]
            self._discard, self._discarded = length, Frame(stream, kind, flags, length, None)
            return self._go_on_discarding()
        end = HEADER.size + length
        if len(self._buffer) < end:
            return None
        with memoryview(self._buffer) as view:
            payload = bytes(view[HEADER.size : end])
        del self._buffer[:end]
        return Frame(stream, kind, flags, length, payload)

    def _go_on_discarding(self) -> Frame | None:
        gone = min(self._discard, len(self._buffer))
        del self._buffer[:gone]
        self._discard -= gone
        if self._discard:
            return None
        frame, self._discarded = self._discarded, None
        return frame
