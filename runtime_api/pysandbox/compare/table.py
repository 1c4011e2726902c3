"""The result for a person: one block for each scenario."""

from __future__ import annotations

from typing import TYPE_CHECKING

from pysandbox.compare import contender, distribution

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

    from pysandbox.compare.footprint import Footprint

    Series = Mapping[str, Mapping[str, Sequence[float]]]

#: Whom everybody is compared with, where they took part.
REFERENCES = ("runc", "crun", contender.KERNEL)
UNITS = {"peak memory": "MiB"}


def lines(series: Series) -> Iterator[str]:
    """Yield the table: medians and quartiles, and the ratios to runc and to crun in the same place, with intervals."""
    for scenario, contenders in series.items():
        names = {label.partition("@")[0] for label in contenders}
        references = [name for name in REFERENCES if name in names]
        unit = UNITS.get(scenario, "per s" if "at once" in scenario else "ms")
        yield ""
        heads = "".join(f"{f'ratio to {name} (95 %)':<26}" for name in references)
        yield f"{scenario:<24}{'median ' + unit:>12}{'quartiles':>20}   {heads}".rstrip()
        for label, values in contenders.items():
            summary = distribution.summarize(values)
            quartiles = f"{summary.lower:.1f} … {summary.upper:.1f}"
            ratios = "".join(f"{_ratio(label, name, contenders):<26}" for name in references)
            yield f"  {label:<22}{summary.median:>12.2f}{quartiles:>20}   {ratios}".rstrip()


def memory_lines(parts: Mapping[str, Mapping[str, Footprint]], forks: Sequence[float]) -> Iterator[str]:
    """Yield the block of what waits, contender → part → footprint, and the milliseconds of the server's forks."""
    yield ""
    yield f"{'memory while run waits':<44}{'processes':>10}{'RSS MiB':>10}{'PSS MiB':>10}{'private MiB':>13}"
    for label, footprints in parts.items():
        for part, each in footprints.items():
            name = f"{label}: {part}"
            numbers = f"{each.resident:>10.2f}{each.proportional:>10.2f}{each.private:>13.2f}"
            yield f"  {name:<42}{each.processes:>10}{numbers}"
    if forks:
        found = distribution.summarize(forks)
        yield f"  a fork of the server: {found.median:.2f} ms ({found.lower:.2f} … {found.upper:.2f})"


def _ratio(label: str, name: str, contenders: Mapping[str, Sequence[float]]) -> str:
    reference = contender.beside(label, name)
    if reference == label or reference not in contenders:
        return ""
    found = distribution.ratio(contenders[label], contenders[reference])
    return f"{found.value:.2f} ({found.low:.2f} … {found.high:.2f})"
