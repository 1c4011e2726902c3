"""The turns: who is measured when, and whether the warm contender's commands were warm meanwhile."""

from __future__ import annotations

import random
import sys
from functools import partial
from typing import TYPE_CHECKING

from pysandbox.compare import contender, scenario, throughput
from pysandbox.executor import program_path

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from typing import Any

    from pysandbox.compare.measure import Place
    from pysandbox.compare.report import Result
    from pysandbox.compare.scenario import Bench
    from pysandbox.compare.server import Account, Server

_CHANCE = random.Random()  # noqa: S311  (an order, not a secret)


def latency(benches: Sequence[Bench], place: Place, output: int, result: Result) -> None:
    """Take each scenario of each contender, and each floor, once in each round, in random order."""
    gauge = program_path("pysandbox-gauge")
    for number in range(result.rounds + 1):
        turns = [(bench.contender.label, take) for bench in benches for take in bench.scenarios()]
        turns += [(each.name, partial(scenario.floor, each, place, output)) for each in contender.floors()]
        for bench in benches[:1]:
            turns.append((contender.KERNEL, partial(scenario.kernel, gauge, bench.bundles["true"], place, output)))
        _CHANCE.shuffle(turns)
        for label, take in turns:
            for name, value in take():
                if number:  # the first round warms caches
                    result.add(name, label, value)
        _progress("round", number, result.rounds)


def throughputs(benches: Sequence[Bench], server: Server | None, rounds: int, result: Result) -> None:
    """Take containers per second at each level, in random order; failures and cold commands go into the result."""
    running = [bench for bench in benches if takes_part(bench.contender)]
    for number in range(rounds):
        turns = [(bench, level) for bench in running for level in throughput.LEVELS]
        _CHANCE.shuffle(turns)
        for bench, level in turns:
            _throughput(bench, level, server, result)
        _progress("throughput", number + 1, rounds)


def takes_part(each: contender.Contender) -> bool:
    """Tell whether its throughput is measured: in the private place only that of crun and of the warm one."""
    return not each.private or each.name in {contender.WARM, "crun"}


def watched(server: Server, benches: Sequence[Bench], act: Callable[[], Any]) -> Account:
    """Do something; return how many of the warm contenders' commands the server took meanwhile."""
    before, commands = server.status(), _commands(benches)
    act()
    return server.account(before, _commands(benches) - commands)


def _throughput(bench: Bench, level: int, server: Server | None, result: Result) -> None:
    label, name = bench.contender.label, throughput.scenario_name(level)
    turns = []
    if server is not None and bench.contender.warm:
        account = watched(server, [bench], lambda: turns.append(bench.throughput(level)))
        result.account(f"{label}, {name}", account)
    else:
        turns.append(bench.throughput(level))
    for turn in turns:
        result.add(name, label, turn.rate)
        result.failures += [f"{label}, {name}: {failure}" for failure in turn.failures]


def _commands(benches: Sequence[Bench]) -> int:
    return sum(bench.commands for bench in benches if bench.contender.warm)


def _progress(what: str, number: int, rounds: int) -> None:
    if sys.stderr.isatty():
        end = "\n" if number == rounds else ""
        print(f"\r{what} {number} of {rounds}", end=end, file=sys.stderr, flush=True)
