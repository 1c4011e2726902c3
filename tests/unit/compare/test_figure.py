"""What a series of values comes to."""

from __future__ import annotations

import random

import pytest

from pysandbox.compare import figure


def test_a_ratio_is_that_of_the_rounds_in_which_both_took_part() -> None:
    slow, fast = {1: 10.0, 2: 20.0, 3: 30.0}, {2: 10.0, 3: 10.0, 4: 500.0}

    assert figure.ratio(slow, fast)["value"] == 2.5
    assert figure.ratio(slow, fast)["pairs"] == 2


def test_few_pairs_give_a_ratio_without_an_interval() -> None:
    found = figure.ratio({1: 2.0}, {1: 1.0})

    assert (found["value"], found["low"], found["high"]) == (2.0, None, None)


@pytest.mark.parametrize("reference", [{}, {9: 1.0}, {1: 0.0}])
def test_no_common_round_or_nothing_to_divide_by_gives_no_ratio(reference) -> None:
    assert figure.ratio({1: 2.0}, reference) is None


@pytest.mark.parametrize(("count", "inside"), [(5, None), (6, (0, 5)), (10, (1, 8)), (30, (9, 20))])
def test_the_interval_of_a_median_are_the_ranks_that_enclose_it_with_95_percent(count, inside) -> None:
    # Ranks as in the tables of the sign test.
    values = [float(number) for number in range(count)]

    assert figure.interval(values) == (None if inside is None else list(map(float, inside)))


def test_the_interval_of_a_median_holds_it_in_95_percent_of_all_draws() -> None:
    chance = random.Random(1)
    held = 0
    for _ in range(500):
        low, high = figure.interval([chance.lognormvariate(0, 1) for _ in range(20)])
        held += low <= 1.0 <= high  # the median of exp(N(0, 1))

    assert held >= 0.93 * 500


def test_every_scenario_says_how_it_is_taken() -> None:
    assert all(len(each.how) > 10 for each in figure.catalogue((1, 5)).values())
