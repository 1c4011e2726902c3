"""The outputs of an exec: pipes of ours, emptied into the FIFOs that containerd reads.

An exec may leave programs behind that keep its outputs open for as long as the container lives. A client that has
deleted the exec waits for the end of what it reads all the same (CRI: "failed to drain exec process"), so these
programs must not hold the FIFOs themselves. The other end of a pipe is ours to close.
"""

from __future__ import annotations

import os
import select
import time
from threading import Event, Lock, Thread

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

_CHUNK = 64 * 1024
_SPLICE_F_NONBLOCK = 0x2  # splice(2)


class Outlet:
    """Moves what is written into pipes into FIFOs, at their readers' pace, until nobody has a pipe open to write.

    `ways` maps names to (reading end of a pipe, FIFO), both taken over; a FIFO that is done with goes to `let_go`.
    """

    def __init__(self, ways: Mapping[str, tuple[int, int]], let_go: Callable[[str, int], None]) -> None:
        """Raises OSError, RuntimeError where the kernel gives no descriptor or thread; everything is closed then."""
        self._ways, self._let_go = dict(ways), let_go
        self._full: set[str] = set()
        self._last_moment: float | None = None
        self._lock = Lock()  # of the bell
        self._bell = -1
        #: Set when nothing more will be moved.
        self.done = Event()
        try:
            self._bell = os.eventfd(0, os.EFD_CLOEXEC | os.EFD_NONBLOCK)
            Thread(target=self._run, name="outlet", daemon=True).start()
        except BaseException:
            self._close()
            raise

    def drain(self, patience: float) -> None:
        """Move what has been written so far, for at most so many seconds; what comes later goes nowhere."""
        with self._lock:
            self._last_moment = time.monotonic() + patience
            if self._bell >= 0:
                os.eventfd_write(self._bell, 1)
        self.done.wait(patience + 1.0)

    def _run(self) -> None:
        try:
            while self._ways and self._step():
                pass
        except OSError:
            pass  # what a FIFO cannot take is lost, as it would be to a process that had it
        finally:
            self._close()

    def _step(self) -> bool:
        """Wait, and move. False when what was to be drained has been."""
        last = self._last_moment
        ready = self._wait(last)
        for name in [name for name in self._ways if self._awaited(name) in ready]:
            self._move(name)
        return last is None or (time.monotonic() < last and bool(ready or self._full))

    def _wait(self, last: float | None) -> dict[int, int]:
        poll = select.poll()
        for name in self._ways:
            poll.register(self._awaited(name), select.POLLOUT if name in self._full else select.POLLIN)
        if last is None:
            poll.register(self._bell, select.POLLIN)
            return dict(poll.poll())
        return dict(poll.poll(1000 * max(0.0, last - time.monotonic()) if self._full else 0))

    def _awaited(self, name: str) -> int:
        """The pipe; of a FIFO that was full, the FIFO."""
        source, target = self._ways[name]
        return target if name in self._full else source

    def _move(self, name: str) -> None:
        source, target = self._ways[name]
        self._full.discard(name)
        try:
            moved = os.splice(source, target, _CHUNK, flags=_SPLICE_F_NONBLOCK)
        except BlockingIOError:
            self._full.add(name)
            return
        if not moved:
            self._end(name)

    def _end(self, name: str) -> None:
        source, target = self._ways.pop(name)
        self._full.discard(name)
        os.close(source)
        self._let_go(name, target)

    def _close(self) -> None:
        for name in list(self._ways):
            self._end(name)
        with self._lock:
            bell, self._bell = self._bell, -1
            if bell >= 0:
                os.close(bell)
        self.done.set()
