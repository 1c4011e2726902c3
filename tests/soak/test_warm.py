"""The warm start in large numbers. `PYSANDBOX_SOAK_COMMANDS` and its like change how large."""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from harness import endurance, faults
from harness.bundle import Bundle
from harness.faults import Served
from harness.host import leftovers, settled
from harness.installation import Installation

COMMANDS = int(os.environ.get("PYSANDBOX_SOAK_COMMANDS", "10000"))
AT_ONCE = int(os.environ.get("PYSANDBOX_SOAK_AT_ONCE", "200"))
LIVES = int(os.environ.get("PYSANDBOX_SOAK_CYCLES", "1000"))
ROUNDS = int(os.environ.get("PYSANDBOX_SOAK_ROUNDS", "30"))
#: How many points of each kind at most: every one there is, unless told otherwise.
POINTS = int(os.environ.get("PYSANDBOX_SOAK_POINTS", "100000"))


@pytest.fixture
def installation() -> Iterator[Installation]:
    """An installation of the test's own, with its server."""
    made = Installation()
    yield made.serve()
    made.remove()


@pytest.fixture
def served(installation: Installation, place: Path) -> Iterator[Served]:
    """The same, driven as a runtime; nothing may be left."""
    runtime = Served(installation, place / "state")
    yield runtime
    runtime.delete_all()
    left = settled(lambda: leftovers(runtime, place))
    assert not left, "left behind:\n" + "\n".join(left)


def test_ten_thousand_commands_in_sequence(installation: Installation) -> None:
    faults.in_sequence(installation, 100)
    before = faults.footprint(installation)
    began = time.monotonic()

    faults.in_sequence(installation, COMMANDS)

    faults.assert_as_before(installation, before)
    print(
        f"{COMMANDS} commands in {time.monotonic() - began:.0f} s; {before} before, {faults.footprint(installation)} after"
    )


def test_two_hundred_commands_at_once(installation: Installation) -> None:
    faults.in_sequence(installation, 100)
    before = faults.footprint(installation)

    for _ in range(ROUNDS // 3):
        faults.in_parallel(installation, AT_ONCE)

    faults.assert_as_before(installation, before)
    print(f"{ROUNDS // 3} times {AT_ONCE} at once; {installation.status()}")


def test_a_thousand_served_lives_leave_nothing_behind(
    installation: Installation, served: Served, bundle: Bundle, place: Path
) -> None:
    endurance.cycles(served, bundle, place, 30)
    before = faults.footprint(installation)

    endurance.cycles(served, bundle, place, LIVES)

    faults.assert_as_before(installation, before)
    print(f"{LIVES} lives, nothing left; {installation.status()}")


def test_a_spare_killed_at_any_step_of_create_leaves_nothing(served: Served, bundle: Bundle, place: Path) -> None:
    points = faults.points_of_spare(served, bundle, place)
    chosen = endurance.spread(points, POINTS)

    wrong = list(faults.kill_spares(served, bundle, place, chosen))

    assert wrong == []
    print(f"spare killed at {len(chosen)} of {len(points)} points, nothing left")


def test_a_server_killed_at_any_step_fails_no_command(served: Served, bundle: Bundle, place: Path) -> None:
    points = faults.points_of_server(served, bundle, place)
    chosen = endurance.spread(points, POINTS)

    wrong = list(faults.kill_servers(served, bundle, place, chosen))

    assert wrong == []
    print(f"server killed at {len(chosen)} of {len(points)} points, no command failed")


def test_a_launcher_killed_at_any_step_of_create_leaves_nothing(served: Served, bundle: Bundle, place: Path) -> None:
    points = faults.points_of_launcher(served, bundle, place)
    chosen = endurance.spread(points, POINTS)

    wrong = list(faults.kill_launchers(served, bundle, place, chosen))

    assert wrong == []
    print(f"launcher killed at {len(chosen)} of {len(points)} points, nothing left")


@pytest.mark.parametrize(
    "disturbance",
    [
        faults.kill_server, faults.terminate_server, faults.touch_a_source, faults.replace_the_script,
        faults.replace_the_launcher, faults.replace_the_tree,
    ],
)  # fmt: skip
def test_no_command_fails_for_what_happens_to_the_server(
    installation: Installation, disturbance: Callable[[Installation], None]
) -> None:
    assert faults.disturb(installation, disturbance, ROUNDS) == []
