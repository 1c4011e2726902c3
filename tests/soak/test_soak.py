"""Lives, races, kills and failures in large numbers. `PYSANDBOX_SOAK_CYCLES` and its like change how large."""

from __future__ import annotations

import os
from pathlib import Path

from harness import endurance
from harness.bundle import Bundle
from harness.endurance import assert_nothing_left
from harness.runtime import Runtime

CYCLES = int(os.environ.get("PYSANDBOX_SOAK_CYCLES", "1000"))
ROUNDS = int(os.environ.get("PYSANDBOX_SOAK_ROUNDS", "30"))
#: How many points of each kind at most: every one there is, unless told otherwise.
POINTS = int(os.environ.get("PYSANDBOX_SOAK_POINTS", "100000"))


def test_a_thousand_lives_leave_nothing_behind(runtime: Runtime, bundle: Bundle, place: Path) -> None:
    endurance.cycles(runtime, bundle, place, CYCLES)
    print(f"{CYCLES} lives, nothing left")


def test_thirty_two_processes_race_on_one_id(runtime: Runtime, bundle: Bundle, place: Path) -> None:
    endurance.race(runtime, bundle.runs("/bin/sleep", "1000"), contestants=32, rounds=ROUNDS)
    assert_nothing_left(runtime, place)
    print(f"{ROUNDS} rounds of 32, one winner in each, nothing left")


def test_a_runtime_killed_at_any_step_of_create_leaves_nothing(runtime: Runtime, bundle: Bundle, place: Path) -> None:
    points = endurance.points_of_create(runtime, bundle, place, follow=False, faults=["KILL"])
    chosen = endurance.spread(points, POINTS)

    wrong = list(endurance.hit_create(runtime, bundle, place, chosen, follow=False))

    assert wrong == []
    print(f"killed at {len(chosen)} of {len(points)} points, nothing left")


def test_a_create_in_which_any_system_call_fails_leaves_nothing(runtime: Runtime, bundle: Bundle, place: Path) -> None:
    points = endurance.points_of_create(runtime, bundle, place, follow=True, faults=endurance.ERRORS)
    chosen = endurance.spread(points, POINTS)

    wrong = list(endurance.hit_create(runtime, bundle, place, chosen, follow=True))

    assert wrong == []
    print(f"failed at {len(chosen)} of {len(points)} points, nothing left")


def test_a_delete_in_which_any_system_call_fails_can_be_repeated(runtime: Runtime, bundle: Bundle, place: Path) -> None:
    points = endurance.points_of_delete(runtime, bundle, place, [*endurance.ERRORS, "KILL"])
    chosen = endurance.spread(points, POINTS)

    wrong = list(endurance.hit_delete(runtime, bundle, place, chosen))

    assert wrong == []
    print(f"failed or killed at {len(chosen)} of {len(points)} points of delete, nothing left")
