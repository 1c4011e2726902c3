"""Lives, races, kills and failures in small numbers; `make soak` does the same in large ones."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest
from harness import endurance
from harness.bundle import Bundle
from harness.endurance import assert_nothing_left
from harness.runtime import Runtime

needs_strace = pytest.mark.skipif(shutil.which("strace") is None, reason="strace is not installed")


def test_lives_leave_nothing_behind(runtime: Runtime, bundle: Bundle, place: Path) -> None:
    endurance.cycles(runtime, bundle, place, 9)


def test_one_of_many_creates_of_an_id_wins(runtime: Runtime, bundle: Bundle, place: Path) -> None:
    endurance.race(runtime, bundle.runs("/bin/sleep", "1000"), contestants=12, rounds=2)

    assert_nothing_left(runtime, place)


@needs_strace
def test_a_runtime_killed_while_it_creates_leaves_nothing_that_delete_does_not_remove(
    runtime: Runtime, bundle: Bundle, place: Path
) -> None:
    points = endurance.points_of_create(runtime, bundle, place, follow=False, faults=["KILL"])

    wrong = list(endurance.hit_create(runtime, bundle, place, endurance.spread(points, 12), follow=False))

    assert wrong == []


@needs_strace
def test_a_create_in_which_a_system_call_fails_leaves_nothing(runtime: Runtime, bundle: Bundle, place: Path) -> None:
    points = endurance.points_of_create(runtime, bundle, place, follow=True, faults=endurance.ERRORS)

    wrong = list(endurance.hit_create(runtime, bundle, place, endurance.spread(points, 12), follow=True))

    assert wrong == []


@needs_strace
def test_a_delete_in_which_a_system_call_fails_can_be_repeated(runtime: Runtime, bundle: Bundle, place: Path) -> None:
    points = endurance.points_of_delete(runtime, bundle, place, [*endurance.ERRORS, "KILL"])

    wrong = list(endurance.hit_delete(runtime, bundle, place, endurance.spread(points, 8)))

    assert wrong == []
