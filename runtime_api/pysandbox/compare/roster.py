"""Who takes part in a bench: each has run a container before anything is measured, or is told with its own words."""

from __future__ import annotations

import contextlib
import os
import random
from typing import TYPE_CHECKING

from pysandbox.compare import candidate, derived
from pysandbox.compare.contender import WARM, Contender
from pysandbox.compare.measure import Failed
from pysandbox.compare.server import Server
from pysandbox.compare.trial import PROGRAMS, Host, Trial
from pysandbox.errors import Unavailable
from pysandbox.executor import program_path

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from pysandbox.compare.candidate import Candidate
    from pysandbox.compare.request import Request
    from pysandbox.compare.result import Result
    from pysandbox.oci.bundle import Bundle

CHANCE = random.Random()  # noqa: S311  (an order, not a secret)
#: Milliseconds of a start from which on a contender takes every third turn only.
SLOW = 250.0
STRIDE = 3
IN_MEMORY = (
    "files are in memory: TMPDIR is on a file system that can hold no overlay's changes, so that fsync reaches no disk "
    "(remedy: TMPDIR=DIRECTORY on ext4, xfs or btrfs)"
)
REPLACED = (
    "the warm server was replaced meanwhile, as it is when a file of the program changes: some commands ran cold, and "
    "memory may have the new one in it"
)


class Roster:
    """Contenders that take part, with the warm server of the bench's own. `trials` begins with the host."""

    def __init__(
        self, request: Request, bundle: Bundle, result: Result, progress: Callable[[str, int, int], None]
    ) -> None:
        self.request, self.bundle, self.result, self.progress = request, bundle, result, progress
        self.trials: list[Trial] = []
        self.slow: set[str] = set()
        self.server: Server | None = None
        self._served_before = 0

    def containers(self) -> list[Trial]:
        """Return those that have containers, in random order."""
        trials = [each for each in self.trials if not isinstance(each, Host)]
        return CHANCE.sample(trials, len(trials))

    def has_turn(self, label: str, number: int) -> bool:
        """Tell whether a contender takes part in a round: the slow ones do in every third."""
        return label not in self.slow or number % STRIDE == 1

    @property
    def elsewhere(self) -> set[int]:
        """The warm server: what is below it is no contender's."""
        return {self.server.pid} if self.server else set()

    def served(self) -> tuple[set[int], set[int]]:
        """Return the pids of the warm server and its spares, and of those spares that serve a command."""
        if self.server is None:
            return set(), set()
        status = self.server.status()
        return {status.pid, *status.spares, *status.serving}, set(status.serving)

    def prepare(self, stack: contextlib.ExitStack, directory: Path) -> None:
        """Have everybody run a container; what is made for it goes with `stack`. Raises Unavailable without anybody."""
        request = self.request
        candidates, self.result.missing = candidate.find(request.names, request.runtimes, request.program)
        gauge = program_path("pysandbox-gauge")
        if any(each.ours for each in candidates):
            self._start_server(stack, directory)
        self._admit_host(stack, directory, gauge)
        for number, each in enumerate(candidates):
            self.progress(f"getting {each.name} ready", number, len(candidates))
            try:
                self._admit(stack, directory, each, gauge)
            except Failed as error:
                self.result.missing[each.name] = str(error)
        if len(self.trials) == 1 and not request.containerd:
            reasons = "; ".join(f"{name}: {why}" for name, why in self.result.missing.items())
            raise Unavailable(f"there is nobody to measure but the host: {reasons}")

    def _start_server(self, stack: contextlib.ExitStack, directory: Path) -> None:
        """Start a warm server of the bench's own; without one our commands are cold, which is told."""
        contender = Contender(WARM, self.request.program[:1], server=os.fspath(directory / "server"))
        try:
            self.server = stack.enter_context(Server(contender, directory / "state-server"))
            self._served_before = self.server.status().served
        except Failed as error:
            self.result.notes.append(f"our commands ran cold: {error}")

    def note_cold(self) -> None:
        """Tell how many of our commands the warm server did not take."""
        if self.server is None:
            return
        with contextlib.suppress(Failed, OSError):
            status = self.server.status()
            if status.pid != self.server.pid:
                self.result.notes.append(REPLACED)
                return
            commands = sum(len(trial.commands) for trial in self.trials if trial.contender.server)
            cold = commands - (status.served - self._served_before)
            if cold > 0:
                refused = ", ".join(f"{reason}: {count}" for reason, count in status.refused.items())
                self.result.notes.append(
                    f"{cold} of {commands} of our commands ran cold ({refused or 'no reason told'})"
                )

    def _admit_host(self, stack: contextlib.ExitStack, directory: Path, gauge: str) -> None:
        view = stack.enter_context(derived.View(self.bundle.rootfs, gauge, directory / candidate.HOST))
        if view.in_memory:
            self.result.notes.append(IN_MEMORY)
        contender = Contender(candidate.HOST, ("",))
        trial = Host(contender, view.root, directory / candidate.HOST, candidate.LIMIT)
        stack.callback(trial.close)
        self.trials.append(trial)
        self.result.contenders.append(
            {"name": candidate.HOST, "kind": "host", "command": [], "version": "", "note": ""}
        )

    def _admit(self, stack: contextlib.ExitStack, directory: Path, each: Candidate, gauge: str) -> None:
        """Have a candidate run a container; it takes part if that worked. Raises Failed with its own words."""
        checked = candidate.check(each)
        if checked.problem:
            raise Failed(checked.problem)
        place = directory / f"contender-{len(self.trials)}-{len(self.result.missing)}"
        view = stack.enter_context(derived.View(self.bundle.rootfs, gauge, place))
        bundles = derived.make_bundles(self.bundle, view, place, PROGRAMS)
        first = ""
        for number in range(len(each.commands)):
            contender = each.contender(number, os.fspath(directory / "server"))
            turn = place / str(number)
            turn.mkdir()
            trial = Trial(contender, bundles, turn, each.limit)
            stack.callback(trial.close)
            try:
                self._warm_up(trial)
            except Failed as error:
                first = first or str(error)
                continue
            note = f"called with {' '.join(contender.command[1:])}; without: {first}" if number else ""
            self._take_part(trial, each, note, checked)
            return
        raise Failed(first)

    def _warm_up(self, trial: Trial) -> None:
        """Run one container that does not count, then one that tells how long it takes, and hold one for `exec`."""
        for _ in trial.start_to_exit():
            pass
        if any(value > SLOW for _, value in trial.start_to_exit()):
            self.slow.add(trial.contender.name)
        trial.hold()

    def _take_part(self, trial: Trial, each: Candidate, note: str, checked: candidate.Checked) -> None:
        self.trials.append(trial)
        self.result.contenders.append(
            {
                "name": each.name,
                "kind": "backend" if each.ours else "runtime",
                "command": list(trial.contender.command),
                "version": trial.version(),
                "note": note,
                "accelerator": checked.accelerator,
            }
        )
