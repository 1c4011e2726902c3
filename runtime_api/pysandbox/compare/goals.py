"""What was promised, and whether it is kept."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from pysandbox.compare import contender, distribution

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

    Series = Mapping[str, Mapping[str, Sequence[float]]]


@dataclass(frozen=True, slots=True)
class Goal:
    """At most `limit` times the median of `reference` in the same place; `aim` is what is hoped for.

    Without a reference, limit and aim are milliseconds.
    """

    name: str
    scenario: str
    reference: str | None
    limit: float
    aim: float | None = None


GOALS = (
    Goal(contender.WARM, "run true", "runc", 0.5, 0.35),
    Goal(contender.WARM, "run true", "crun", 1.25, 0.75),
    Goal(contender.WARM, "exec true", "runc", 0.35, 0.15),
    Goal(contender.WARM, "state", "runc", 1.0, 0.5),
    Goal(contender.WARM, "kill", "runc", 1.0, 0.5),
    Goal(contender.COLD, "run true", "runc", 3.0),
    Goal(contender.COLD, "exec true", "runc", 4.0),
    Goal(contender.COLD, "state", "runc", 10.0),
    Goal(contender.COLD, "kill", "runc", 10.0),
    Goal(contender.COLD, "delete", "runc", 10.0),
    Goal(contender.COLD, "executor", None, 3.0),
)


@dataclass(frozen=True, slots=True)
class Judgement:
    """One goal in one place: what was measured, the interval that holds it with 95 % confidence, and the verdicts."""

    goal: Goal
    label: str
    reference: str
    value: float
    low: float
    high: float

    @property
    def met(self) -> bool:
        """Tell whether the median keeps the goal."""
        return self.value <= self.goal.limit

    @property
    def aimed(self) -> bool | None:
        """Tell whether it keeps the aim as well; None where there is none."""
        return None if self.goal.aim is None else self.value <= self.goal.aim


def judge(series: Series) -> list[Judgement]:
    """Judge every goal in each place where it was measured; what was not measured is not judged."""
    found = []
    for goal in GOALS:
        contenders = series.get(goal.scenario, {})
        for label in (goal.name, f"{goal.name}@cgroup2"):
            if label not in contenders:
                continue
            if goal.reference is None:
                summary = distribution.summarize(contenders[label])
                found.append(Judgement(goal, label, "", summary.median, summary.lower, summary.upper))
            elif (reference := contender.beside(label, goal.reference)) in contenders:
                ratio = distribution.ratio(contenders[label], contenders[reference])
                found.append(Judgement(goal, label, reference, ratio.value, ratio.low, ratio.high))
    return found


def lines(found: Sequence[Judgement]) -> Iterator[str]:
    """Yield the table of goals; nothing where none could be judged."""
    if not found:
        return
    yield ""
    yield f"{'goals':<54}{'median (95 %)':<24}{'goal':<18}aim"
    for each in found:
        unit = "" if each.reference else " ms"
        what = f"{each.goal.scenario}: {each.label}" + (f" / {each.reference}" if each.reference else "")
        measured = f"{each.value:.2f} ({each.low:.2f} … {each.high:.2f})"
        aim = "" if each.goal.aim is None else f"≤ {each.goal.aim:g}{unit}: {_word(met=bool(each.aimed))}"
        yield f"  {what:<52}{measured:<24}{f'≤ {each.goal.limit:g}{unit}: {_word(met=each.met)}':<18}{aim}".rstrip()


def _word(*, met: bool) -> str:
    return "met" if met else "missed"
