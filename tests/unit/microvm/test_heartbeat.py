"""When an agent that does not answer is silent, and when its machine only does not run."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from typing import TYPE_CHECKING

import pytest

from pysandbox.errors import DeadlineExceeded, Unavailable
from pysandbox_microvm import heartbeat
from pysandbox_microvm.heartbeat import Heartbeat

if TYPE_CHECKING:
    from collections.abc import Iterator

LIMIT = 0.2


class Agent:
    """Answers after so many questions; the others take their time."""

    def __init__(self, silent: float) -> None:
        self.silent, self.asked = silent, 0

    def check(self, timeout: float) -> None:
        self.asked += 1
        if self.asked <= self.silent:
            time.sleep(timeout)
            raise DeadlineExceeded("Check: no answer")


@pytest.fixture
def idle() -> Iterator[int]:
    """A machine that could run, and has nothing to do."""
    with subprocess.Popen(["sleep", "1000"]) as process:
        yield process.pid
        process.kill()


def test_an_answer_is_all_that_is_wanted(idle: int) -> None:
    agent = Agent(0)
    Heartbeat(agent, idle, LIMIT).ask()
    assert agent.asked == 1


def test_a_machine_that_can_run_is_silent_within_the_limit(idle: int) -> None:
    limit = 2.0  # the test itself may have to wait for a processor: a tenth of that would count
    pulse = Heartbeat(Agent(float("inf")), idle, limit)
    began = time.monotonic()
    with pytest.raises(DeadlineExceeded):
        pulse.ask()
    assert pulse.pause + time.monotonic() - began < limit + 1


def test_a_stopped_machine_is_asked_until_it_goes_on(idle: int) -> None:
    os.kill(idle, signal.SIGSTOP)
    agent = Agent(3)
    Heartbeat(agent, idle, LIMIT).ask()
    assert agent.asked == 4


@pytest.fixture
def crowded() -> Iterator[int]:
    """A machine that never rests, and shares a processor with three programs like it: it runs a quarter of the time."""
    program = "import os; os.sched_setaffinity(0, {min(os.sched_getaffinity(0))})\nwhile True: pass"
    busy = [subprocess.Popen([sys.executable, "-c", program]) for _ in range(4)]
    time.sleep(0.3)
    yield busy[0].pid
    for process in busy:
        process.kill()
        process.wait()


def test_a_machine_that_waits_for_a_processor_has_as_much_more_time(crowded: int) -> None:
    agent = Agent(1)
    Heartbeat(agent, crowded, 1.0).ask()
    assert agent.asked == 2


def test_a_machine_that_is_silent_when_it_runs_is_silent(crowded: int) -> None:
    agent = Agent(float("inf"))
    began = time.monotonic()
    with pytest.raises(DeadlineExceeded):
        Heartbeat(agent, crowded, 1.0).ask()
    assert agent.asked > 1
    assert time.monotonic() - began < heartbeat.LONGEST


def test_what_never_goes_on_has_a_limit_too(idle: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(heartbeat, "LONGEST", 0.5)
    os.kill(idle, signal.SIGSTOP)
    began = time.monotonic()
    with pytest.raises(DeadlineExceeded):
        Heartbeat(Agent(float("inf")), idle, LIMIT).ask()
    assert 0.5 <= time.monotonic() - began < 2


def test_any_other_error_is_told_at_once(idle: int) -> None:
    class Gone(Agent):
        def check(self, timeout: float) -> None:
            raise Unavailable("the agent has hung up")

    os.kill(idle, signal.SIGSTOP)
    with pytest.raises(Unavailable):
        Heartbeat(Gone(0), idle, LIMIT).ask()


def test_a_machine_that_has_gone_is_kept_by_nobody(idle: int) -> None:
    os.kill(idle, signal.SIGKILL)
    os.waitpid(idle, 0)
    with pytest.raises(DeadlineExceeded):
        Heartbeat(Agent(float("inf")), idle, LIMIT).ask()
