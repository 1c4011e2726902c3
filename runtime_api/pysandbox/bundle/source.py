"""Where the documents and blobs of an image are: a directory, or an archive in one file."""

from __future__ import annotations

import errno
import os

from pysandbox.bundle.archive import Archive
from pysandbox.bundle.beneath import BENEATH, open_file
from pysandbox.bundle.entry import FILE, LINK, SYMLINK
from pysandbox.bundle.name import shown, split
from pysandbox.bundle.stream import Hashed, Section
from pysandbox.errors import InvalidArgument, NotFound
from pysandbox.oci.document import SIZE_LIMIT, read_json
from pysandbox.record import dataclass

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from contextlib import ExitStack
    from typing import Any, Protocol

    from pysandbox.bundle.limit import Budget

    class Source(Protocol):
        """Files by name, whatever they are in."""

        what: str

        def open(self, name: str) -> Blob:
            """Return a file. Raises NotFound, and InvalidArgument for what is no file."""


#: Algorithms of digests, and the hexadecimal digits of each (image-spec, descriptor.md).
DIGESTS = {"sha256": 64, "sha512": 128}
_HOPS = 8


@dataclass(frozen=True, slots=True)
class Blob:
    """A part of an open file; the descriptor is its source's. `what` names it in errors."""

    descriptor: int
    offset: int
    size: int
    what: str

    def stream(self) -> Section:
        """Return a reader of its own, at the beginning."""
        return Section(self.descriptor, self.offset, self.size, self.what)

    def verify(self, digest: str, size: int | None = None, tell: Callable[[int], None] = lambda _: None) -> None:
        """Read all of it. Raises InvalidArgument unless it has the digest, and the size where that is known.

        `tell` gets the number of bytes that were read, again and again.
        """
        if size is not None and size != self.size:
            raise InvalidArgument(f"{self.what}: has {self.size} bytes; {size} were promised")
        algorithm, _, expected = digest.partition(":")
        stream = Hashed(self.stream(), algorithm)
        while data := stream.read(1 << 20):
            tell(len(data))
        if stream.hexdigest() != expected:
            raise InvalidArgument(f"{self.what}: wrong digest: is {algorithm}:{stream.hexdigest()}, not {digest}")

    def document(self) -> Any:
        """Return the JSON document that it is. Raises InvalidArgument."""
        if self.size > SIZE_LIMIT:
            raise InvalidArgument(f"{self.what}: larger than {SIZE_LIMIT} bytes")
        pieces, stream = [], self.stream()
        while data := stream.read(SIZE_LIMIT):
            pieces.append(data)
        return read_json(b"".join(pieces), self.what)


def check_digest(digest: object, what: str) -> str:
    """Return a digest that is one: `sha256:` and 64 hexadecimal digits. Raises InvalidArgument.

    A digest becomes a path (blobs/sha256/…): anything else in it could lead somewhere else.
    """
    algorithm, _, value = digest.partition(":") if isinstance(digest, str) else ("", "", "")
    if algorithm not in DIGESTS:
        raise InvalidArgument(f"{what}: digest {_quoted(digest)}: must be of sha256 or sha512")
    if len(value) != DIGESTS[algorithm] or value.strip("0123456789abcdef"):
        raise InvalidArgument(f"{what}: digest {_quoted(digest)}: must have {DIGESTS[algorithm]} hexadecimal digits")
    return f"{algorithm}:{value}"


def _quoted(value: object) -> str:
    return shown(str(value).encode(errors="backslashreplace"))


class DirectorySource:
    """An image in a directory. Links that leave it are not followed."""

    def __init__(self, root: int, what: str, stack: ExitStack) -> None:
        self.what, self._root, self._stack = what, root, stack
        self._open: dict[str, int] = {}

    def open(self, name: str) -> Blob:
        """Return a file, which stays open as long as the source."""
        what = f"{self.what}: {_quoted(name)}"
        if name not in self._open:
            self._open[name] = self._descriptor(name, what)
            self._stack.callback(os.close, self._open[name])
        return Blob(self._open[name], 0, os.fstat(self._open[name]).st_size, what)

    def _descriptor(self, name: str, what: str) -> int:
        try:
            return open_file(self._root, os.fsencode(name), BENEATH, what)
        except (FileNotFoundError, NotADirectoryError):
            raise NotFound(f"{what}: is not there") from None
        except OSError as error:
            if error.errno in (errno.EXDEV, errno.ELOOP):
                raise InvalidArgument(f"{what}: symbolic link that leaves the image") from None
            raise


class ArchiveSource:
    """An image in a tar archive: an index of its files, whose names lead nowhere but to the archive."""

    def __init__(self, descriptor: int, size: int, budget: Budget, what: str) -> None:
        self.what, self._descriptor = what, descriptor
        archive = Archive(Section(descriptor, 0, size, what), budget, what, marked=True)
        #: Offset and size of a file, the target of a link, or what refuses a name that is there twice.
        self._files: dict[bytes, tuple[int, int] | bytes | None] = {}
        for entry in archive.entries():
            if entry.name in self._files:
                self._files[entry.name] = None
            elif entry.kind == FILE:
                self._files[entry.name] = (archive.end, entry.size)
            elif entry.kind == LINK:
                self._files[entry.name] = entry.target
            elif entry.kind == SYMLINK:
                self._files[entry.name] = _linked(entry.name, entry.target)

    def open(self, name: str) -> Blob:
        """Return a file."""
        path, what = os.fsencode(name), f"{self.what}: {_quoted(name)}"
        for _ in range(_HOPS):
            if path not in self._files:
                raise NotFound(f"{what}: is not there")
            found = self._files[path]
            if found is None:
                raise InvalidArgument(f"{what}: is in the archive twice, or a link that leaves it")
            if isinstance(found, tuple):
                return Blob(self._descriptor, *found, what)
            path = found
        raise InvalidArgument(f"{what}: links that lead nowhere")


def _linked(name: bytes, target: bytes) -> bytes | None:
    """Return where a symbolic link of the archive leads, or None if that is outside of it."""
    way = split(name)[0].split(b"/") if b"/" in name else []
    for part in target.split(b"/"):
        if part == b"..":
            if not way:
                return None
            way.pop()
        elif part not in (b"", b"."):
            way.append(part)
    return None if target.startswith(b"/") else b"/".join(way)
