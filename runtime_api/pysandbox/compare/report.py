"""What was found: for a person, and as JSON."""

from __future__ import annotations

import dataclasses
import json
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from pysandbox.compare import contender, distribution, goals, scenario, table, throughput
from pysandbox.compare.server import Account

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path
    from typing import Any

    from pysandbox.compare.footprint import Footprint

#: From which share of time taken by the hypervisor on the figures are in doubt.
STOLEN = 0.02
ORDER = [
    scenario.FLOOR, "run true", "exec true", "create+start+delete", "create", "start", "state", "kill", "delete",
    scenario.EXECUTOR, scenario.AFTER_PLAN, scenario.MEMORY,
    *(throughput.scenario_name(level) for level in throughput.LEVELS),
]  # fmt: skip


@dataclass(slots=True)
class Result:
    """All that one run of the bench found."""

    rounds: int
    environment: dict[str, Any]
    #: Who was left out, and why.
    missing: dict[str, str]
    parity: dict[str, dict[str, Any]] = field(default_factory=dict)
    #: Scenario → contender → one value for each round.
    series: dict[str, dict[str, list[float]]] = field(default_factory=dict)
    #: Contender → part → memory while `run` waits.
    waiting: dict[str, dict[str, Footprint]] = field(default_factory=dict)
    #: What was measured → how many of the warm contender's commands were warm.
    accounts: dict[str, Account] = field(default_factory=dict)
    #: Milliseconds of the server's forks.
    forks: list[float] = field(default_factory=list)
    #: What the server would not serve: reason → how often.
    refused: dict[str, int] = field(default_factory=dict)
    failures: list[str] = field(default_factory=list)
    #: Share of the time that the hypervisor took from us.
    stolen: float = 0.0

    def add(self, name: str, label: str, value: float) -> None:
        """Put one figure where it belongs."""
        self.series.setdefault(name, {}).setdefault(label, []).append(value)

    def account(self, name: str, account: Account) -> None:
        """Add commands to those that were counted under this name."""
        sum_ = self.accounts.get(name, Account(0, 0))
        self.accounts[name] = Account(sum_.commands + account.commands, sum_.served + account.served)

    def ordered(self) -> dict[str, dict[str, list[float]]]:
        """Return the series in the table's order, contenders by name."""
        return {name: dict(sorted(self.series[name].items())) for name in ORDER if name in self.series}

    @property
    def cold(self) -> dict[str, Account]:
        """Accounts of what was not all warm."""
        return {name: account for name, account in self.accounts.items() if account.cold}

    @property
    def failed(self) -> bool:
        """Tell whether a command failed, or figures of pysandbox are missing, or were to be warm and are not."""
        return bool(self.failures or self.cold or self.unmeasured)

    @property
    def unmeasured(self) -> dict[str, str]:
        """Return what should have been measured of pysandbox and was not, with the reason."""
        ours = {contender.WARM, contender.COLD}
        return {label: reason for label, reason in self.missing.items() if label.partition("@")[0] in ours}


def print_head(result: Result) -> None:
    """Print what is known before anything is timed."""
    environment = result.environment
    print(f"kernel {environment['kernel']}, {environment['processors']} processors, cgroup {environment['cgroup']}, "
          f"load {environment['load'][0]:.2f}, {result.rounds} rounds in random order")  # fmt: skip
    for name, version in environment["versions"].items():
        print(f"  {name}: {version}")
    for label, features in result.parity.items():
        print(f"  parity {label}: " + ", ".join(f"{name}={value}" for name, value in features.items()))
    for label, reason in result.missing.items():
        print(f"  left out {label}: {reason}")


def print_figures(result: Result) -> None:
    """Print all tables, goals last, and then what is wrong with them."""
    series = result.ordered()
    for line in (
        *table.lines(series),
        *table.memory_lines(result.waiting, result.forks),
        *goals.lines(goals.judge(series)),
    ):
        print(line)
    for line in doubts(result):
        print(f"\n{line}")


def doubts(result: Result) -> Iterator[str]:
    """Yield what a reader of the tables must know about them."""
    for name, account in result.cold.items():
        yield f"NOT WARM: {name}: {account}"
    for label, reason in result.unmeasured.items():
        yield f"NOT MEASURED: {label}: {reason}"
    if result.failures:
        yield f"FAILED: {len(result.failures)} containers; the first: {result.failures[0]}"
    if result.stolen > STOLEN:
        yield f"the hypervisor took {result.stolen:.0%} of the time: repeat this on a quieter machine"


def write(result: Result, path: Path) -> None:
    """Write everything as JSON."""
    series = result.ordered()
    document = dataclasses.asdict(result) | {
        "raw": series,
        "summary": {
            name: {label: dataclasses.asdict(distribution.summarize(values)) for label, values in labels.items()}
            for name, labels in series.items()
        },
        "goals": [dataclasses.asdict(each) | {"met": each.met, "aimed": each.aimed} for each in goals.judge(series)],
    }
    del document["series"]
    path.write_text(json.dumps(document, indent=1) + "\n")
