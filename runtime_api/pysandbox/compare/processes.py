"""Which processes a command left behind, and the memory of those that are not the workload."""

from __future__ import annotations

import contextlib
import os
from typing import TYPE_CHECKING

from pysandbox.cgroup import residents
from pysandbox.compare.derived import PROGRAM
from pysandbox.compare.footprint import read_fields

if TYPE_CHECKING:
    from collections.abc import Collection, Iterable, Iterator

#: A process: its pid and the clock ticks since boot at which it started.
Process = tuple[int, int]


def descendants(root: int, *, but: Collection[int] = ()) -> set[Process]:
    """Return all processes below `root`, without those below and including `but`."""
    children: dict[int, list[Process]] = {}
    for pid, parent, started in _all():
        children.setdefault(parent, []).append((pid, started))
    found: set[Process] = set()
    waiting = [root]
    while waiting:
        for process in children.get(waiting.pop(), ()):
            if process[0] not in but and process not in found:
                found.add(process)
                waiting.append(process[0])
    return found


def everybody() -> set[Process]:
    """Return all processes."""
    return {(pid, started) for pid, _, started in _all()}


def parent(pid: int) -> Process | None:
    """Return the parent of a process; None if either is gone."""
    found = {each: (above, started) for each, above, started in _all()}
    above = found.get(pid, (0, 0))[0]
    return (above, found[above][1]) if above in found else None


def beside(pid: int) -> set[Process]:
    """Return all processes that are in a cgroup of a container's `pid`, or below: whoever their parents are."""
    found = set(residents.beside(pid))
    return {process for process in everybody() if process[0] in found} if found else set()


def is_workload(pid: int) -> bool:
    """Tell whether a process is the gauge itself: what a host kernel runs for the user."""
    with contextlib.suppress(OSError):
        return os.readlink(f"/proc/{pid}/exe").endswith(PROGRAM)
    return False


def proportional(pids: Iterable[int]) -> tuple[int, float]:
    """Return how many of them are there, and their memory in MiB: PSS of /proc/PID/smaps_rollup (Linux 4.14)."""
    count, total = 0, 0
    for pid in pids:
        with contextlib.suppress(OSError), open(f"/proc/{pid}/smaps_rollup") as file:
            fields = read_fields(file.read())
            if "Pss" in fields:
                count, total = count + 1, total + fields["Pss"]
    return count, total / 1024


def _all() -> Iterator[tuple[int, int, int]]:
    """Yield pid, parent and start of each process (proc_pid_stat(5): what counts follows the last bracket)."""
    for name in os.listdir("/proc"):
        if name.isdigit():
            with contextlib.suppress(OSError, IndexError, ValueError), open(f"/proc/{name}/stat", "rb") as file:
                fields = file.read(4096).rpartition(b")")[2].split()
                yield int(name), int(fields[1]), int(fields[19])
