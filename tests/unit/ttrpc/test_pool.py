"""Threads that come and go."""

from __future__ import annotations

import threading
import time
from typing import TYPE_CHECKING

from pysandbox.ttrpc import pool

if TYPE_CHECKING:
    import pytest


def test_the_last_thread_says_that_there_is_nothing_to_do(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pool, "LINGER", 0.05)
    rests: list[float] = []
    done: list[int] = []
    go = threading.Event()
    threads = pool.Pool(4, 100, lambda: rests.append(time.monotonic()))

    for number in range(8):
        assert threads.submit(lambda number=number: (go.wait(10), done.append(number)))  # type: ignore[misc]
    time.sleep(0.3)
    assert rests == []
    go.set()

    deadline = time.monotonic() + 10
    while not rests and time.monotonic() < deadline:
        time.sleep(0.01)
    assert sorted(done) == list(range(8))
    time.sleep(0.2)
    assert len(rests) == 1
    assert threads.submit(lambda: done.append(8))
    while len(rests) < 2 and time.monotonic() < deadline:
        time.sleep(0.01)
    assert done[-1] == 8
    assert len(rests) == 2
