"""`pysandbox bench`: contenders take turns on bundles derived from the user's; what was measured becomes a document.

An interrupted bench keeps what it has. A contender that cannot run, or fails at something, is told with its own words.
"""

from __future__ import annotations

import contextlib
import os
import random
import time
from dataclasses import asdict, dataclass, field
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

from pysandbox.compare import candidate, derived, figure, growth, machine, measure, processes
from pysandbox.compare.contender import WARM, Contender
from pysandbox.compare.measure import Failed
from pysandbox.compare.server import Server
from pysandbox.compare.trial import PROGRAMS, Host, Trial, outside
from pysandbox.compare.workplace import Workplace
from pysandbox.errors import Unavailable
from pysandbox.executor import program_path
from pysandbox.oci.bundle import load_bundle

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence
    from pathlib import Path

    from pysandbox.compare.candidate import Candidate
    from pysandbox.compare.containerdtrial import Api, Client
    from pysandbox.compare.handler import Handler
    from pysandbox.oci.bundle import Bundle

_CHANCE = random.Random()  # noqa: S311  (an order, not a secret)
VERSION = 1
#: Milliseconds of a start from which on a contender takes every third turn only.
SLOW = 250.0
STRIDE = 3
#: Seconds before a turn of throughput: the kernel still removes the namespaces and cgroups of the turn before.
PAUSE = 0.4
#: Failures of one scenario after which it is left out.
ENOUGH = 2
IN_MEMORY = (
    "files are in memory: TMPDIR is on a file system that can hold no overlay's changes, so that fsync reaches no disk "
    "(remedy: TMPDIR=DIRECTORY on ext4, xfs or btrfs)"
)
REPLACED = (
    "the warm server was replaced meanwhile, as it is when a file of the program changes: some commands ran cold, and "
    "memory may have the new one in it"
)
#: From where on a sandbox's clock cannot be believed: a tenth beyond what the host saw pass.
AHEAD = 1.1


@dataclass(frozen=True, slots=True)
class Settings:
    """How much is measured."""

    rounds: int = 30
    #: One round of so many measures inside, where each figure takes a while.
    inside_every: int = 3
    memory_rounds: int = 3
    throughput_rounds: int = 3
    containers: int = 32
    growth: tuple[int, ...] = (1, 5, 20, 50)
    #: Seconds of growth for one contender: fifty machines take 70 under emulation.
    growth_limit: float = 120.0
    #: What is measured: groups of figure.GROUPS.
    groups: tuple[str, ...] = figure.GROUPS

    @classmethod
    def quick(cls) -> Settings:
        """Return settings for a first look, of about half a minute."""
        return cls(10, 3, 1, 1, 16, (1, 5), 10.0)


@dataclass(frozen=True, slots=True)
class Request:
    """What to measure."""

    bundle: str
    program: tuple[str, ...]
    names: tuple[str, ...] = ()
    runtimes: dict[str, tuple[str, ...]] = field(default_factory=dict)
    baseline: str = ""
    #: Settings file that `program` is called with; empty for none.
    config: str = ""
    #: Socket of a containerd; empty for none.
    containerd: str = ""
    settings: Settings = field(default_factory=Settings)


@dataclass(slots=True)
class Result:
    """What was found so far."""

    series: figure.Series = field(default_factory=figure.Series)
    missing: dict[str, str] = field(default_factory=dict)
    #: Contender and scenario → what went wrong, each word once.
    failures: dict[tuple[str, str], list[str]] = field(default_factory=dict)
    contenders: list[dict[str, Any]] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    interrupted: bool = False

    def failed(self, label: str, scenario: str, error: object) -> None:
        """Keep what went wrong."""
        self.failures.setdefault((label, scenario), []).append(str(error))

    def annotate(self, label: str, note: str) -> None:
        """Add to what is told of a contender."""
        for each in self.contenders:
            if each["name"] == label:
                each["note"] = "; ".join(text for text in (each["note"], note) if text)

    def given_up(self, label: str, scenario: str) -> bool:
        """Tell whether a scenario failed too often to be tried again."""
        return len(self.failures.get((label, scenario), ())) >= ENOUGH


class Bench:
    """One run of the bench: who takes part, and their turns."""

    def __init__(self, request: Request, progress: Callable[[str, int, int], None]) -> None:
        self.request, self.progress = request, progress
        self.settings = request.settings
        self.result = Result()
        self.bundle: Bundle = load_bundle(request.bundle)
        derived.check(self.bundle)
        self.trials: list[Trial] = []
        self.slow: set[str] = set()
        self.server: Server | None = None
        self._begin = time.monotonic()
        self._cpu = 0.0
        self._served_before = 0

    def run(self) -> dict[str, Any]:
        """Measure; return the document. Raises InvalidArgument, Unavailable; an interrupt only marks the document."""
        measure.adopt_orphans()
        load, stolen = os.getloadavg(), machine.stolen()
        workplace = Workplace(derived.mapped_group(self.bundle.spec))
        with workplace, contextlib.ExitStack() as stack:
            directory = workplace.path
            try:
                client = self._connect(stack)
                self._prepare(stack, directory)
                cpu = time.process_time()
                self._measure()
                if client is not None:
                    self._through(client)
                self._cpu = time.process_time() - cpu
            except KeyboardInterrupt:
                self.result.interrupted = True
            environment = self._environment(directory, load, stolen)
            self._note_cold()
            self.progress("clearing up", 0, 1)
        self.result.notes += [f"could not be removed: {what}" for what in workplace.left[:1]]
        return self._document(environment)

    # -- who takes part ------------------------------------------------------------------------------------------------

    def _prepare(self, stack: contextlib.ExitStack, directory: Path) -> None:
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

    def _note_cold(self) -> None:
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

    # -- turns ---------------------------------------------------------------------------------------------------------

    def _measure(self) -> None:
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
            _CHANCE.shuffle(turns)
            for trial, (name, act) in turns:
                self._turn(trial, name, act, number)
            self.progress("starting, executing, measuring inside", number, self.settings.rounds)

    def _present(self, number: int) -> list[Trial]:
        every = [each for each in self.trials if each.contender.name not in self.slow or number % STRIDE == 1]
        return [each for each in every if each.contender.name not in self.result.missing]

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

    def _turn(self, trial: Trial, name: str, act: Callable[[], Iterator[tuple[str, float]]], number: int) -> None:
        self._act(trial.contender.name, name, act, number)

    def _act(self, label: str, name: str, act: Callable[[], Iterator[tuple[str, float]]], number: int) -> None:
        if self.result.given_up(label, name):
            return
        try:
            for scenario, value in act():
                if number:
                    self.result.series.add(scenario, label, number, value)
        except Failed as error:
            self.result.failed(label, name, error)

    def _containers(self) -> list[Trial]:
        """Return those that have containers, in random order."""
        trials = [each for each in self.trials if not isinstance(each, Host)]
        return _CHANCE.sample(trials, len(trials))

    def _memory(self) -> None:
        for number in range(1, self.settings.memory_rounds + 1):
            for trial in self._containers():
                self._turn(trial, figure.DETACHED, lambda t=trial: self._detached(t), number)  # type: ignore[misc]
                self._turn(trial, figure.FOREGROUND, lambda t=trial: self._foreground(t), number)  # type: ignore[misc]
            self.progress("memory", number, self.settings.memory_rounds)

    def _served(self) -> tuple[set[int], set[int]]:
        """Return the pids of the warm server and its spares, and of those spares that serve a command."""
        if self.server is None:
            return set(), set()
        status = self.server.status()
        return {status.pid, *status.spares, *status.serving}, set(status.serving)

    def _detached(self, trial: Trial) -> Iterator[tuple[str, float]]:
        but = {self.server.pid} if self.server else set()
        yield figure.DETACHED, trial.detached(but=but).proportional

    def _foreground(self, trial: Trial) -> Iterator[tuple[str, float]]:
        but = {self.server.pid} if self.server else set()
        before, served = processes.descendants(os.getpid(), but=but), self._served()[1]
        with trial.foreground() as beside:
            found = (processes.descendants(os.getpid(), but=but) - before) | beside
            everybody, serving = self._served()
            new = {(pid, 0) for pid in serving - served}
            yield figure.FOREGROUND, outside(found | new).proportional
            if trial.contender.name == "namespaces" and everybody:
                yield figure.SHARED, processes.proportional(everybody - serving)[1]

    def _throughput(self) -> None:
        settings = self.settings
        for number in range(1, settings.throughput_rounds + 1):
            turns = [(trial, level) for trial in self._containers() for level in figure.LEVELS]
            _CHANCE.shuffle(turns)
            for done, (trial, level) in enumerate(turns):
                self.progress("throughput", (number - 1) * len(turns) + done, settings.throughput_rounds * len(turns))
                self._turn(trial, figure.throughput(level), lambda t=trial, n=level: self._rate(t, n), number)  # type: ignore[misc]

    def _rate(self, trial: Trial, level: int) -> Iterator[tuple[str, float]]:
        slow = trial.contender.name in self.slow
        time.sleep(PAUSE)
        turn = trial.throughput(level, max(level, self.settings.containers // (4 if slow else 1)))
        if turn.failures:
            raise Failed(f"{len(turn.failures)} of {turn.containers} failed; the first: {turn.failures[0]}")
        yield figure.throughput(level), turn.rate

    def _growth(self) -> None:
        trials = self._containers()
        for done, trial in enumerate(trials):
            self.progress(f"growth: {trial.contender.name}", done, len(trials))
            but = {self.server.pid} if self.server else set()
            label, settings = trial.contender.name, self.settings
            try:
                for scenario, number, value in growth.grow(trial, settings.growth, settings.growth_limit, but):
                    self.result.series.add(scenario, label, number, value)
            except Failed as error:
                self.result.failed(label, "growth", error)
            except growth.Stopped as reason:
                self.result.notes.append(f"{label}, growth: {reason}")
        self.progress("growth", len(trials), len(trials))

    def _connect(self, stack: contextlib.ExitStack) -> Client | None:
        """Connect to the containerd that was asked for. Raises Unavailable."""
        if not self.request.containerd or "containerd" not in self.settings.groups:
            return None
        from pysandbox.compare.containerdtrial import Client

        return stack.enter_context(Client(self.request.containerd))

    def _through(self, client: Client) -> None:
        """Take turns through containerd's API; who cannot run there is told with containerd's words."""
        from pysandbox.compare.containerdtrial import Api

        with contextlib.ExitStack() as stack:
            apis = []
            for number, trial in enumerate(self._containers()):
                label = trial.contender.name
                self.progress(f"through containerd: getting {label} ready", number, len(self.trials))
                api = Api(client, label, f"{client.namespace}-{number}", trial.bundles)
                stack.callback(api.close)
                try:
                    how, first = api.prepare_any(self._handlers(trial))
                except (Failed, OSError) as error:
                    self.result.failed(label, "containerd", error)
                    continue
                apis.append(api)
                self.result.annotate(label, f"through containerd: {how}{first and f' ({first})'}")
            self._api_rounds(apis)

    def _handlers(self, trial: Trial) -> list[Handler]:
        """Return the ways in which containerd may run a contender. Raises Failed, OSError."""
        from pysandbox.compare import handler

        contender, place = trial.contender, trial.directory / "containerd"
        place.mkdir()
        if contender.server is None:
            return handler.runtime(contender.name, contender.command, place)
        return handler.ours(contender.name, self.request.config, place)

    def _api_rounds(self, apis: Sequence[Api]) -> None:
        for number in range(1, self.settings.rounds + 1):
            present = [each for each in apis if each.name not in self.slow or number % STRIDE == 1]
            turns = [(each.name, act) for each in present for act in (each.life, each.exec)]
            _CHANCE.shuffle(turns)
            for label, act in turns:
                self._act(label, "containerd", act, number)
            self.progress("through containerd", number, self.settings.rounds)
        for number in range(1, self.settings.memory_rounds + 1):
            for each in apis:
                self._act(each.name, "api: memory", each.memory, number)
            self.progress("through containerd: memory", number, self.settings.memory_rounds)

    # -- the document --------------------------------------------------------------------------------------------------

    def _environment(self, directory: Path, load: Sequence[float], stolen: tuple[int, int]) -> dict[str, Any]:
        found = machine.describe([])
        del found["versions"]
        stolen_share = machine.share(stolen, machine.stolen())
        return found | {
            "load": list(load),
            "load_after": list(os.getloadavg()),
            "stolen": stolen_share,
            "memory_mib": os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") >> 20,
            "processor": machine.processor(),
            "file_system": machine.file_system(directory),
        }

    def _document(self, environment: dict[str, Any]) -> dict[str, Any]:
        result, settings = self.result, self.settings
        baseline = self._baseline()
        _, changes = derived.derive(self.bundle.spec, self.bundle.path, "/", ("hello",))
        return {
            "version": VERSION,
            "kind": "bench",
            "bundle": self.bundle.path,
            "changes": changes,
            "taken": datetime.now(UTC).isoformat(timespec="seconds"),
            "seconds": round(time.monotonic() - self._begin, 1),
            "tool_processor_seconds": round(self._cpu, 2),
            "interrupted": result.interrupted,
            "settings": {
                "rounds": settings.rounds,
                "containers": settings.containers,
                "growth": list(settings.growth),
                "growth_seconds": settings.growth_limit,
                "growth_memory_share": 1 - growth.RESERVE,
                "groups": list(settings.groups),
            },
            "machine": environment,
            "baseline": baseline,
            "contenders": result.contenders,
            "missing": result.missing,
            "failures": [
                {"contender": label, "scenario": scenario, "times": len(texts), "text": texts[-1]}
                for (label, scenario), texts in result.failures.items()
            ],
            "notes": result.notes,
            "scenarios": [asdict(each) for each in figure.catalogue(settings.growth).values()],
            "figures": list(result.series.figures(figure.catalogue(settings.growth), baseline)),
        }

    def _baseline(self) -> str | None:
        """Return who everybody is compared with: who was asked for, else runc, namespaces, or the first."""
        names = [each["name"] for each in self.result.contenders if each["kind"] != "host"]
        return next((name for name in (self.request.baseline, "runc", "namespaces", *names) if name in names), None)
