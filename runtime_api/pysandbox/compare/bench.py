"""`python -m pysandbox.compare.bench`: pysandbox, warm and cold, beside runc and crun, all in one run.

Every contender takes one turn in each round, in random order, with the same bundle. Before anything is timed, what
each really does for a container is looked at, and those that do not do the same are left out; so is a warm contender
whose commands do not reach its server. A bench, not a test: what it says depends on the machine, so read the ratios.

The exit code is 1 if a command failed, if pysandbox was left out, or if commands that should be warm were not.
"""

from __future__ import annotations

import argparse
import contextlib
import os
import sys
import tempfile
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from pysandbox.compare import contender, footprint, machine, measure, parity, report, rounds, workload
from pysandbox.compare.scenario import Bench
from pysandbox.compare.server import Server

if TYPE_CHECKING:
    from collections.abc import Sequence

    from pysandbox.compare.contender import Contender
    from pysandbox.compare.report import Result

#: Latency rounds for one round of throughput, which takes as long as several.
ROUNDS_PER_THROUGHPUT = 6
#: Pairs of commands that show, before anything is timed, whether they reach the server, which learns from the first.
TRIALS = 5


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the bench; print the tables; write the raw figures where `--json` says."""
    wanted = _arguments(arguments)
    measure.adopt_orphans()
    with contextlib.ExitStack() as stack:
        directory = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="pysandbox-bench-")))
        contenders, missing = contender.find_contenders(wanted.contenders, directory / "server")
        result = report.Result(wanted.rounds, machine.describe(contenders), missing)
        server = _start_server(stack, contenders, result, directory)
        benches = _compared(_start(stack, contenders, result, directory), server, result, allow=wanted.allow_unequal)
        report.print_head(result)
        _measure(stack, benches, server, result, directory)
    report.print_figures(result)
    if wanted.json is not None:
        report.write(result, wanted.json)
    return 1 if result.failed else 0


def _arguments(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="bench", description=__doc__)
    parser.add_argument("--rounds", type=int, default=30, help="turns of each contender (default: 30)")
    parser.add_argument("--json", type=Path, help="write environment, parity and all raw figures to this file")
    names = [contender.WARM, contender.COLD, "runc", "crun"]
    parser.add_argument("--contenders", nargs="+", default=names, metavar="NAME", help=f"default: {' '.join(names)}")
    parser.add_argument("--allow-unequal", action="store_true", help="also compare contenders that do less or more")
    wanted = parser.parse_args(arguments)
    if wanted.rounds < 1:
        parser.error(f"--rounds {wanted.rounds}: at least one")
    if os.geteuid() != 0:
        parser.error("only root can run containers")
    return wanted


def _start_server(
    stack: contextlib.ExitStack, contenders: list[Contender], result: Result, directory: Path
) -> Server | None:
    """Start the warm contenders' server, from the host's place; without one they are left out."""
    warm = [each for each in contenders if each.warm]
    if not warm:
        return None
    try:
        return stack.enter_context(Server(warm[0], directory / "state-server"))
    except measure.Failed as error:
        result.missing.update({each.label: str(error) for each in warm})
        return None


def _start(stack: contextlib.ExitStack, contenders: list[Contender], result: Result, directory: Path) -> list[Bench]:
    """Start each contender's long-running container; one that cannot is left out, with its own words as the reason."""
    places = {private: measure.Place(private=private) for private in {each.private for each in contenders}}
    for place in places.values():
        stack.callback(place.close)
    programs = {"true": workload.TRUE, "counted": workload.TRUE, "sleep": workload.SLEEP}
    bundles = {name: workload.make_bundle(directory / name, args) for name, args in programs.items()}
    started = []
    for each in contenders:
        if each.label in result.missing:
            continue
        try:
            started.append(stack.enter_context(Bench(each, places[each.private], directory, bundles)))
        except measure.Failed as error:
            result.missing[each.label] = str(error)
    return started


def _compared(benches: list[Bench], server: Server | None, result: Result, *, allow: bool) -> list[Bench]:
    """Leave out who does not do what the first contender of the same place does, and a warm one that is cold."""
    result.parity = {bench.contender.label: bench.features() for bench in benches}
    for private in (False, True):
        labels = [bench.contender.label for bench in benches if bench.contender.private == private]
        if labels and not allow:
            found = parity.unequal({label: result.parity[label] for label in labels}, labels[0])
            result.missing.update({label: "unequal: " + "; ".join(names) for label, names in found.items()})
    for bench in benches:
        if server is not None and bench.contender.warm:
            account = rounds.watched(server, [bench], partial(_try, bench))
            if account.cold:
                result.missing[bench.contender.label] = f"{account}; the server refused {server.status().refused}"
    return [bench for bench in benches if bench.contender.label not in result.missing]


def _try(bench: Bench) -> None:
    for _ in range(TRIALS):
        for _figure in (*bench.state(), *bench.run_true()):
            pass


def _measure(
    stack: contextlib.ExitStack, benches: list[Bench], server: Server | None, result: Result, directory: Path
) -> None:
    """Take all figures."""
    before = machine.stolen()
    result.waiting = footprint.all_waiting(benches, server)
    place = measure.Place(private=False)
    stack.callback(place.close)
    output = os.open(directory / "floor", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    stack.callback(os.close, output)
    take = partial(rounds.latency, benches, place, output, result)
    if server is None:
        take()
    else:
        result.account("one at a time", rounds.watched(server, benches, take))
    rounds.throughputs(benches, server, max(1, result.rounds // ROUNDS_PER_THROUGHPUT), result)
    if server is not None:
        result.forks, result.refused = server.forks, server.status().refused
    result.stolen = machine.share(before, machine.stolen())


if __name__ == "__main__":
    try:
        sys.exit(main())
    except (measure.Failed, OSError) as failure:
        sys.exit(f"bench: {failure}")
