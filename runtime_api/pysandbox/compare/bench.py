"""`python -m pysandbox.compare.bench`: pysandbox beside runc and crun, all in one run.

Every contender takes one turn in each round, in random order, with the same bundle. Before anything is timed, what
each really does for a container is looked at, and those that do not do the same are left out. A bench, not a test:
what it says depends on the machine, so read the ratios.
"""

from __future__ import annotations

import argparse
import contextlib
import dataclasses
import json
import os
import random
import sys
import tempfile
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pysandbox.compare import contender, distribution, machine, measure, parity, scenario, table, workload

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    Series = dict[str, dict[str, list[float]]]


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the bench; print the table; write the raw figures where `--json` says."""
    wanted = _arguments(arguments)
    contenders, missing = contender.find_contenders(wanted.contenders)
    measure.adopt_orphans()
    with contextlib.ExitStack() as stack:
        places = {private: measure.Place(private=private) for private in {False, *(c.private for c in contenders)}}
        for place in places.values():
            stack.callback(place.close)
        directory = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="pysandbox-bench-")))
        programs = {"true": workload.TRUE, "counted": workload.TRUE, "sleep": workload.SLEEP}
        bundles = {name: workload.make_bundle(directory / name, args) for name, args in programs.items()}
        benches = _start(stack, contenders, missing, places, directory, bundles)
        features = {bench.contender.label: bench.features() for bench in benches}
        benches = _equals(benches, features, missing, allow=wanted.allow_unequal)
        result = {
            "environment": machine.describe(contenders),
            "parity": features,
            "missing": missing,
            "rounds": wanted.rounds,
        }
        _print_head(result)
        before = machine.stolen()
        series = _measure(
            benches, places[False], directory, wanted.rounds, _progress if sys.stderr.isatty() else _silent
        )
        result["stolen"] = _share(before, machine.stolen())
    _report(series, result, wanted.json)
    return 0


def _arguments(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="bench", description=__doc__)
    parser.add_argument("--rounds", type=int, default=30, help="turns of each contender (default: 30)")
    parser.add_argument("--json", type=Path, help="write environment, parity and all raw figures to this file")
    parser.add_argument("--contenders", nargs="+", default=["pysandbox", "runc", "crun"], metavar="NAME")
    parser.add_argument("--allow-unequal", action="store_true", help="also compare contenders that do less or more")
    wanted = parser.parse_args(arguments)
    if wanted.rounds < 1:
        parser.error(f"--rounds {wanted.rounds}: at least one")
    if os.geteuid() != 0:
        parser.error("only root can run containers")
    return wanted


def _start(
    stack: contextlib.ExitStack,
    contenders: list[contender.Contender],
    missing: dict[str, str],
    places: dict[bool, measure.Place],
    directory: Path,
    bundles: dict[str, Path],
) -> list[scenario.Bench]:
    """Start each contender's long-running container; one that cannot is left out, with its own words as the reason."""
    started = []
    for each in contenders:
        try:
            started.append(stack.enter_context(scenario.Bench(each, places[each.private], directory, bundles)))
        except measure.Failed as error:
            missing[each.label] = str(error)
    return started


def _equals(
    benches: list[scenario.Bench], features: dict[str, dict[str, Any]], missing: dict[str, str], *, allow: bool
) -> list[scenario.Bench]:
    """Leave out who does not do what the first contender of the same place does."""
    for private in (False, True):
        labels = [bench.contender.label for bench in benches if bench.contender.private == private]
        if labels:
            found = parity.unequal({label: features[label] for label in labels}, labels[0])
            missing.update({label: "unequal: " + "; ".join(names) for label, names in found.items()})
    return [bench for bench in benches if allow or bench.contender.label not in missing]


def _measure(
    benches: list[scenario.Bench],
    place: measure.Place,
    directory: Path,
    rounds: int,
    progress: Callable[[int, int], None],
) -> Series:
    """Take all figures: scenario → contender → one value for each round."""
    series: Series = {}
    chance = random.Random()  # noqa: S311  (an order, not a secret)
    output = os.open(directory / "floor", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    for number in range(rounds + 1):
        turns = _turns(benches, place, output)
        chance.shuffle(turns)
        for label, take in turns:
            for name, value in take():
                if number:  # the first round warms caches
                    series.setdefault(name, {}).setdefault(label, []).append(value)
        progress(number, rounds)
    os.close(output)
    return {name: {label: series[name][label] for label in sorted(series[name])} for name in _order(series)}


def _turns(benches: list[scenario.Bench], place: measure.Place, output: int) -> list[tuple[str, Any]]:
    """Return one turn for each scenario of each contender, and for each floor."""
    turns = [(bench.contender.label, take) for bench in benches for take in bench.scenarios()]
    return turns + [(each.name, partial(scenario.floor, each, place, output)) for each in contender.floors()]


def _order(series: Series) -> list[str]:
    names = [
        scenario.FLOOR,
        "run true",
        "exec true",
        "create+start+delete",
        "create",
        "start",
        "state",
        "kill",
        "delete",
    ]
    return [name for name in [*names, scenario.EXECUTOR, scenario.MEMORY] if name in series]


def _report(series: Series, result: dict[str, Any], path: Path | None) -> None:
    for line in table.lines(series):
        print(line)
    if result["stolen"] > 0.02:
        print(f"\nthe hypervisor took {result['stolen']:.0%} of the time: repeat this on a quieter machine")
    if path is not None:
        summaries = {
            name: {label: dataclasses.asdict(distribution.summarize(values)) for label, values in contenders.items()}
            for name, contenders in series.items()
        }
        path.write_text(json.dumps({**result, "raw": series, "summary": summaries}, indent=1) + "\n")


def _print_head(result: dict[str, Any]) -> None:
    environment = result["environment"]
    print(f"kernel {environment['kernel']}, {environment['processors']} processors, cgroup {environment['cgroup']}, "
          f"load {environment['load'][0]:.2f}, {result['rounds']} rounds in random order")  # fmt: skip
    for name, version in environment["versions"].items():
        print(f"  {name}: {version}")
    for label, features in result["parity"].items():
        print(f"  parity {label}: " + ", ".join(f"{name}={value}" for name, value in features.items()))
    for label, reason in result["missing"].items():
        print(f"  left out {label}: {reason}")


def _share(before: tuple[int, int], after: tuple[int, int]) -> float:
    return (after[0] - before[0]) / max(1, after[1] - before[1])


def _progress(number: int, rounds: int) -> None:
    print(f"\rround {number} of {rounds}", end="\n" if number == rounds else "", file=sys.stderr, flush=True)


def _silent(number: int, rounds: int) -> None:
    """Say nothing: nobody is watching."""


if __name__ == "__main__":
    try:
        sys.exit(main())
    except (measure.Failed, OSError) as failure:
        sys.exit(f"bench: {failure}")
