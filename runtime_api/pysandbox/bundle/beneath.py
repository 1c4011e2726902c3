"""Open paths beneath a root: openat2(2), Linux 5.6. The kernel resolves them, in one step, from a descriptor."""

from __future__ import annotations

import ctypes
import errno
import os
import stat

from pysandbox.errors import InvalidArgument

_NR_OPENAT2 = 437
_RESOLVE_NO_XDEV, _RESOLVE_NO_MAGICLINKS, _RESOLVE_NO_SYMLINKS = 0x01, 0x02, 0x04
_RESOLVE_BENEATH, _RESOLVE_IN_ROOT = 0x08, 0x10
#: Nothing on the way may be a symbolic link or a mount point.
STRICT = _RESOLVE_BENEATH | _RESOLVE_NO_SYMLINKS | _RESOLVE_NO_MAGICLINKS | _RESOLVE_NO_XDEV
#: Symbolic links lead where they would if the descriptor were the root directory.
IN_ROOT = _RESOLVE_IN_ROOT | _RESOLVE_NO_MAGICLINKS | _RESOLVE_NO_XDEV
#: Symbolic links may not leave the directory; one that is absolute does.
BENEATH = _RESOLVE_BENEATH | _RESOLVE_NO_MAGICLINKS
#: EAGAIN: something was renamed while the kernel looked at a `..`; it asks to be asked again.
_TRIES = 128


class _Open_how(ctypes.Structure):
    _fields_ = [("flags", ctypes.c_uint64), ("mode", ctypes.c_uint64), ("resolve", ctypes.c_uint64)]


_libc = ctypes.CDLL(None, use_errno=True)


def openat2(directory: int, path: bytes, flags: int, resolve: int) -> int:
    """Open what is there, and return a descriptor (CLOEXEC). Raises OSError."""
    how = _Open_how(flags | os.O_CLOEXEC, 0, resolve)
    for _ in range(_TRIES):
        descriptor = _libc.syscall(
            _NR_OPENAT2, ctypes.c_int(directory), path or b".", ctypes.byref(how), ctypes.c_size_t(ctypes.sizeof(how))
        )
        if descriptor >= 0:
            return int(descriptor)
        code = ctypes.get_errno()
        if code != errno.EAGAIN:
            break
    raise OSError(code, os.strerror(code), os.fsdecode(path))


def open_directory(directory: int, path: bytes, resolve: int = STRICT) -> int:
    """Open a directory beneath another, for reading. Raises OSError."""
    return openat2(directory, path, os.O_RDONLY | os.O_DIRECTORY, resolve)


def open_file(directory: int, path: bytes, resolve: int, what: str) -> int:
    """Open a regular file for reading. Raises OSError, and InvalidArgument for anything else that is there."""
    # O_NONBLOCK: a FIFO in its place would stop us here for ever.
    descriptor = openat2(directory, path, os.O_RDONLY | os.O_NONBLOCK | os.O_NOCTTY, resolve)
    if not stat.S_ISREG(os.fstat(descriptor).st_mode):
        os.close(descriptor)
        raise InvalidArgument(f"{what}: not a regular file")
    return descriptor


def place_of(descriptor: int) -> bytes:
    """Return where a directory is now, for a reader: the path in /proc/self/fd."""
    return os.readlink(b"/proc/self/fd/%d" % descriptor)
