"""What is measured, by name, and what the values of one scenario of one contender come to."""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from pysandbox.compare import distribution, gauge

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

#: Pairs of values below which a ratio is told without an interval.
PAIRS = 5
#: Of the bootstrap: enough for two digits of an interval's ends.
RESAMPLES = 400


@dataclass(frozen=True, slots=True)
class Scenario:
    """One thing that is measured: where it stands, in which unit, and how it was taken, in one sentence."""

    name: str
    group: str
    unit: str
    how: str
    higher_is_better: bool = False
    level: int | None = None


_TIMED = {
    "start to first byte": "`run` of a program that writes one line: from the start of the command to its first byte",
    "start to exit": "the same, to the end of the command",
    "create": "the command `create`, to its end",
    "start": "the command `start`, to its end",
    "exec to first byte": "`exec` of that program in a container that waits: to its first byte",
    "exec to exit": "the same, to the end of the command",
    "kill": "the command `kill`, to its end; the container's own end is not counted",
    "delete": "the command `delete` of an ended container, to its end",
}
_INSIDE = {
    "cpu": "steps of a generator of random numbers, each of which waits for the one before",
    "memory copy": "copies of 4 MiB from one buffer to another",
    "page fault": "first writes to pages of fresh memory",
    "system call": "geteuid(2), again and again",
    "switch": "a byte through a socket to another thread and back",
    "new process": "posix_spawn(3) of a static program, to its end",
    "file write": "16 MiB at most in blocks of 64 KiB, into the page cache",
    "file read": "the same file again, from the cache where there is one",
    "small file create": "files of 1 KiB: create, write, close",
    "small file read": "the same files: open, read, close",
    "small file remove": "the same files: unlink",
    "write and fsync": "4 KiB appended to a file, and fsync(2)",
    "TCP connect": "connect and accept on the sandbox's own loopback",
    "TCP round trip": "a byte to another thread and back over that loopback",
    "TCP stream": "blocks of 64 KiB over that loopback, one way",
}
GROUPS = ("life", "throughput", "memory", "growth", "inside", "containerd")
LEVELS = (1, 2, 4, 8)
_API = {
    "api: create": "Tasks.Create of containerd's API, which starts the shim",
    "api: start": "Tasks.Start",
    "api: delete": "Tasks.Delete of an ended task, which ends the shim",
    "api: create to exit": "from Tasks.Create to the answer of Tasks.Wait",
    "api: exec to exit": "Tasks.Exec, Start and Wait for a process in a task that waits",
}
_API_MEMORY = Scenario(
    "api: memory",
    "containerd",
    "MiB",
    "PSS of the shim of a task that has waited for 3 s and of all that the shim started, but the workload's own",
)
FOREGROUND, DETACHED = "memory, run waits", "memory, detached"
SHARED = "memory, warm server once"
_MEMORY = {
    FOREGROUND: "PSS of all processes of a `run` that waits for its container, but the workload's own",
    DETACHED: "PSS of all processes that stay after `create` and `start`, but the workload's own",
    SHARED: "PSS of our warm server and its idle spares: once, whatever the number of sandboxes",
}


def _growth(level: int) -> list[Scenario]:
    names = {
        "create and start": ("ms", "`create` and `start` of the last ones until so many are there"),
        "memory of each": ("MiB", "PSS of all that stays for so many sandboxes, divided by their number"),
        "available memory": ("MiB", "MemAvailable that so many took, workloads too, divided by their number"),
    }
    return [
        Scenario(f"{name}, {level} there", "growth", unit, how, False, level) for name, (unit, how) in names.items()
    ]


def catalogue(growth: tuple[int, ...]) -> dict[str, Scenario]:
    """Return all scenarios in the order of the tables; `growth` are the numbers of sandboxes."""
    found = [Scenario(name, "life", "ms", how) for name, how in _TIMED.items()]
    how = "`run` of that program to its end, again and again, by so many at once"
    found += [Scenario(throughput(level), "throughput", "per s", how, True, level) for level in LEVELS]
    found += [Scenario(name, "memory", "MiB", how) for name, how in _MEMORY.items()]
    found += [each for level in growth for each in _growth(level)]
    found += [Scenario(inside(name), "inside", *_unit(name, how)) for name, how in _INSIDE.items()]
    found += [Scenario(name, "containerd", "ms", how) for name, how in _API.items()] + [_API_MEMORY]
    return {each.name: each for each in found}


def throughput(level: int) -> str:
    """Return the name of a scenario."""
    return f"throughput, {level} at once"


def inside(name: str) -> str:
    """Return the name of a gauge's figure."""
    return f"inside: {name}"


def _unit(name: str, how: str) -> tuple[str, str, bool]:
    unit, higher = gauge.KNOWN[name]
    return unit, how, higher


@dataclass(slots=True)
class Series:
    """All values: scenario → contender → round → value. Who took no part in a round has none there."""

    values: dict[str, dict[str, dict[int, float]]] = field(default_factory=dict)

    def add(self, scenario: str, label: str, number: int, value: float) -> None:
        """Put one value where it belongs."""
        self.values.setdefault(scenario, {}).setdefault(label, {})[number] = value

    def figures(self, scenarios: Mapping[str, Scenario], baseline: str | None) -> Iterator[dict[str, Any]]:
        """Yield what each series comes to, in the order of the scenarios."""
        for name, scenario in scenarios.items():
            contenders = self.values.get(name, {})
            for label, values in contenders.items():
                reference = None if label == baseline else contenders.get(baseline or "")
                yield figure(scenario, label, values, reference)


def figure(
    scenario: Scenario, label: str, values: Mapping[int, float], reference: Mapping[int, float] | None
) -> dict[str, Any]:
    """Return one series as the document has it."""
    summary = distribution.summarize([*values.values()])
    return {
        "scenario": scenario.name,
        "group": scenario.group,
        "level": scenario.level,
        "unit": scenario.unit,
        "better": "higher" if scenario.higher_is_better else "lower",
        "contender": label,
        "count": summary.count,
        "lower": summary.lower,
        "median": summary.median,
        "upper": summary.upper,
        "interval": interval([*values.values()]),
        "ratio": None if reference is None else ratio(values, reference),
        "values": {str(number): value for number, value in sorted(values.items())},
    }


def ratio(values: Mapping[int, float], reference: Mapping[int, float]) -> dict[str, Any] | None:
    """Return the ratio of two medians of the rounds in which both took part; None where there is none to tell."""
    both = sorted(values.keys() & reference.keys())
    ours, theirs = [values[number] for number in both], [reference[number] for number in both]
    if not both or min(theirs) <= 0:
        return None
    if len(both) < PAIRS:
        found = distribution.median(ours) / distribution.median(theirs)
        return {"value": found, "low": None, "high": None, "pairs": len(both)} if math.isfinite(found) else None
    of = distribution.ratio(ours, theirs, resamples=RESAMPLES)
    return {"value": of.value, "low": of.low, "high": of.high, "pairs": len(both)}


def interval(values: Sequence[float]) -> list[float] | None:
    """Return where the median lies with at least 95 % confidence; None for less than six values, which cannot tell.

    By order statistics: of n values, each is below the median or above it like a coin's sides, so that the k-th lowest
    and the k-th highest enclose it unless fewer than k coins fall on one side. Nothing is assumed of the distribution.
    """
    count, ordered = len(values), sorted(values)
    outside, k = 0.0, 0
    while (outside := outside + 2 * math.comb(count, k) / 2**count) <= 1 - distribution.CONFIDENCE:
        k += 1
    return [ordered[k - 1], ordered[count - k]] if k else None
