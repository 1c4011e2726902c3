"""Waits for the ends of all processes of a shim, and of their input: one thread, one descriptor for each.

Every exit status is taken here and nowhere else, by pidfd, so that no reused pid is mistaken for it.
"""

from __future__ import annotations

import contextlib
import os
import select
import time
from threading import Lock, Thread

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable

    #: Called with the exit code (128+N after signal N) and the time since the epoch.
    Ended = Callable[[int, float], None]


class Reaper:
    """Tells of each process's end once."""

    def __init__(self) -> None:
        self._lock = Lock()
        self._watched: dict[int, Callable[[], None]] = {}
        self._poll = select.epoll()
        Thread(target=self._run, name="reaper", daemon=True).start()

    def watch(self, pid: int, ended: Ended) -> None:
        """Have it called when a child ends, by the reaper's thread: it must not block. Raises OSError."""
        pidfd = os.pidfd_open(pid)

        def take() -> None:
            ended(_take(pidfd), time.time())

        self.when_readable(pidfd, take)

    def when_readable(self, descriptor: int, act: Callable[[], None]) -> None:
        """Call it once, when there is something to read, and close the descriptor."""
        with self._lock:
            self._watched[descriptor] = act
        self._poll.register(descriptor, select.EPOLLIN)

    def _run(self) -> None:
        while True:
            for descriptor, _ in self._poll.poll():
                with self._lock:
                    act = self._watched.pop(descriptor, None)
                if act is not None:
                    self._poll.unregister(descriptor)
                    act()
                    os.close(descriptor)


def _take(pidfd: int) -> int:
    """Take a child's exit code: 128+N after signal N, 255 if somebody else has taken it."""
    with contextlib.suppress(ChildProcessError):
        result = os.waitid(os.P_PIDFD, pidfd, os.WEXITED)
        if result is not None:
            return result.si_status if result.si_code == os.CLD_EXITED else 128 + result.si_status
    return 255
