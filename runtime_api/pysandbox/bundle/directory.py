"""Read a root file system that is a directory: the same entries that an archive of it would have."""

from __future__ import annotations

import os
import stat

from pysandbox.bundle.entry import BLOCK, CHARACTER, DEVICES, DIRECTORY, FIFO, FILE, LINK, SYMLINK, Entry
from pysandbox.bundle.limit import XATTRS
from pysandbox.bundle.name import check_length, join, shown
from pysandbox.bundle.stream import PIECE
from pysandbox.bundle.tree import kept_xattrs
from pysandbox.errors import InvalidArgument

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from pysandbox.bundle.entry import Content
    from pysandbox.bundle.limit import Budget

_KINDS = {
    stat.S_IFREG: FILE, stat.S_IFDIR: DIRECTORY, stat.S_IFLNK: SYMLINK, stat.S_IFIFO: FIFO, stat.S_IFCHR: CHARACTER,
    stat.S_IFBLK: BLOCK,
}  # fmt: skip


class Directory:
    """A root file system to copy. It may change meanwhile, or be somebody else's: no link of it is followed.

    `avoid` is the directory that is being filled, which must not be in it.
    """

    def __init__(self, root: int, budget: Budget, what: str, avoid: int, warn: Callable[[str, bytes], None]) -> None:
        self._root, self._budget, self._what, self._warn = root, budget, what, warn
        self._device = os.fstat(root).st_dev
        self._avoid = _identity(os.fstat(avoid))
        #: The first name of every file that has several.
        self._first: dict[tuple[int, int], bytes] = {}

    def entries(self) -> Iterator[tuple[Entry, Content]]:
        """Yield each entry with its content. Raises InvalidArgument where a limit is reached, OSError."""
        yield self._entry(b"", os.fstat(self._root), DIRECTORY, self._root), iter(())
        yield from self._walk(self._root, b"")

    def _walk(self, descriptor: int, path: bytes) -> Iterator[tuple[Entry, Content]]:
        for name in sorted(os.fsencode(name) for name in os.listdir(descriptor)):
            yield from self._visit(descriptor, name, join(path, name))

    def _visit(self, descriptor: int, name: bytes, path: bytes) -> Iterator[tuple[Entry, Content]]:
        check_length(path, self._what)
        status = os.stat(name, dir_fd=descriptor, follow_symlinks=False)
        kind = _KINDS.get(stat.S_IFMT(status.st_mode))
        if kind is None:
            self._warn("sockets", path)
        elif kind == DIRECTORY:
            yield from self._visit_directory(descriptor, name, path)
        elif kind == FILE:
            yield from self._visit_file(descriptor, name, path)
        else:
            entry = self._entry(path, status, kind, None)
            if kind == SYMLINK:
                entry.target = os.readlink(name, dir_fd=descriptor)
            yield entry, iter(())

    def _visit_directory(self, descriptor: int, name: bytes, path: bytes) -> Iterator[tuple[Entry, Content]]:
        child = os.open(name, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC, dir_fd=descriptor)
        try:
            status = os.fstat(child)
            if _identity(status) == self._avoid:
                raise holds_itself(self._what)
            yield self._entry(path, status, DIRECTORY, child), iter(())
            if status.st_dev == self._device:
                yield from self._walk(child, path)
            else:
                self._warn("contents of other file systems mounted", path)
        finally:
            os.close(child)

    def _visit_file(self, descriptor: int, name: bytes, path: bytes) -> Iterator[tuple[Entry, Content]]:
        flags = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_NOCTTY | os.O_CLOEXEC
        file = os.open(name, flags, dir_fd=descriptor)
        try:
            status = os.fstat(file)
            if not stat.S_ISREG(status.st_mode):
                raise InvalidArgument(f"{self._what}: {shown(path)}: changed while it was being copied")
            entry = self._entry(path, status, FILE, file)
            first = self._first.setdefault(_identity(status), path) if status.st_nlink > 1 else path
            if first != path:
                entry.kind, entry.target = LINK, first
            else:
                self._budget.take_bytes(entry.size, f"{self._what}: {shown(path)}")
            yield entry, _content(file, entry.size)
        finally:
            os.close(file)

    def _entry(self, path: bytes, status: os.stat_result, kind: str, descriptor: int | None) -> Entry:
        self._budget.take_entry(self._what)
        entry = Entry(name=path, kind=kind, mode=stat.S_IMODE(status.st_mode), uid=status.st_uid, gid=status.st_gid)
        entry.mtime = status.st_mtime_ns
        entry.size = status.st_size if kind == FILE else 0
        if kind in DEVICES:
            entry.device = os.major(status.st_rdev), os.minor(status.st_rdev)
        if descriptor is not None:
            # What the host itself has put there, such as labels, is nothing that was left out.
            names = kept_xattrs(descriptor)
            entry.xattrs = {name: os.getxattr(descriptor, name) for name in names[:XATTRS]}
        return entry


def holds_itself(what: str) -> InvalidArgument:
    """Return the refusal of a directory that is to be copied into itself."""
    return InvalidArgument(f"{what}: holds the bundle that is to be made of it: name another place")


def _identity(status: os.stat_result) -> tuple[int, int]:
    return status.st_dev, status.st_ino


def _content(file: int, size: int) -> Content:
    """Yield a file's pieces and leave out its holes; never more than it had when it was looked at."""
    position = 0
    while position < size:
        try:
            position = os.lseek(file, position, os.SEEK_DATA)
            end = min(os.lseek(file, position, os.SEEK_HOLE), size)
        except OSError:  # ENXIO: only a hole is left
            return
        while position < end and (data := os.pread(file, min(PIECE, end - position), position)):
            yield position, data
            position += len(data)
        if position < end:  # it has become shorter
            return
