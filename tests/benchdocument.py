"""A bench's document as `pysandbox bench --json` writes it, made from numbers given by a test."""

from __future__ import annotations

from dataclasses import asdict
from typing import TYPE_CHECKING, Any

from pysandbox.compare import figure

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

MACHINE = {
    "kernel": "6.1.0", "architecture": "x86_64", "processors": 2, "governor": None, "ksm": "0",
    "transparent_huge_pages": "madvise", "cgroup": "v2", "python": "3.11.2", "load": [0.1, 0.2, 0.3],
    "load_after": [0.2, 0.2, 0.3], "stolen": 0.0, "memory_mib": 4096, "processor": "a processor", "file_system": "ext4",
}  # fmt: skip


def contender(name: str, kind: str, **more: str) -> dict[str, Any]:
    return {"name": name, "kind": kind, "command": [f"/usr/bin/{name}"], "version": "1.0", "note": "", **more}


def bench(
    values: Mapping[str, Mapping[str, Sequence[float]]],
    contenders: Sequence[Mapping[str, Any]],
    baseline: str | None = "runc",
    **more: Any,
) -> dict[str, Any]:
    """Return a document with these values: scenario → contender → one for each round."""
    series = figure.Series()
    for scenario, labels in values.items():
        for label, numbers in labels.items():
            for number, value in enumerate(numbers, 1):
                series.add(scenario, label, number, value)
    scenarios = figure.catalogue((1, 5))
    return {
        "version": 1, "kind": "bench", "bundle": "/a/bundle", "changes": ["process.args"],
        "taken": "2026-01-01T00:00:00+00:00", "seconds": 12.5, "tool_processor_seconds": 0.1, "interrupted": False,
        "settings": {"rounds": 10, "containers": 8, "growth": [1, 5], "growth_seconds": 10, "growth_memory_share": 0.75, "groups": ["life"]}, "machine": MACHINE, "baseline": baseline,
        "contenders": list(contenders), "missing": {}, "failures": [], "notes": [],
        "scenarios": [asdict(each) for each in scenarios.values()],
        "figures": list(series.figures(scenarios, baseline)),
    } | more  # fmt: skip


def finding(probe: str, verdict: str = "ok", **more: str) -> dict[str, str]:
    texts = {"how": "by looking", "observed": "1", "expected": "1", "why": "", "group": "identity"}
    return {"probe": probe, "verdict": verdict, **texts, **more}
