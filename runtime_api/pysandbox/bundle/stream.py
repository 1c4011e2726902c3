"""Streams of bytes: a part of a file, decompressed, hashed, counted."""

from __future__ import annotations

import hashlib
import importlib
import os

from pysandbox.bundle.limit import WINDOW
from pysandbox.errors import InvalidArgument, Unavailable

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Any, Protocol

    from pysandbox.bundle.limit import Budget

    class Stream(Protocol):
        """What is read from front to back."""

        def read(self, count: int) -> bytes:
            """Return at most `count` bytes, at least one unless this is the end."""


#: Bytes read at a time.
PIECE = 1 << 18


class Section:
    """A part of an open file, which other readers may share: it has a position of its own."""

    def __init__(self, descriptor: int, offset: int, size: int, what: str) -> None:
        self._descriptor, self._offset, self._end, self._what = descriptor, offset, offset + size, what

    def read(self, count: int) -> bytes:
        """Return bytes. Raises InvalidArgument where the file has become, or always was, shorter than it should be."""
        data = os.pread(self._descriptor, min(count, self._end - self._offset), self._offset)
        if not data and count and self._offset < self._end:
            raise InvalidArgument(f"{self._what}: truncated: {self._end - self._offset} bytes are missing")
        self._offset += len(data)
        return data

    def skip(self, count: int) -> int:
        """Pass over bytes without reading them; return how many there were."""
        count = min(count, self._end - self._offset)
        self._offset += count
        return count


class Pipe:
    """Standard input, or a pipe: what comes must come within a minute of the last."""

    TIMEOUT = 60.0

    def __init__(self, descriptor: int, what: str) -> None:
        self._descriptor, self._what = descriptor, what

    def read(self, count: int) -> bytes:
        """Return bytes. Raises InvalidArgument where none come."""
        import select

        if not select.select([self._descriptor], [], [], self.TIMEOUT)[0]:
            raise InvalidArgument(f"{self._what}: nothing to read for {self.TIMEOUT:.0f} seconds")
        return os.read(self._descriptor, count)


class Hashed:
    """A stream whose digest is taken on the way."""

    def __init__(self, stream: Stream, algorithm: str) -> None:
        self._stream, self._hash = stream, hashlib.new(algorithm, usedforsecurity=True)

    def read(self, count: int) -> bytes:
        """Return bytes."""
        data = self._stream.read(count)
        self._hash.update(data)
        return data

    def hexdigest(self) -> str:
        """Return the digest of what was read so far."""
        return self._hash.hexdigest()


class Counted:
    """A stream whose bytes are taken from the budget."""

    def __init__(self, stream: Stream, budget: Budget, what: str) -> None:
        self._stream, self._budget, self._what = stream, budget, what

    def read(self, count: int) -> bytes:
        """Return bytes. Raises InvalidArgument where the budget is spent."""
        data = self._stream.read(count)
        self._budget.take_bytes(len(data), self._what)
        return data


class Watched:
    """A stream that tells how far it was read."""

    def __init__(self, stream: Stream, tell: Callable[[int], None]) -> None:
        self._stream, self._tell = stream, tell

    def read(self, count: int) -> bytes:
        """Return bytes."""
        data = self._stream.read(count)
        self._tell(len(data))
        return data


class _Gzip:
    """zlib's decompressor in the shape of bz2's and lzma's."""

    def __init__(self) -> None:
        import zlib

        self._inner = zlib.decompressobj(wbits=31)
        self._error = zlib.error

    def decompress(self, data: bytes, count: int) -> bytes:
        try:
            return self._inner.decompress(self._inner.unconsumed_tail + data, count)
        except self._error as error:
            raise ValueError(str(error)) from None

    @property
    def needs_input(self) -> bool:
        return not self._inner.unconsumed_tail

    @property
    def eof(self) -> bool:
        return self._inner.eof

    @property
    def unused_data(self) -> bytes:
        return self._inner.unused_data


def _bzip2() -> Any:
    import bz2

    return bz2.BZ2Decompressor()


def _xz() -> Any:
    import lzma

    return lzma.LZMADecompressor(lzma.FORMAT_XZ, memlimit=2 * WINDOW)


_ZSTD = b"\x28\xb5\x2f\xfd"
#: Name, what it begins with, what makes a decompressor of one member.
_FORMATS: tuple[tuple[str, bytes, Callable[[], Any]], ...] = (
    ("gzip", b"\x1f\x8b", _Gzip),
    ("bzip2", b"BZh", _bzip2),
    ("xz", b"\xfd7zXZ\0", _xz),
)


class _Members:
    """Decompressed data of one member after another. Nothing is made of what is behind the last but zeros."""

    def __init__(self, stream: Stream, head: bytes, make: Callable[[], Any], form: str, what: str) -> None:
        self._stream, self._input, self._make, self._form, self._what = stream, head, make, form, what
        self._inner = make()

    def read(self, count: int) -> bytes:
        while True:
            if self._inner.eof and not self._next_member():
                return b""
            if self._inner.needs_input and not self._input:
                self._input = self._stream.read(PIECE)
                if not self._input:
                    raise InvalidArgument(f"{self._what}: truncated: its {self._form} data has no end")
            if data := self._decompress(count):
                return data

    def _decompress(self, count: int) -> bytes:
        data, self._input = self._input, b""
        try:
            return bytes(self._inner.decompress(data, count))
        except MemoryError:
            raise
        except Exception as error:  # noqa: BLE001 (each library has errors of its own, below no common class)
            raise InvalidArgument(f"{self._what}: damaged {self._form} data: {str(error).lower()}") from None

    def _next_member(self) -> bool:
        rest = self._inner.unused_data + self._input or self._stream.read(PIECE)
        while rest and not rest.strip(b"\0"):
            rest = self._stream.read(PIECE)
        self._input, self._inner = rest, self._make()
        return bool(rest)


class _Pushed:
    """A stream with what was already read from it put back."""

    def __init__(self, head: bytes, stream: Stream) -> None:
        self._head, self._stream = head, stream

    def read(self, count: int) -> bytes:
        if not self._head:
            return self._stream.read(count)
        data, self._head = self._head[:count], self._head[count:]
        return data


class _Zstandard:
    """Data of the package zstandard's reader, which is silent where they are truncated: digest and tar are not."""

    def __init__(self, stream: Stream, what: str) -> None:
        zstandard = _zstandard(what)
        self._what, self._error = what, zstandard.ZstdError
        decompressor = zstandard.ZstdDecompressor(max_window_size=WINDOW)
        self._inner = decompressor.stream_reader(stream, read_size=PIECE, read_across_frames=True)

    def read(self, count: int) -> bytes:
        try:
            return bytes(self._inner.read(count))
        except self._error as error:
            raise InvalidArgument(f"{self._what}: damaged zstd data: {str(error).lower()}") from None


def _zstandard(what: str) -> Any:
    try:
        return importlib.import_module("zstandard")
    except ImportError:
        raise Unavailable(
            f"{what}: is compressed with zstd, for which a library is missing: pip install zstandard, or apt-get"
            " install python3-zstandard"
        ) from None


def compression(head: bytes) -> str:
    """Return what data that begin like this are compressed with: gzip, bzip2, xz, zstd, or "" for neither."""
    if head.startswith(_ZSTD):
        return "zstd"
    return next((form for form, magic, _ in _FORMATS if head.startswith(magic)), "")


def decompressed(stream: Stream, what: str) -> Stream:
    """Return a stream's data decompressed where they are compressed. What they are is seen, not believed.

    Reading raises InvalidArgument for damaged or truncated data, Unavailable for zstd without a library.
    """
    head = b""
    while len(head) < 6 and (more := stream.read(6 - len(head))):
        head += more
    form = compression(head)
    if form == "zstd":
        return _Zstandard(_Pushed(head, stream), what)
    make = next((make for name, _, make in _FORMATS if name == form), None)
    return _Members(stream, head, make, form, what) if make else _Pushed(head, stream)
