"""What was promised, and when it counts as kept."""

from __future__ import annotations

import pytest

from pysandbox.compare import goals
from pysandbox.compare.goals import GOALS, Goal, Judgement

WARM_RUN = Goal("pysandbox", "run true", "runc", 0.5, 0.35)


def _judgement(value: float, goal: Goal = WARM_RUN) -> Judgement:
    return Judgement(goal, goal.name, goal.reference or "", value, value - 0.2, value + 0.2)


@pytest.mark.parametrize(("ratio", "met", "aimed"), [(0.35, True, True), (0.5, True, False), (0.51, False, False)])
def test_the_median_decides_whatever_the_interval_is(ratio: float, met: bool, aimed: bool) -> None:
    found = _judgement(ratio)

    assert (found.met, found.aimed) == (met, aimed)


def test_where_there_is_no_aim_none_is_judged() -> None:
    assert _judgement(1.0, Goal("pysandbox-cold", "state", "runc", 10.0)).aimed is None


def test_warm_run_is_held_to_both_references() -> None:
    series = {"run true": {"pysandbox": [4.0] * 5, "runc": [10.0] * 5, "crun": [5.0] * 5}}

    found = {each.reference: (each.value, each.met, each.aimed) for each in goals.judge(series)}

    assert found == {"runc": (0.4, True, False), "crun": (0.8, True, False)}


def test_a_place_is_judged_by_the_references_in_it() -> None:
    """crun may run only in the private place: nobody on the host is compared with it."""
    series = {"run true": {"pysandbox": [9.0], "pysandbox@cgroup2": [10.0], "runc": [10.0], "crun@cgroup2": [5.0]}}

    found = {(each.label, each.reference): each.value for each in goals.judge(series)}

    assert found == {("pysandbox", "runc"): 0.9, ("pysandbox@cgroup2", "crun@cgroup2"): 2.0}


def test_cold_has_goals_of_its_own() -> None:
    series = {"run true": {"pysandbox": [1.0], "pysandbox-cold": [29.0], "runc": [10.0]}}

    met = {each.label: each.met for each in goals.judge(series)}

    assert met == {"pysandbox": True, "pysandbox-cold": True}


def test_the_executors_goal_is_in_milliseconds() -> None:
    (found,) = goals.judge({"executor": {"pysandbox-cold": [2.0, 2.5, 9.0]}})

    assert (found.value, found.met) == (2.5, True)
    assert "≤ 3 ms: met" in "\n".join(goals.lines([found]))


def test_what_was_not_measured_is_not_judged() -> None:
    assert goals.judge({"state": {"runc": [1.0]}}) == []
    assert list(goals.lines([])) == []


def test_the_table_shows_the_interval_the_goal_and_the_aim() -> None:
    shown = "\n".join(goals.lines([_judgement(0.4)]))

    assert "run true: pysandbox / runc" in shown
    assert "0.40 (0.20 … 0.60)" in shown
    assert "≤ 0.5: met" in shown
    assert "≤ 0.35: missed" in shown


def test_the_goals_are_those_of_the_issue() -> None:
    warm = {(each.scenario, each.reference): (each.limit, each.aim) for each in GOALS if each.name == "pysandbox"}

    assert warm == {
        ("run true", "runc"): (0.5, 0.35),
        ("run true", "crun"): (1.25, 0.75),
        ("exec true", "runc"): (0.35, 0.15),
        ("state", "runc"): (1.0, 0.5),
        ("kill", "runc"): (1.0, 0.5),
    }
