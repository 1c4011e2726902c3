"""Where a server is found: a directory of root's, and in it a key for each installation. The launcher knows it too.

`KEY.sock` is what spares accept on, `KEY.shim` is for shims, `KEY.control` asks the server itself, `KEY.lock` is locked
for the server's life.
"""

from __future__ import annotations

import os

from pysandbox.errors import InvalidArgument, PermissionDenied

DEFAULT_DIRECTORY = "/run/pysandbox-server"
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
