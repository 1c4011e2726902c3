"""What a scenario reads from what a command prints."""

from __future__ import annotations

import pytest

from pysandbox.compare.measure import Failed
from pysandbox.compare.scenario import traced_milliseconds

TRACE = """\
    0.000 ms  +   0.000  stop
   10.000 ms  +  10.000  unshare
   11.000 ms  +   1.000  clone
   11.500 ms  +   0.500  stop
   20.000 ms  +   8.500  pivot_root
   20.250 ms  +   0.250  stop
"""


def test_the_executors_share_is_its_steps_without_the_answers_it_waited_for() -> None:
    assert traced_milliseconds(TRACE) == 1.0 + 0.5 + 0.25


def test_the_executors_share_is_its_start_and_what_follows_the_plan_but_not_the_wait_for_it() -> None:
    trace = """\
    0.000 ms  +   0.000  spawn
    0.750 ms  +   0.750  wait_plan
    3.000 ms  +   2.250  plan
    3.250 ms  +   0.250  enter_cgroups
    4.250 ms  +   1.000  stop
"""
    assert traced_milliseconds(trace) == 0.75 + 0.25 + 1.0


def test_the_part_of_it_that_run_waits_for_begins_with_the_plan() -> None:
    trace = """\
    0.000 ms  +   0.000  spawn
    0.750 ms  +   0.750  network
    1.250 ms  +   0.500  wait_plan
    3.000 ms  +   1.750  plan
    3.250 ms  +   0.250  unshare
    4.250 ms  +   1.000  stop
    9.000 ms  +   4.750  execute
    9.500 ms  +   0.500  executed
"""
    assert traced_milliseconds(trace) == 0.75 + 0.5 + 0.25 + 1.0 + 0.5
    assert traced_milliseconds(trace, since="plan") == 0.25 + 1.0 + 0.5


def test_other_lines_of_a_trace_count_for_nothing() -> None:
    assert traced_milliseconds("hello\n\n" + TRACE + 'time="…" level=warning msg="5 ms + 3"\n') == 1.75


def test_a_trace_without_a_step_is_a_failure_and_not_zero() -> None:
    with pytest.raises(Failed, match="no step"):
        traced_milliseconds("hello\n")
    with pytest.raises(Failed, match="no step plan"):
        traced_milliseconds(TRACE, since="plan")
