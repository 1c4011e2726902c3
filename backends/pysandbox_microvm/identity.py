"""A uid and gid for each virtual machine: two machines that run at the same time never share one.

A machine's QEMU that was taken over could signal, trace and limit (RLIMIT_NPROC) every process of its own uid. So a
number is held by an open-file-description lock (fcntl(2), F_OFD_SETLK) on one byte of one file, the byte that the
number stands for: the kernel lets go of it with the last process that holds the descriptor, however that ends.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import stat
import struct

from pysandbox.errors import Unavailable
from pysandbox.record import dataclass

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator

#: The last 64 Ki ids below the range that systemd keeps for containers of its own (1879048192 on).
FIRST = 1878982656
COUNT = 65536
#: One file for the whole host, whatever state directories are in use.
DIRECTORY = "/run/pysandbox-microvm"
_NAME = "uids"
_SEEK_SET = 0


@dataclass(frozen=True, slots=True)
class Range:
    """The ids `first` … `first + count - 1`, uids and gids alike, that nothing else on the host uses."""

    first: int = FIRST
    count: int = COUNT


class Identity:
    """One uid, and the gid of the same number, held until `close` or the end of the process."""

    def __init__(self, uid: int, lock: int) -> None:
        self.uid = uid
        self.gid = uid
        self._lock = lock

    @classmethod
    def take(cls, range_: Range | None = None, directory: str = DIRECTORY) -> Identity:
        """Take an id that no machine holds. Raises Unavailable where all are taken, OSError where the lock fails.

        The search starts anywhere: an id is not given out again at once, while a process may still be on its way out.
        """
        range_ = range_ or Range()
        lock = _open(directory)
        try:
            start = int.from_bytes(os.urandom(4), "little")
            for step in range(range_.count):
                uid = range_.first + (start + step) % range_.count
                if _lock_byte(lock, uid) and not _in_use(uid):
                    return cls(uid, lock)
                _unlock_byte(lock, uid)
        except BaseException:
            os.close(lock)
            raise
        os.close(lock)
        raise Unavailable(
            f"all {range_.count} user ids from {range_.first} on are taken by machines: set a larger range"
        )

    def close(self) -> None:
        """Give the id back. Safe to call twice."""
        if self._lock >= 0:
            os.close(self._lock)
            self._lock = -1


@contextlib.contextmanager
def own_directory(path: str) -> Iterator[int]:
    """Hold a directory open that only root can write to, made where it is missing. Raises Unavailable, OSError."""
    os.makedirs(path, mode=0o700, exist_ok=True)
    held = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC)
    try:
        status = os.fstat(held)
        if status.st_uid != os.geteuid() or stat.S_IMODE(status.st_mode) & 0o022:
            raise Unavailable(f"{path}: is not a directory that only root can write")
        yield held
    finally:
        os.close(held)


def _open(directory: str) -> int:
    """Open the lock file."""
    with own_directory(directory) as held:
        return os.open(_NAME, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600, dir_fd=held)


def _lock_byte(descriptor: int, offset: int) -> bool:
    """Take the byte's lock; False where another open file description has it."""
    try:
        fcntl.fcntl(descriptor, fcntl.F_OFD_SETLK, _flock(fcntl.F_WRLCK, offset))
    except (BlockingIOError, PermissionError):  # EAGAIN or EACCES, as fcntl(2) says
        return False
    return True


def _unlock_byte(descriptor: int, offset: int) -> None:
    fcntl.fcntl(descriptor, fcntl.F_OFD_SETLK, _flock(fcntl.F_UNLCK, offset))


def _flock(kind: int, offset: int) -> bytes:
    """Return a `struct flock` for one byte; l_pid must be 0."""
    return struct.pack("hhqqi4x", kind, _SEEK_SET, offset, 1, 0)


def _in_use(uid: int) -> bool:
    """Say whether a process still has the uid: one whose machine has just been killed."""
    for name in os.listdir("/proc"):
        if name.isdecimal():
            try:
                if os.stat(f"/proc/{name}").st_uid == uid:
                    return True
            except (FileNotFoundError, ProcessLookupError):
                continue
    return False
