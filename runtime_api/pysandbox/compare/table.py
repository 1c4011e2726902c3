"""The result for a person: one block for each scenario."""

from __future__ import annotations

from typing import TYPE_CHECKING

from pysandbox.compare import distribution

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

    Series = Mapping[str, Mapping[str, Sequence[float]]]

#: How many times runc's median each may take, cold.
GOALS = {"run true": 3.0, "exec true": 4.0, "state": 10.0, "kill": 10.0, "delete": 10.0}
#: Milliseconds from the executor's spawn to the program.
EXECUTOR_GOAL = 3.0
UNITS = {"peak memory": "MiB"}


def lines(series: Series) -> Iterator[str]:
    """Yield the table: medians and quartiles, the ratio to runc with its interval, the goal and whether it was met."""
    for scenario, contenders in series.items():
        unit = UNITS.get(scenario, "ms")
        yield ""
        yield f"{scenario:<24}{'median ' + unit:>12}{'quartiles':>20}   {'ratio to runc (95 %)':<26}goal"
        for label, values in contenders.items():
            summary = distribution.summarize(values)
            quartiles = f"{summary.lower:.1f} … {summary.upper:.1f}"
            comparison = _comparison(scenario, label, contenders)
            yield f"  {label:<22}{summary.median:>12.2f}{quartiles:>20}   {comparison}".rstrip()


def _comparison(scenario: str, label: str, contenders: Mapping[str, Sequence[float]]) -> str:
    name, _, place = label.partition("@")
    if scenario == "executor":
        met = "met" if distribution.median(contenders[label]) <= EXECUTOR_GOAL else "missed"
        return f"{'':<26}≤ {EXECUTOR_GOAL:g} ms: {met}"
    reference = contenders.get("runc" + (f"@{place}" if place else ""))
    if reference is None or name == "runc":
        return ""
    found = distribution.ratio(contenders[label], reference)
    text = f"{found.value:.2f} ({found.low:.2f} … {found.high:.2f})"
    if name != "pysandbox" or scenario not in GOALS:
        return text
    return f"{text:<26}≤ {GOALS[scenario]:g}: {distribution.verdict(found, GOALS[scenario])}"
