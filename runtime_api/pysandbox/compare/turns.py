"""The turns of a bench: contenders do the same things, in random order, and what each took is kept."""

from __future__ import annotations

import os
import time
from functools import partial
from typing import TYPE_CHECKING

from pysandbox.compare import figure, growth, processes
from pysandbox.compare.measure import Failed
from pysandbox.compare.roster import CHANCE
from pysandbox.compare.trial import Host, Trial, outside

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from pysandbox.compare.request import Settings
    from pysandbox.compare.result import Result
    from pysandbox.compare.roster import Roster

#: Seconds before a turn of throughput: the kernel still removes the namespaces and cgroups of the turn before.
PAUSE = 0.4
#: From where on a sandbox's clock cannot be believed: a tenth beyond what the host saw pass.
AHEAD = 1.1


class Turns:
    """All turns but those through containerd."""

    def __init__(
        self, settings: Settings, roster: Roster, result: Result, progress: Callable[[str, int, int], None]
    ) -> None:
        self.settings, self.roster, self.result, self.progress = settings, roster, result, progress

    def measure(self) -> None:
        """Take all turns; what was measured when it is interrupted is kept."""
        groups = self.settings.groups
        if "life" in groups or "inside" in groups:
            self._rounds()
        for group, measure_all in (
            ("memory", self._memory),
            ("throughput", self._throughput),
            ("growth", self._growth),
        ):
            if group in groups:
                measure_all()

    def _rounds(self) -> None:
        """In each round every contender does everything once, in random order; the first round does not count."""
        for number in range(self.settings.rounds + 1):
            turns = [(trial, act) for trial in self._present(number) for act in self._acts(trial, number)]
            CHANCE.shuffle(turns)
            for trial, (name, act) in turns:
                self.result.keep(trial.contender.name, name, act, number)
            self.progress("starting, executing, measuring inside", number, self.settings.rounds)

    def _present(self, number: int) -> list[Trial]:
        return [each for each in self.roster.trials if self.roster.has_turn(each.contender.name, number)]

    def _acts(self, trial: Trial, number: int) -> list[tuple[str, Callable[[], Iterator[tuple[str, float]]]]]:
        acts: list[tuple[str, Callable[[], Iterator[tuple[str, float]]]]] = []
        if "life" in self.settings.groups:
            acts.append(("start to exit", trial.start_to_exit))
            if not isinstance(trial, Host):
                acts += [("create", trial.life), ("exec to exit", trial.exec)]
        if "inside" in self.settings.groups and number % self.settings.inside_every == 1:
            acts.append(("inside", lambda: self._inside(trial)))
        return acts

    def _inside(self, trial: Trial) -> Iterator[tuple[str, float]]:
        found = trial.inside()
        for name, error in found.errors.items():
            failed = self.result.failures.setdefault((trial.contender.name, figure.inside(name)), [])
            failed[:] = [error]
        if found.ahead > AHEAD:
            raise Failed(f"{trial.contender.name}: its clock ran {found.ahead:.1f} times as fast as the host's")
        if not found.values:
            raise Failed(f"{trial.contender.name}: the gauge told nothing")
        for name, value in found.values.items():
            yield figure.inside(name), value

    def _turn(self, trial: Trial, name: str, act: Callable[[Trial], Iterator[tuple[str, float]]], number: int) -> None:
        self.result.keep(trial.contender.name, name, lambda: act(trial), number)

    def _memory(self) -> None:
        for number in range(1, self.settings.memory_rounds + 1):
            for trial in self.roster.containers():
                self._turn(trial, figure.DETACHED, self._detached, number)
                self._turn(trial, figure.FOREGROUND, self._foreground, number)
            self.progress("memory", number, self.settings.memory_rounds)

    def _detached(self, trial: Trial) -> Iterator[tuple[str, float]]:
        yield figure.DETACHED, trial.detached(but=self.roster.elsewhere).proportional

    def _foreground(self, trial: Trial) -> Iterator[tuple[str, float]]:
        but = self.roster.elsewhere
        before, served = processes.descendants(os.getpid(), but=but), self.roster.served()[1]
        with trial.foreground() as beside:
            found = (processes.descendants(os.getpid(), but=but) - before) | beside
            everybody, serving = self.roster.served()
            new = {(pid, 0) for pid in serving - served}
            yield figure.FOREGROUND, outside(found | new).proportional
            if trial.contender.name == "namespaces" and everybody:
                yield figure.SHARED, processes.proportional(everybody - serving)[1]

    def _throughput(self) -> None:
        settings = self.settings
        for number in range(1, settings.throughput_rounds + 1):
            turns = [(trial, level) for trial in self.roster.containers() for level in figure.LEVELS]
            CHANCE.shuffle(turns)
            for done, (trial, level) in enumerate(turns):
                self.progress("throughput", (number - 1) * len(turns) + done, settings.throughput_rounds * len(turns))
                self._turn(trial, figure.throughput(level), partial(self._rate, level=level), number)

    def _rate(self, trial: Trial, level: int) -> Iterator[tuple[str, float]]:
        slow = trial.contender.name in self.roster.slow
        time.sleep(PAUSE)
        turn = trial.throughput(level, max(level, self.settings.containers // (4 if slow else 1)))
        if turn.failures:
            raise Failed(f"{len(turn.failures)} of {turn.containers} failed; the first: {turn.failures[0]}")
        yield figure.throughput(level), turn.rate

    def _growth(self) -> None:
        trials = self.roster.containers()
        for done, trial in enumerate(trials):
            self.progress(f"growth: {trial.contender.name}", done, len(trials))
            label, settings = trial.contender.name, self.settings
            found = growth.grow(trial, settings.growth, settings.growth_limit, self.roster.elsewhere)
            try:
                for scenario, number, value in found:
                    self.result.series.add(scenario, label, number, value)
            except Failed as error:
                self.result.failed(label, "growth", error)
            except growth.Stopped as reason:
                self.result.notes.append(f"{label}, growth: {reason}")
        self.progress("growth", len(trials), len(trials))
