from __future__ import annotations

import pytest

from pysandbox import executor


def test_a_pid_that_is_no_child_of_ours_is_not_killed(monkeypatch: pytest.MonkeyPatch) -> None:
    """It comes over the report socket, which a container that may look into processes could write to."""
    killed: list[tuple[int, int]] = []
    monkeypatch.setattr("os.kill", lambda *call: killed.append(call))

    executor._end(1)

    assert killed == []
