"""Whether two benches of the same thing agree: each ratio against the interval that the other one states for it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from pysandbox.errors import InvalidArgument

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping


@dataclass(frozen=True, slots=True)
class Agreement:
    """Of so many ratios with an interval in both documents, how many intervals overlap, and those that do not."""

    ratios: int
    overlapping: int
    apart: list[str]

    def __str__(self) -> str:
        """Return one line."""
        text = f"{self.overlapping} of {self.ratios} ratios agree with the earlier ones: their 95 % intervals overlap"
        return f"{text}; apart: {'; '.join(self.apart[:5])}" if self.apart else text


def agreement(before: Mapping[str, Any], after: Mapping[str, Any]) -> Agreement:
    """Compare the ratios of two benches. Raises InvalidArgument if they have another baseline."""
    if before["baseline"] != after["baseline"]:
        raise InvalidArgument(f"the baselines differ: {before['baseline']} and {after['baseline']}")
    old, apart, count = dict(_ratios(before)), [], 0
    for key, ratio in _ratios(after):
        other = old.get(key)
        if other is not None:
            count += 1
            if ratio["low"] > other["high"] or other["low"] > ratio["high"]:
                apart.append(f"{key[0]}, {key[1]}: {other['value']:.2f} and {ratio['value']:.2f}")
    return Agreement(count, count - len(apart), apart)


def bench_of(document: Any, path: str) -> Mapping[str, Any]:
    """Return the bench in what `bench --json` or `compare --json` has written. Raises InvalidArgument."""
    bench = document.get("bench", document) if isinstance(document, dict) else None
    if not isinstance(bench, dict) or bench.get("kind") != "bench" or bench.get("version") != 1:
        raise InvalidArgument(f"{path}: is no document of bench or compare")
    return bench


def _ratios(bench: Mapping[str, Any]) -> Iterator[tuple[tuple[str, str], Mapping[str, Any]]]:
    for figure in bench["figures"]:
        if figure["ratio"] and figure["ratio"]["low"] is not None:
            yield (figure["scenario"], figure["contender"]), figure["ratio"]
