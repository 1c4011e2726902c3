"""What a bench has found so far."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from pysandbox.compare import figure
from pysandbox.compare.measure import Failed

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

#: Failures of one scenario after which it is left out.
ENOUGH = 2


@dataclass(slots=True)
class Result:
    """What was found so far."""

    series: figure.Series = field(default_factory=figure.Series)
    missing: dict[str, str] = field(default_factory=dict)
    #: Contender and scenario → what went wrong, each word once.
    failures: dict[tuple[str, str], list[str]] = field(default_factory=dict)
    contenders: list[dict[str, Any]] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    interrupted: bool = False

    def failed(self, label: str, scenario: str, error: object) -> None:
        """Keep what went wrong."""
        self.failures.setdefault((label, scenario), []).append(str(error))

    def annotate(self, label: str, note: str) -> None:
        """Add to what is told of a contender."""
        for each in self.contenders:
            if each["name"] == label:
                each["note"] = "; ".join(text for text in (each["note"], note) if text)

    def given_up(self, label: str, scenario: str) -> bool:
        """Tell whether a scenario failed too often to be tried again."""
        return len(self.failures.get((label, scenario), ())) >= ENOUGH

    def keep(self, label: str, name: str, act: Callable[[], Iterator[tuple[str, float]]], number: int) -> None:
        """Do something of a contender and keep what it yields, or what went wrong; round 0 does not count."""
        if self.given_up(label, name):
            return
        try:
            for scenario, value in act():
                if number:
                    self.series.add(scenario, label, number, value)
        except Failed as error:
            self.failed(label, name, error)
