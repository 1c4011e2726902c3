"""The statistics of the bench."""

from __future__ import annotations

import random

import pytest

from pysandbox.compare import distribution


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
