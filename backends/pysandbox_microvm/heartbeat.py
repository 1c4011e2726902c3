"""Is there still an agent? It is asked again and again, and has a limit to answer in.

A machine that is kept from running is not silent: one that waits for a processor, for its memory to be read back, or
that somebody has stopped. The kernel counts how long each thread has waited for a processor
(`/proc/PID/task/TID/schedstat`, Documentation/scheduler/sched-stats.rst) and tells what it does now (proc(5), `stat`).
So on an idle host a dead agent is noticed within the limit, and on a busy one it has as much more time as its machine
was kept waiting: a living agent is not taken for dead.
"""

from __future__ import annotations

import contextlib
import os
import time

from pysandbox.errors import DeadlineExceeded

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Protocol

    class Answerer(Protocol):
        """What is asked."""

        def check(self, timeout: float) -> object:
            """Return when it has answered. Raises DeadlineExceeded after so many seconds."""


#: Seconds after which silence is silence, whatever keeps the machine from running.
LONGEST = 30.0
#: Of the limit: what is left of it is between two questions.
_ANSWER = 0.6
#: The share of an answer's time that a machine must have been able to run, in one question or in several, for its
#: silence to mean something.
_ENOUGH = 0.9
_NANOSECONDS = 1e9


class Heartbeat:
    """Asks an agent whose machine is QEMU's process `pid`; `limit` is in seconds, from one answer to the next."""

    def __init__(self, agent: Answerer, pid: int, limit: float) -> None:
        self._agent, self._pids = agent, (pid, os.getpid())
        self._answer = limit * _ANSWER
        self.pause = limit - self._answer
        self._longest = max(LONGEST, limit)

    def ask(self) -> None:
        """Return when it has answered. Raises DeadlineExceeded where it is silent; what `check` raises besides."""
        deadline = time.monotonic() + self._longest
        silent = 0.0
        while True:
            began, waited = time.monotonic(), self._waited()
            try:
                self._agent.check(self._answer)
            except DeadlineExceeded:
                now = time.monotonic()
                if not any(map(_stands_still, self._pids)):
                    silent += max(0.0, now - began - (self._waited() - waited))
                if silent >= self._answer * _ENOUGH or now >= deadline:
                    raise
            else:
                return

    def _waited(self) -> float:
        """Return the seconds that QEMU and this process have waited for a processor, summed over their threads."""
        return sum(map(_delay, self._pids))


def _delay(pid: int) -> float:
    return sum(int(words[1]) for words in _threads(pid, "schedstat")) / _NANOSECONDS


def _stands_still(pid: int) -> bool:
    """Say whether a thread is stopped, or waits for a disk."""
    return any(words[0] in ("D", "T", "t") for words in _threads(pid, "stat"))


def _threads(pid: int, name: str) -> list[list[str]]:
    """Return the words of a file of each thread, from behind the thread's own name."""
    found = []
    with contextlib.suppress(OSError):
        for thread in os.listdir(f"/proc/{pid}/task"):
            with contextlib.suppress(OSError), open(f"/proc/{pid}/task/{thread}/{name}", errors="replace") as file:
                found.append(file.read(4096).rpartition(") ")[2].split())
    return found
