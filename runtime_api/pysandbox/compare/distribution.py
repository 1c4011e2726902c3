"""Statistics of repeated measurements: quantiles, and the ratio of two medians with its interval. Pure functions."""

from __future__ import annotations

import random
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Sequence

RESAMPLES = 2000
CONFIDENCE = 0.95


@dataclass(frozen=True, slots=True)
class Summary:
    """Quartiles of one series, in the unit of its values."""

    count: int
    lower: float
    median: float
    upper: float


@dataclass(frozen=True, slots=True)
class Ratio:
    """Ratio of two medians and the interval that holds it with 95 % confidence."""

    value: float
    low: float
    high: float


def quantile(values: Sequence[float], share: float) -> float:
    """Return the value below which `share` (0…1) of the values lie, interpolated linearly between the two nearest."""
    if not values:
        raise ValueError("no values")
    ordered = sorted(values)
    position = share * (len(ordered) - 1)
    below = int(position)
    above = min(below + 1, len(ordered) - 1)
    return ordered[below] + (ordered[above] - ordered[below]) * (position - below)


def median(values: Sequence[float]) -> float:
    """Return the middle value."""
    return quantile(values, 0.5)


def summarize(values: Sequence[float]) -> Summary:
    """Return count and quartiles."""
    return Summary(len(values), quantile(values, 0.25), median(values), quantile(values, 0.75))


def ratio(measured: Sequence[float], reference: Sequence[float], *, seed: int = 0, resamples: int = RESAMPLES) -> Ratio:
    """Return the ratio of the medians of two series that were measured in the same rounds.

    The interval is a paired bootstrap: rounds are drawn with replacement, both medians are taken from the same rounds,
    so that what slowed the machine in a round slows both. The same seed gives the same interval.
    """
    if len(measured) != len(reference):
        raise ValueError(f"{len(measured)} values against {len(reference)}: not of the same rounds")
    chance = random.Random(seed)  # noqa: S311  (statistics, not secrets)
    rounds = range(len(measured))
    ratios = []
    for _ in range(resamples):
        drawn = chance.choices(rounds, k=len(rounds))
        ratios.append(median([measured[n] for n in drawn]) / median([reference[n] for n in drawn]))
    outside = (1 - CONFIDENCE) / 2
    return Ratio(median(measured) / median(reference), quantile(ratios, outside), quantile(ratios, 1 - outside))
