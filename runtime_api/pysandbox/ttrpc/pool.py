"""Threads that requests are served on: made when needed, up to a limit, and gone when they have been idle.

What comes when all are busy waits in a queue of limited length.
"""

from __future__ import annotations

import contextlib
from collections import deque
from threading import Condition, Lock, Thread

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable

#: Seconds that a thread waits for work before it ends.
LINGER = 10.0


class Pool:
    """At most `threads` of them, and at most `queue` pieces of work that wait.

    The last thread calls `rested` before it ends, when there has been no work for a while.
    """

    def __init__(self, threads: int, queue: int, rested: Callable[[], None] | None = None) -> None:
        self._rested = rested
        self._limit, self._queue_limit = threads, queue
        self._changed = Condition(Lock())
        self._work: deque[Callable[[], None]] = deque()
        self._threads = self._idle = 0

    @property
    def busy(self) -> bool:
        """Say whether there is work, begun or waiting."""
        with self._changed:
            return bool(self._work) or self._idle < self._threads

    def submit(self, work: Callable[[], None]) -> bool:
        """Have a thread do it; False if there are too many already. What it raises ends its thread."""
        with self._changed:
            if len(self._work) >= self._queue_limit:
                return False
            if len(self._work) >= self._idle and self._threads < self._limit:
                self._start()
            if not self._threads:
                return False
            self._work.append(work)
            self._changed.notify()
            return True

    def _start(self) -> None:
        """Start a thread if the kernel gives one: RuntimeError is how Python says that it does not (pids limit)."""
        with contextlib.suppress(RuntimeError):
            Thread(target=self._run, name="ttrpc", daemon=True).start()
            self._threads += 1

    def _run(self) -> None:
        try:
            while (work := self._next()) is not None:
                work()
                del work  # or it would keep the last request's memory while idle
        finally:
            with self._changed:
                self._threads -= 1
                last = not self._threads
            if last and self._rested is not None:
                self._rested()

    def _next(self) -> Callable[[], None] | None:
        with self._changed:
            if not self._work:
                self._idle += 1
                self._changed.wait(LINGER)
                self._idle -= 1
            return self._work.popleft() if self._work else None
