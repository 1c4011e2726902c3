"""Where a server is found: a directory of root's, and in it a key for each installation. The launcher knows it too.

`KEY.sock` is what spares accept on, `KEY.shim` is for shims, `KEY.control` asks the server itself, `KEY.lock` is locked
for the server's life. What it holds is the path of the installation's `pysandbox-cold`.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import time

from pysandbox.errors import InvalidArgument, PermissionDenied

DEFAULT_DIRECTORY = "/run/pysandbox-server"
#: Seconds after which a lock that names no installation is nobody's: a launcher makes it, its server writes into it.
FORGOTTEN = 3600.0
_PATH_LIMIT = 4096
#: `off`, or another directory.
VARIABLE = "PYSANDBOX_WARM"


def directory_path() -> str:
    """Return the directory that the environment names. Raises InvalidArgument for a relative one."""
    given = os.environ.get(VARIABLE, "")
    if given in ("", "off"):
        return DEFAULT_DIRECTORY
    if not given.startswith("/"):
        raise InvalidArgument(f"{VARIABLE}={given}: must be off, or the absolute path of a directory")
    return given


def open_directory(path: str) -> int:
    """Open the directory, which only root may be able to enter. Raises PermissionDenied, FileNotFoundError."""
    descriptor = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC)
    status = os.fstat(descriptor)
    if status.st_uid != 0 or status.st_mode & 0o077:
        os.close(descriptor)
        raise PermissionDenied(f"{path}: must be owned by root and open to nobody else (mode 0700)")
    return descriptor


def key_of(program: str) -> str:
    """Return the key of an installation, from the file of its `pysandbox-cold`: another file is another key."""
    status = os.stat(program)
    return f"{status.st_dev:x}-{status.st_ino:x}-{status.st_mtime_ns:x}"


def sweep(directory: int) -> None:
    """Remove the files of installations that are there no more, and have no server. Raises OSError."""
    for name in os.listdir(directory):
        key, found, rest = name.rpartition(".lock")
        if found and not rest:
            with contextlib.suppress(FileNotFoundError, BlockingIOError):
                _sweep(directory, key)


def _sweep(directory: int, key: str) -> None:
    lock = os.open(f"{key}.lock", os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC, dir_fd=directory)
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        if not _is_left(lock, key):
            return
        for kind in ("sock", "shim", "control", "lock"):
            with contextlib.suppress(FileNotFoundError):
                os.unlink(f"{key}.{kind}", dir_fd=directory)
    finally:
        os.close(lock)


def _is_left(lock: int, key: str) -> bool:
    """Say whether the installation of a lock has gone, or has become another."""
    program = os.fsdecode(os.read(lock, _PATH_LIMIT))
    if not program:
        return os.fstat(lock).st_mtime < time.time() - FORGOTTEN
    try:
        return key_of(program) != key
    except (FileNotFoundError, NotADirectoryError):
        return True
