"""The launcher's life, as a pipe that only it can write to, and that hangs up when it ends."""

from __future__ import annotations

import fcntl
import os
import select
import signal

#: linux/fcntl.h, newer than Python's fcntl module.
_F_SETSIG = 10


class Life:
    """Tied to ours by the kernel: fcntl(2), O_ASYNC and F_SETSIG."""

    def __init__(self, pipe: int) -> None:
        self._pipe = pipe

    def share(self) -> None:
        """Have the kernel kill us when the launcher ends, however it does: as kill -9 ends a cold command."""
        fcntl.fcntl(self._pipe, fcntl.F_SETOWN, os.getpid())
        fcntl.fcntl(self._pipe, _F_SETSIG, signal.SIGKILL)
        fcntl.fcntl(self._pipe, fcntl.F_SETFL, os.O_ASYNC)
        poll = select.poll()
        poll.register(self._pipe, 0)
        if poll.poll(0):  # it was quicker
            os._exit(1)

    def fileno(self) -> int:
        """Return the descriptor of the pipe, which is to stay open."""
        return self._pipe

    def part(self) -> None:
        """Outlive it from now on."""
        fcntl.fcntl(self._pipe, fcntl.F_SETFL, 0)
