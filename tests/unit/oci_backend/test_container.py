"""What a runtime answers about its container, and what of it is not believed."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest

from pysandbox_oci.call import RuntimeFailed
from pysandbox_oci.container import OciContainer


def container(answer: object) -> OciContainer:
    runtime: Any = SimpleNamespace(
        name="mine", ask_json=lambda *_: answer, dialect=SimpleNamespace(indirect=False, stats=True)
    )
    return OciContainer("c", "/nowhere", runtime, 1, 0)


def test_pids_are_those_that_the_runtime_tells() -> None:
    assert container([2, 4711]).pids() == [2, 4711]
    assert container(None).pids() == []


@pytest.mark.parametrize("answer", [{}, "1", [True], [0], [-1], [2**22 + 1], [10**400], ["2"], [2.0], [[2]]])
def test_what_can_be_no_pid_is_none(answer: object) -> None:
    with pytest.raises(RuntimeFailed, match="mine ps: no list of pids"):
        container(answer).pids()


@pytest.mark.parametrize("answer", [[], "x", {}, {"data": 1}, {"data": []}])
def test_an_event_without_statistics_is_told(answer: object) -> None:
    with pytest.raises(RuntimeFailed, match="mine events: no statistics in its answer"):
        container(answer).stats()


@pytest.mark.parametrize("answer", [[], None, "paused", {"status": ["paused"]}])
def test_a_state_that_is_none_is_not_paused(answer: object) -> None:
    assert not container(answer).paused()
