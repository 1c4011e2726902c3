"""A machine's memory: an anonymous file (memfd_create(2)) that QEMU maps, and file servers too.

A clone that has no file server maps its template's memory privately, all clones the same file. QEMU opens that for
writing, as it knows no other way before 8.2; so it is a copy that the kernel lets nobody write to any more
(F_SEAL_WRITE of fcntl(2)), and that lasts as long as any of the machines. Where it is found is written down beside the
template: pid, start time and descriptor number of a process of ours that has it open.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import os

from pysandbox.linux import is_alive, start_time

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator

#: Memory that is nothing but zeros in so many bytes is a hole in a template.
BLOCK = 64 * 1024
_MFD_EXEC = 0x10  # linux/memfd.h: mode 0777 as before Linux 6.3, for QEMU's own user opens it once more
_F_ADD_SEALS, _F_GET_SEALS = 1033, 1034
_SEALED = 0x1 | 0x2 | 0x4 | 0x8  # F_SEAL_SEAL | F_SEAL_SHRINK | F_SEAL_GROW | F_SEAL_WRITE
_NAME = "pysandbox-memory"


def new_memory(size: int) -> int:
    """Return memory of so many bytes, backed only where something is written; the caller's to close."""
    flags = os.MFD_CLOEXEC | os.MFD_ALLOW_SEALING
    try:
        descriptor = os.memfd_create(_NAME, flags | _MFD_EXEC)
    except OSError:  # before Linux 6.3
        descriptor = os.memfd_create(_NAME, flags)
    os.ftruncate(descriptor, size)
    return descriptor


def copy_sparse(source: int, target: int) -> None:
    """Write what a file has, and no holes, into an empty one of the same size."""
    for start, end in extents(source):
        place = os.lseek(target, start, os.SEEK_SET)
        while place < end:
            if not (sent := os.sendfile(target, source, place, end - place)):
                raise OSError(errno.EIO, "a template's memory has become shorter")
            place += sent


def copy_without_zeros(source: int, target: int) -> None:
    """Write what a file has into an empty one; blocks of zeros become holes."""
    zeros = bytes(BLOCK)
    os.ftruncate(target, os.fstat(source).st_size)
    for start, end in extents(source):
        for place in range(start - start % BLOCK, end, BLOCK):
            data = os.pread(source, BLOCK, place)
            if data != zeros[: len(data)]:
                _write_at(target, data, place)


def extents(descriptor: int) -> Iterator[tuple[int, int]]:
    """Yield where a file has data: SEEK_DATA and SEEK_HOLE of lseek(2)."""
    end = 0
    while True:
        try:
            start = os.lseek(descriptor, end, os.SEEK_DATA)
        except OSError as error:
            if error.errno != errno.ENXIO:
                raise
            return
        end = os.lseek(descriptor, start, os.SEEK_HOLE)
        yield start, end


def sealed_copy(source: int) -> int:
    """Return a copy of a file that nobody can change any more; the caller's to close."""
    copy = new_memory(os.fstat(source).st_size)
    try:
        copy_sparse(source, copy)
        fcntl.fcntl(copy, _F_ADD_SEALS, _SEALED)
    except BaseException:
        os.close(copy)
        raise
    return copy


def offer(note: str, descriptor: int) -> None:
    """Let other processes of ours find a sealed copy for as long as this one has it open. `note` is a file's path."""
    new = f"{note}.{os.getpid()}"
    with contextlib.suppress(OSError):
        with open(new, "w", encoding="ascii", opener=_private) as file:
            file.write(f"{os.getpid()} {start_time(os.getpid())} {descriptor}")
        os.replace(new, note)


def offered(note: str, size: int) -> int | None:
    """Return a sealed copy that another offers in the note, the caller's to close; None where there is none any more.

    The note is in a directory of root's alone. Its process is told from a later one with the same pid by its start
    time, before and after its descriptor has been opened: a container's could hold what it likes.
    """
    holder = _holder(note)
    if holder is None:
        return None
    pid, started, number = holder
    try:
        descriptor = os.open(f"/proc/{pid}/fd/{number}", os.O_RDWR | os.O_CLOEXEC)
    except OSError:
        return None
    if is_alive(pid, started) and _is_sealed(descriptor) and os.fstat(descriptor).st_size == size:
        return descriptor
    os.close(descriptor)
    return None


def is_offered(note: str) -> bool:
    """Say whether the note's process is still there."""
    return _holder(note) is not None


def _holder(note: str) -> tuple[int, int, int] | None:
    """Return pid, start time and descriptor number of the process in a note, None if it has ended."""
    try:
        with open(note, encoding="ascii") as file:
            pid, started, number = (int(word) for word in file.read(100).split())
    except (OSError, ValueError):
        return None
    return (pid, started, number) if is_alive(pid, started) else None


def _is_sealed(descriptor: int) -> bool:
    try:
        return fcntl.fcntl(descriptor, _F_GET_SEALS) & _SEALED == _SEALED
    except OSError:
        return False


def _write_at(descriptor: int, data: bytes, place: int) -> None:
    rest = memoryview(data)
    while rest:
        written = os.pwrite(descriptor, rest, place)
        rest, place = rest[written:], place + written


def _private(path: str, flags: int) -> int:
    return os.open(path, flags | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)
