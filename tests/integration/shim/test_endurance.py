"""A shim under load, in small numbers; `make soak` has the large ones (tests/soak/test_shim.py)."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest
from integration.shim import endurance

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from daemon.containerd import Containerd
    from integration.shim.conftest import Shim

    Make = Callable[[Path], Shim]


@pytest.fixture
def shim(make_shim: Make, make_bundle: Any) -> Shim:
    """A shim with a container that runs and has had a few execs."""
    made = make_shim(make_bundle(["sleep", "100000"]))
    made.create()
    made.start()
    endurance.execs(made, 20, at_once=20)
    return made


def test_execs_one_after_the_other(shim: Shim) -> None:
    before = endurance.footprint(shim)
    endurance.execs(shim, 60)
    endurance.assert_flat(shim, before, mebibytes=2)


def test_execs_at_once(shim: Shim) -> None:
    before = endurance.footprint(shim)
    endurance.execs(shim, 40, at_once=20)
    endurance.assert_flat(shim, before, mebibytes=4)


def test_a_slow_reader_gets_every_byte(shim: Shim) -> None:
    endurance.slow_reader(shim, 64 << 20, terminal=False)


def test_a_terminals_slow_reader_gets_every_byte(shim: Shim) -> None:
    endurance.slow_reader(shim, 8 << 20, terminal=True)


@pytest.mark.parametrize("seed", range(2))
def test_nonsense_is_survived(shim: Shim, seed: int) -> None:
    before = endurance.footprint(shim)
    endurance.Fuzz(shim, seed).connections(40)
    endurance.assert_flat(shim, before, mebibytes=16)


def test_live_containers_survive_containerd(own_containerd: Containerd) -> None:
    endurance.survive(own_containerd, 6)
