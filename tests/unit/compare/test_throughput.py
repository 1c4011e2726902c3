"""How containers per second are counted."""

from __future__ import annotations

import threading
import time

import pytest

from pysandbox.compare import throughput
from pysandbox.compare.measure import Failed


@pytest.mark.parametrize("level", throughput.LEVELS)
def test_all_workers_together_run_as_many_as_are_wanted(level: int) -> None:
    seen: list[int] = []

    turn = throughput.take(seen.append, level, containers=20)

    assert len(seen) == 20
    assert turn.containers == 20
    assert set(seen) <= set(range(level))


@pytest.mark.parametrize("level", [1, 3])
def test_so_many_run_at_once_and_no_more(level: int) -> None:
    together = threading.Barrier(level)
    running, most = [0], [0]
    lock = threading.Lock()

    def run(_worker: int) -> None:
        with lock:
            running[0] += 1
            most[0] = max(most[0], running[0])
        together.wait(timeout=10)  # passes only when `level` are here
        time.sleep(0.001)
        with lock:
            running[0] -= 1

    turn = throughput.take(run, level, containers=level * 3)

    assert turn.failures == []
    assert most[0] == level


def test_a_failure_is_kept_with_its_text_and_does_not_count_as_a_container() -> None:
    calls: list[int] = []

    def run(worker: int) -> None:
        calls.append(worker)
        time.sleep(0.001)
        if len(calls) == 3:
            raise Failed("no such bundle")

    turn = throughput.take(run, 1, containers=10)

    assert turn.failures == ["no such bundle"]
    assert len(calls) == 10
    assert turn.rate == pytest.approx(9 / turn.seconds)


def test_every_worker_has_four_containers_at_the_highest_level() -> None:
    assert max(throughput.LEVELS) * 4 <= throughput.CONTAINERS
