"""Output FIFOs whose client has not come yet.

containerd's clients open their ends in a thread of their own, which on a busy machine may be later than all of a short
program. Then it must not have been the last to hold the FIFO: its bytes are gone with the last who has it open, and who
opens it afterwards to read waits for ever, and containerd with it (`<-attachDone` of a CRI exec).
"""

from __future__ import annotations

import errno
import os
import select
import time
from threading import Event, Thread

#: Seconds that a FIFO is held for a client that does not come.
PATIENCE = 10.0
#: Seconds between two looks, growing.
_FIRST_PAUSE, _LONGEST_PAUSE = 0.001, 0.05


def hold_for_writing(path: str) -> int:
    """Open a FIFO to write, if somebody has it open to read; -1 if nobody has. Raises OSError.

    To be closed after it has been opened otherwise: a reader that sees nobody writing takes it for the end.
    """
    try:
        return os.open(path, os.O_WRONLY | os.O_NONBLOCK | os.O_CLOEXEC)
    except OSError as error:
        if error.errno != errno.ENXIO:  # fifo(7)
            raise
        return -1


class Unread:
    """One such FIFO, of a process that has ended: held to write, until somebody reads it or patience is at its end."""

    def __init__(self, descriptor: int) -> None:
        """Take over a descriptor that has it open both ways. Raises OSError, RuntimeError: it is closed then, too."""
        #: Set when it is held no more.
        self.done = Event()
        self._stop = Event()
        try:
            self._output = os.open(f"/proc/self/fd/{descriptor}", os.O_WRONLY | os.O_NONBLOCK | os.O_CLOEXEC)
        finally:
            os.close(descriptor)
        try:
            Thread(target=self._run, name="unread", daemon=True).start()
        except RuntimeError:
            os.close(self._output)
            raise

    def close(self) -> None:
        """Hold it no longer."""
        self._stop.set()

    def _run(self) -> None:
        deadline, pause = time.monotonic() + PATIENCE, _FIRST_PAUSE
        while not self._has_reader() and time.monotonic() < deadline and not self._stop.wait(pause):
            pause = min(2 * pause, _LONGEST_PAUSE)
        os.close(self._output)
        self.done.set()

    def _has_reader(self) -> bool:
        """POLLERR of poll(2): the reading end has been closed, or was never open."""
        poll = select.poll()
        poll.register(self._output, 0)
        return not poll.poll(0)
