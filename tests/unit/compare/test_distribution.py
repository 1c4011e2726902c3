"""The statistics of the bench."""

from __future__ import annotations

import random

import pytest

from pysandbox.compare import distribution, table
from pysandbox.compare.distribution import Ratio
from pysandbox.compare.scenario import traced_milliseconds


def test_the_median_of_an_odd_number_is_the_middle_value() -> None:
    assert distribution.median([9, 1, 5]) == 5


def test_the_median_of_an_even_number_lies_between_the_two() -> None:
    assert distribution.median([1, 2, 4, 100]) == 3


def test_quartiles_are_interpolated() -> None:
    summary = distribution.summarize([1, 2, 3, 4, 5, 6])

    assert (summary.count, summary.lower, summary.median, summary.upper) == (6, 2.25, 3.5, 4.75)


def test_one_value_is_its_own_quartile() -> None:
    assert distribution.quantile([7], 0.25) == distribution.quantile([7], 0.75) == 7


def test_no_values_have_no_quantile() -> None:
    with pytest.raises(ValueError, match="no values"):
        distribution.quantile([], 0.5)


def test_an_outlier_does_not_move_the_ratio() -> None:
    assert distribution.ratio([2.0] * 20 + [1000.0], [1.0] * 21).value == 2


def test_the_interval_holds_the_ratio_of_two_noisy_series() -> None:
    chance = random.Random(1)
    reference = [10 + chance.random() for _ in range(60)]
    measured = [30 + chance.random() * 3 for _ in range(60)]

    found = distribution.ratio(measured, reference)

    assert found.low <= found.value <= found.high
    assert 2.85 < found.low < 3.0 < found.high < 3.15


def test_noise_that_both_share_does_not_widen_the_interval() -> None:
    """Rounds are drawn, not values: a slow round is slow for both."""
    noise = [1 + 10 * random.Random(n).random() for n in range(50)]

    found = distribution.ratio([3 * value for value in noise], noise, resamples=200)

    assert (found.low, found.high) == (pytest.approx(3), pytest.approx(3))


def test_the_same_seed_gives_the_same_interval() -> None:
    values = [1.0, 2.0, 3.0, 4.0], [2.0, 1.0, 4.0, 3.0]

    assert distribution.ratio(*values, seed=3) == distribution.ratio(*values, seed=3)


def test_series_of_different_rounds_are_not_compared() -> None:
    with pytest.raises(ValueError, match="rounds"):
        distribution.ratio([1.0], [1.0, 2.0])


@pytest.mark.parametrize(("low", "high", "expected"), [(1, 3, "met"), (3.1, 4, "missed"), (2.9, 3.1, "open")])
def test_a_goal_is_met_or_missed_only_when_the_whole_interval_says_so(low: float, high: float, expected: str) -> None:
    assert distribution.verdict(Ratio(3, low, high), 3) == expected


def test_the_table_shows_ratio_goal_and_verdict() -> None:
    shown = "\n".join(table.lines({"run true": {"pysandbox": [20.0] * 5, "runc": [10.0] * 5}}))

    assert "2.00 (2.00 … 2.00)" in shown
    assert "≤ 3: met" in shown


def test_contenders_in_the_private_place_are_compared_with_runc_there() -> None:
    series = {"state": {"runc": [1.0], "runc@cgroup2": [2.0], "crun@cgroup2": [1.0]}}

    shown = [line for line in table.lines(series) if "crun@cgroup2" in line]

    assert "0.50 (" in shown[0]


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


def test_other_lines_of_a_trace_count_for_nothing() -> None:
    assert traced_milliseconds("hello\n\n" + TRACE + 'time="…" level=warning msg="5 ms + 3"\n') == 1.75
