"""The state of one containerd namespace's containers: a directory of its own, as two namespaces may have one id.

Every shim that has containers there holds a shared lock on it (flock(2)). Who leaves tries to lock it for itself: it is
the last one then, and removes the directory if it is empty. Who has opened it meanwhile sees that, and makes it anew.
"""

from __future__ import annotations

import contextlib
import fcntl
import os

from pysandbox.errors import InvalidArgument, Unavailable
from pysandbox.state import Store

ROOT = "/run/pysandbox-containerd"
#: Each is spoilt only by another that leaves in just that moment.
_ATTEMPTS = 1000


def enter(namespace: str, root: str = ROOT) -> Store:
    """Open a namespace's directory, which stays there until `leave`. Raises what `Store` does."""
    for _ in range(_ATTEMPTS):
        try:
            store = Store(f"{root}/{namespace}")
        except InvalidArgument as error:
            # Removed between being found and being looked at, or between being made and being opened.
            if isinstance(error.__cause__, FileNotFoundError | FileExistsError):
                continue
            raise
        fcntl.flock(store.descriptor, fcntl.LOCK_SH)
        if _is_there(store):
            return store
        os.close(store.descriptor)
    raise Unavailable(f"{root}/{namespace}: is no directory, or is being removed again and again")


def leave(store: Store) -> None:
    """Close it; remove it if it is empty and nobody else is in it."""
    try:
        with contextlib.suppress(OSError):  # BlockingIOError: another is; ENOTEMPTY: containers are
            fcntl.flock(store.descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            if _is_there(store):
                os.rmdir(store.path)
    finally:
        os.close(store.descriptor)


def _is_there(store: Store) -> bool:
    """Say whether the directory that is open is the one that bears the name."""
    try:
        named, held = os.stat(store.path, follow_symlinks=False), os.fstat(store.descriptor)
    except FileNotFoundError:
        return False
    return (named.st_dev, named.st_ino) == (held.st_dev, held.st_ino)
