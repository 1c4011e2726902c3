"""What a sandbox costs as more of them are there."""

from __future__ import annotations

import os
import time
from typing import TYPE_CHECKING

from pysandbox.compare import processes
from pysandbox.compare.trial import SETTLE, outside
from pysandbox.environment import memory

if TYPE_CHECKING:
    from collections.abc import Collection, Iterator, Sequence

    from pysandbox.compare.trial import Sandbox, Trial

#: This share of the machine's memory stays free.
RESERVE = 0.25


class Stopped(Exception):
    """More would take too long, or too much memory: why, and what is not measured."""


def grow(trial: Trial, levels: Sequence[int], seconds: float, but: Collection[int]) -> Iterator[tuple[str, int, float]]:
    """Start containers until each level is reached; yield scenario, number and value there; remove them.

    Raises Stopped where it takes longer than `seconds`, or so much memory that other programs would suffer; Failed.
    """
    sandboxes: list[Sandbox] = []
    before, available = processes.descendants(os.getpid(), but=but), memory("MemAvailable")
    deadline = time.monotonic() + seconds
    try:
        for level in levels:
            while len(sandboxes) < level:
                if reason := excess(len(sandboxes), available, deadline, seconds):
                    left_out = ", ".join(str(each) for each in levels if each >= level)
                    raise Stopped(f"stopped at {len(sandboxes)} sandboxes: {reason}; left out: {left_out} there")
                sandbox, created, started = trial.begin()
                sandboxes.append(sandbox)
                yield f"create and start, {level} there", len(sandboxes), created + started
            time.sleep(SETTLE)
            found = (processes.descendants(os.getpid(), but=but) - before).union(
                *(processes.beside(sandbox.pid) for sandbox in sandboxes)
            )
            yield f"memory of each, {level} there", level, outside(found).proportional / level
            taken = available - memory("MemAvailable")
            if taken > 0:
                yield f"available memory, {level} there", level, taken / level / (1 << 20)
    finally:
        for sandbox in reversed(sandboxes):
            trial.remove(sandbox)


def excess(count: int, available: int, deadline: float, seconds: float) -> str:
    """Return why no further sandbox is started; empty for none. `available` is MemAvailable before the first."""
    if time.monotonic() > deadline:
        return f"more would take longer than {seconds:.0f} s"
    now, total = memory("MemAvailable"), memory("MemTotal")
    each = max(0, available - now) / max(1, count)
    if now - 2 * each < total * RESERVE:
        return f"only {now >> 20} MiB of {total >> 20} MiB of memory are left"
    return ""
