"""What stops sandboxes from becoming more, and what is told of it."""

from __future__ import annotations

import itertools
from typing import Any

import pytest

from pysandbox.compare import growth
from pysandbox.compare.trial import Sandbox

GIB = 1 << 30


class Pen:
    """A contender whose sandboxes are numbers."""

    def __init__(self) -> None:
        self.there: list[Sandbox] = []
        self._numbers = itertools.count(1)

    def begin(self) -> tuple[Sandbox, float, float]:
        self.there.append(Sandbox(f"s{next(self._numbers)}", 0))
        return self.there[-1], 1.0, 2.0

    def remove(self, sandbox: Sandbox) -> None:
        self.there.remove(sandbox)


@pytest.fixture
def machine(monkeypatch: pytest.MonkeyPatch) -> Pen:
    """A machine of 10 GiB, of which each sandbox takes one."""
    pen = Pen()
    fields = {"MemTotal": lambda: 10 * GIB, "MemAvailable": lambda: (10 - len(pen.there)) * GIB}
    monkeypatch.setattr(growth, "memory", lambda name: fields[name]())
    monkeypatch.setattr(growth, "SETTLE", 0)
    monkeypatch.setattr(growth.processes, "descendants", lambda *_, **__: set())
    monkeypatch.setattr(growth.processes, "beside", lambda _: set())
    return pen


def grow(pen: Pen, levels: tuple[int, ...], seconds: float = 60) -> list[Any]:
    found: list[Any] = []
    found.extend(growth.grow(pen, levels, seconds, ()))  # type: ignore[arg-type]
    return found


def test_each_level_is_measured_once_reached_and_all_are_removed(machine: Pen) -> None:
    found = grow(machine, (1, 3))

    assert [one for one in found if one[0].startswith("create")] == [
        ("create and start, 1 there", 1, 3.0),
        ("create and start, 3 there", 2, 3.0),
        ("create and start, 3 there", 3, 3.0),
    ]
    assert ("available memory, 3 there", 3, 1024.0) in found
    assert machine.there == []


def test_a_quarter_of_the_memory_stays_free_and_what_is_left_out_is_told(machine: Pen) -> None:
    with pytest.raises(growth.Stopped, match=r"stopped at 6 sandboxes: only 4096 MiB .* left out: 7, 50 there"):
        grow(machine, (1, 7, 50))

    assert machine.there == []


def test_the_time_is_limited(machine: Pen) -> None:
    with pytest.raises(
        growth.Stopped, match="stopped at 0 sandboxes: more would take longer than -1 s; left out: 1, 2 "
    ):
        grow(machine, (1, 2), seconds=-1)
