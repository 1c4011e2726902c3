"""Whether two benches of the same thing agree."""

from __future__ import annotations

import random

import pytest
from benchdocument import bench, contender

from pysandbox.compare.agreement import agreement, bench_of
from pysandbox.errors import InvalidArgument

CONTENDERS = [contender("namespaces", "backend"), contender("runc", "runtime")]


def measured(seed: int, factor: float = 0.5) -> dict:
    chance = random.Random(seed)
    runc = [20 * chance.lognormvariate(0, 0.2) for _ in range(30)]
    ours = [20 * factor * chance.lognormvariate(0, 0.2) for _ in range(30)]
    return bench({"start to exit": {"runc": runc, "namespaces": ours}}, CONTENDERS)


def test_two_benches_of_the_same_thing_agree() -> None:
    found = agreement(measured(1), measured(2))

    assert (found.ratios, found.overlapping) == (1, 1)


def test_two_benches_of_different_things_do_not() -> None:
    found = agreement(measured(1), measured(2, factor=0.9))

    assert (found.ratios, found.overlapping) == (1, 0)
    assert found.apart[0].startswith("start to exit, namespaces: 0.")


def test_intervals_are_wide_enough_for_nineteen_of_twenty_repetitions() -> None:
    agreeing = sum(agreement(measured(seed), measured(seed + 1000)).overlapping for seed in range(40))

    assert agreeing >= 38


def test_ratios_to_somebody_else_are_not_compared() -> None:
    other = measured(1) | {"baseline": "crun"}

    with pytest.raises(InvalidArgument, match="baselines differ: runc and crun"):
        agreement(measured(1), other)


@pytest.mark.parametrize("document", [None, [], {}, {"bench": 3}, {"kind": "bench", "version": 2}])
def test_what_is_no_bench_is_refused(document) -> None:
    with pytest.raises(InvalidArgument, match=r"x\.json: is no document"):
        bench_of(document, "x.json")
