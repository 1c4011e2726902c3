"""A shim in large numbers. `PYSANDBOX_SOAK_EXECS` and its like change how large."""

from __future__ import annotations

import os
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from daemon.containerd import Containerd
from daemon.release import Release, installed
from integration.conftest import layer
from integration.shim import endurance
from integration.shim.conftest import (
    Shim,
    make_containerd,
    make_shim,
    microvm_program,
    own_containerd,
    release,
    settings_file,
    shim_program,
)
from integration.shim.test_microvm import Machine, make_machine

__all__ = [
    "layer",
    "make_containerd",
    "make_machine",
    "make_shim",
    "microvm_program",
    "own_containerd",
    "release",
    "settings_file",
    "shim_program",
]

EXECS = int(os.environ.get("PYSANDBOX_SOAK_EXECS", "10000"))
AT_ONCE = int(os.environ.get("PYSANDBOX_SOAK_AT_ONCE", "200"))
ROUNDS = int(os.environ.get("PYSANDBOX_SOAK_ROUNDS", "30"))
BYTES = int(os.environ.get("PYSANDBOX_SOAK_BYTES", str(10 << 30)))
LIVE = int(os.environ.get("PYSANDBOX_SOAK_LIVE", "100"))
MACHINE_EXECS = int(os.environ.get("PYSANDBOX_SOAK_MACHINE_EXECS", "500"))
MACHINE_AT_ONCE = int(os.environ.get("PYSANDBOX_SOAK_MACHINE_AT_ONCE", "20"))
MACHINES = int(os.environ.get("PYSANDBOX_SOAK_MACHINES", "10"))
NONSENSE = int(os.environ.get("PYSANDBOX_SOAK_NONSENSE", "10000"))


@pytest.fixture
def shim(make_shim: Callable[[Path], Shim], make_bundle: Any) -> Shim:
    """A shim with a container that runs and has had many execs at once."""
    made = make_shim(make_bundle(["sleep", "100000"]))
    made.create()
    made.start()
    endurance.execs(made, AT_ONCE, at_once=AT_ONCE)
    return made


def test_execs_one_after_the_other(shim: Shim) -> None:
    endurance.execs(shim, 100)
    before, began = endurance.footprint(shim), time.monotonic()

    endurance.execs(shim, EXECS)

    took = time.monotonic() - began
    endurance.assert_flat(shim, before, mebibytes=4)
    print(f"{EXECS} execs in {took:.0f} s; {before} before, {endurance.footprint(shim)} after")


def test_execs_at_once(shim: Shim) -> None:
    before = endurance.footprint(shim)

    for _ in range(max(1, ROUNDS // 10)):
        endurance.execs(shim, AT_ONCE, at_once=AT_ONCE)

    endurance.assert_flat(shim, before, mebibytes=4)
    print(f"{AT_ONCE} execs at once; {before} before, {endurance.footprint(shim)} after")


def test_a_slow_reader_gets_every_byte(shim: Shim) -> None:
    endurance.slow_reader(shim, BYTES, terminal=False)


def test_a_terminals_slow_reader_gets_every_byte(shim: Shim) -> None:
    endurance.slow_reader(shim, BYTES // 16, terminal=True)


def test_nonsense_is_survived(shim: Shim) -> None:
    seed = int.from_bytes(os.urandom(4), "big")
    print(f"seed {seed}")
    before = endurance.footprint(shim)

    endurance.Fuzz(shim, seed).connections(NONSENSE)

    endurance.assert_flat(shim, before, mebibytes=16)
    print(f"{before} before, {endurance.footprint(shim)} after")


def test_live_containers_survive_containerd(own_containerd: Containerd) -> None:
    endurance.survive(own_containerd, LIVE)


def test_execs_in_a_machine(make_machine: Callable[[Path], Machine], make_bundle: Any) -> None:
    shim = make_machine(make_bundle(["sleep", "100000"]))
    shim.create()
    shim.start()
    endurance.execs(shim, MACHINE_AT_ONCE, at_once=MACHINE_AT_ONCE)
    before, began = endurance.footprint(shim), time.monotonic()

    endurance.execs(shim, MACHINE_EXECS)
    endurance.execs(shim, MACHINE_AT_ONCE, at_once=MACHINE_AT_ONCE)

    endurance.assert_flat(shim, before, mebibytes=4)
    print(
        f"{MACHINE_EXECS} execs in {time.monotonic() - began:.0f} s; {before} before, {endurance.footprint(shim)} after"
    )


def test_live_machines_survive_containerd(
    own_containerd: Containerd, release: Release, microvm_program: Path, settings_file: Path
) -> None:
    if release.directory != installed().directory:
        pytest.skip("machines are tried with the installed containerd only")
    options = ("--runtime-config-path", str(settings_file))
    endurance.survive(own_containerd, MACHINES, options=options, runtime="io.containerd.pysandbox-microvm.v2")
