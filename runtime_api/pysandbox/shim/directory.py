"""A thread's own working directory.

What is started for a container, the executor and hooks, begins in its bundle, as on the command line, and many threads
of a shim work for as many containers. So a thread stops sharing its directory (CLONE_FS of unshare(2)) before it
changes it; a child has that of the thread that starts it.
"""

from __future__ import annotations

import contextlib
import os
from threading import local

from pysandbox.linux import CLONE_FS, unshare

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator

_thread = local()


@contextlib.contextmanager
def working_in(path: str) -> Iterator[None]:
    """Have this thread, and no other, work in a directory, and in `/` afterwards; in `/` where there is none."""
    if not getattr(_thread, "alone", False):
        unshare(CLONE_FS)
        _thread.alone = True
    try:
        os.chdir(path)
    except OSError:
        os.chdir("/")  # a bundle that is gone keeps no container from being deleted
    try:
        yield
    finally:
        os.chdir("/")
