"""Memory of processes that wait: proportional and private, from /proc/PID/smaps_rollup (Linux 4.14)."""

from __future__ import annotations

import contextlib
import time
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from pysandbox.compare import measure

if TYPE_CHECKING:
    from collections.abc import Iterable

    from pysandbox.compare.scenario import Bench
    from pysandbox.compare.server import Server, Status

#: Seconds in which spares that have served must be gone.
LIMIT = 10.0
#: The part of the warm contender that is in no cgroup of the caller's.
SPARE = "spare that serves"
SERVER, SPARES = "server", "idle spares"
SHARED = {SERVER, SPARES}


@dataclass(frozen=True, slots=True)
class Footprint:
    """Memory of some processes, in MiB.

    `proportional` (PSS) shares each page among all who have it; `private` is what would be free without them; `highest`
    adds to that what they once had more, and page tables: what they cost at most.
    """

    processes: int
    resident: float
    proportional: float
    private: float
    highest: float


def read_fields(text: str) -> dict[str, int]:
    """Return the fields of smaps_rollup or status that are in KiB, by name: `Name:   12 kB`."""
    lines = (line.split() for line in text.splitlines())
    return {words[0].removesuffix(":"): int(words[1]) for words in lines if len(words) == 3 and words[2] == "kB"}


def footprint(rollup: dict[str, int], status: dict[str, int]) -> Footprint:
    """Return one process's footprint from the fields of its smaps_rollup and its status (proc(5))."""
    private = rollup["Private_Clean"] + rollup["Private_Dirty"]
    highest = private + max(0, status["VmHWM"] - status["VmRSS"]) + status["VmPTE"]
    kibibytes = rollup["Rss"], rollup["Pss"], private, highest
    return Footprint(1, *(value / 1024 for value in kibibytes))


def total(each: Iterable[Footprint]) -> Footprint:
    """Return the sum."""
    rows = [(one.processes, one.resident, one.proportional, one.private, one.highest) for one in each]
    return Footprint(*(sum(column) for column in zip(*rows, strict=True))) if rows else Footprint(0, 0, 0, 0, 0)


def of(*pids: int) -> Footprint:
    """Return what these processes have now."""
    return total(footprint(_fields(pid, "smaps_rollup"), _fields(pid, "status")) for pid in pids)


def all_waiting(benches: Iterable[Bench], server: Server | None) -> dict[str, dict[str, Footprint]]:
    """Return it for each contender; what the warm one's spare has is added to its peaks from now on.

    What all containers share is told once, with the first of the warm contenders.
    """
    found: dict[str, dict[str, Footprint]] = {}
    told: set[str] = set()
    for bench in benches:
        parts = waiting(bench, server if bench.contender.warm else None)
        bench.elsewhere = parts[SPARE].highest if SPARE in parts else 0.0
        found[bench.contender.label] = {part: each for part, each in parts.items() if part not in told}
        told |= SHARED & set(parts)
    return found


def waiting(bench: Bench, server: Server | None) -> dict[str, Footprint]:
    """Return what a container costs while `run` waits for it in the foreground: part → footprint.

    For the warm contender that is the launcher and the spare that serves it; the server and its idle spares, which all
    containers share, are parts of their own.
    """
    with bench.foreground() as pid:
        if server is None:
            return {"run": of(pid)}
        status = _one_served(server)
        busy = of(*status.serving)
        parts = {"run": total([of(pid), busy]), "launcher": of(pid), SPARE: busy}
        return {**parts, SERVER: of(server.pid), SPARES: of(*status.spares)}


def _one_served(server: Server) -> Status:
    """Wait until the server serves nothing but one command: the spares that served others may be about to end."""
    deadline = time.monotonic() + LIMIT
    while len((status := server.status()).serving) != 1:
        if time.monotonic() > deadline:
            raise measure.Failed(f"the server serves {len(status.serving)} commands instead of one: it ran cold")
    return status


def _fields(pid: int, name: str) -> dict[str, int]:
    with contextlib.suppress(FileNotFoundError, ProcessLookupError):
        return read_fields(Path(f"/proc/{pid}/{name}").read_text())
    raise measure.Failed(f"process {pid} has ended before its memory was read")
