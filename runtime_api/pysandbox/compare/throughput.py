"""Containers per second: several workers, each starting the next container when its last one has ended."""

from __future__ import annotations

import itertools
import threading
import time
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from pysandbox.compare.measure import Failed

if TYPE_CHECKING:
    from collections.abc import Callable

#: How many at once.
LEVELS = (1, 2, 4, 8)
#: Containers in one turn, shared among the workers: at least four for each.
CONTAINERS = 32


@dataclass(slots=True)
class Turn:
    """What one turn came to."""

    containers: int
    seconds: float = 0.0
    failures: list[str] = field(default_factory=list)

    @property
    def rate(self) -> float:
        """Containers per second; those that failed do not count."""
        return (self.containers - len(self.failures)) / self.seconds


def scenario_name(level: int) -> str:
    """Return the name of this scenario in the table."""
    return f"run true, {level} at once"


def take(run: Callable[[int], object], level: int, containers: int = CONTAINERS) -> Turn:
    """Call `run(worker)` so many times, from `level` threads that share one counter.

    Threads have the mount namespace of the one that calls this. Waiting for a process releases the interpreter's lock;
    starting one does not, which is less than a millisecond of each turn and the same for everybody.
    """
    turn = Turn(containers)
    numbers = itertools.count()
    stopped = threading.Event()
    ready = threading.Barrier(level + 1)

    def work(worker: int) -> None:
        ready.wait()
        while (
            not stopped.is_set() and next(numbers) < containers
        ):  # one call of C code: no two workers get the same number
            try:
                run(worker)
            except (Failed, OSError) as error:
                turn.failures.append(str(error))

    workers = [threading.Thread(target=work, args=(number,), name=f"worker {number}") for number in range(level)]
    for each in workers:
        each.start()
    ready.wait()
    begin = time.perf_counter()
    try:
        for each in workers:
            each.join()
    except BaseException:  # an interrupt: nobody may start another container behind our back
        stopped.set()
        for each in workers:
            each.join()
        raise
    turn.seconds = time.perf_counter() - begin
    return turn
