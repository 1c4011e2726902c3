"""`python -m pysandbox.compare.shimbench`: our shim beside io.containerd.runc.v2, under one containerd, in one run.

Both take one turn in each round, in random order, with the same spec. The API is called by gRPC, so that no client's
start-up is measured; `ctr` rows have the row of a ctr that only asks for the version as their floor. What the rows mean
is in docs/bench.md. The exit code is 1 if something failed or our shims were not forked from the warm server.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import random
import secrets
import shutil
import sys
import tempfile
import time
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from pysandbox.compare import contender, distribution, footprint, machine, measure, throughput, workload
from pysandbox.compare.containerd import Containerd, Tasks
from pysandbox.compare.server import Server

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

OURS, THEIRS = "pysandbox", "runc-v2"
RUNTIMES = {OURS: "io.containerd.pysandbox.v2", THEIRS: "io.containerd.runc.v2"}
SHIMS = {OURS: "containerd-shim-pysandbox-v2", THEIRS: "containerd-shim-runc-v2"}
FLOOR = "ctr version (floor)"
RUN, START, EXEC = "ctr run --rm", "shim start", "exec through the API"
LIFE = "create+start+delete through the API"
LEVELS = (1, 8)
POPULATIONS = (1, 10, 50)
#: Seconds without a word to a shim before its memory is read.
SETTLED = 4.0
#: Row, ratio that was promised, ratio that is hoped for (issue 5).
GOALS = (
    (RUN, 0.85, 0.55),
    (EXEC, 0.75, 0.5),
    (LIFE, 0.5, 0.2),
    (START, 1.0, 1.0),
    ("PSS per container at 50", 1.0, 0.3),
)
_CHANCE = random.Random()  # noqa: S311  (an order, not a secret)


@dataclass(slots=True)
class Result:
    """Row → contender → figures in milliseconds or MiB, and what a reader must know."""

    series: dict[str, dict[str, list[float]]] = field(default_factory=dict)
    doubts: list[str] = field(default_factory=list)

    def add(self, row: str, label: str, value: float) -> None:
        """Keep one figure."""
        self.series.setdefault(row, {}).setdefault(label, []).append(value)


class Contender:
    """One runtime under the bench's containerd, with a container that lives as long as the bench."""

    def __init__(self, label: str, containerd: Containerd, specs: dict[str, Path]) -> None:
        self.label, self._containerd, self._specs = label, containerd, specs
        self._tasks = Tasks(containerd)
        self._once, self._long = f"once-{label}", f"long-{label}"
        self._outputs = [os.memfd_create("output") for _ in range(max(LEVELS))]
        self._process = {**json.loads(specs["true"].read_text())["process"], "args": workload.TRUE}
        self.starts = 0

    def prepare(self) -> None:
        """Make the containers that the API is called for."""
        for name, spec in ((self._once, "true"), (self._long, "sleep")):
            self._containerd.ctr("container", "create", *self._words(spec), name)
        self._tasks.create(self._long)
        self._tasks.start(self._long)
        self.starts += 1

    def _words(self, spec: str) -> list[str]:
        return ["--runtime", RUNTIMES[self.label], "--config", str(self._specs[spec])]

    def close(self) -> None:
        """Close what is open."""
        self._tasks.close()
        for output in self._outputs:
            os.close(output)

    def run(self, worker: int = 0) -> float:
        """`ctr run --rm` of a program that does nothing."""
        self.starts += 1
        words = ["run", "--rm", "--null-io", *self._words("true"), f"run-{secrets.token_hex(6)}"]
        return self._containerd.ctr(*words, output=self._outputs[worker])

    def take_run(self) -> Iterator[tuple[str, float]]:
        """Time it."""
        yield RUN, self.run()

    def life(self) -> Iterator[tuple[str, float]]:
        """Create, start and delete by the API: the end of the program is waited for and not timed."""
        self.starts += 1
        steps = {"create": _timed(partial(self._tasks.create, self._once))}
        steps["start"] = _timed(partial(self._tasks.start, self._once))
        self._tasks.wait(self._once)
        steps["delete"] = _timed(partial(self._tasks.delete, self._once))
        yield from ((f"{name} through the API", value) for name, value in steps.items())
        yield LIFE, sum(steps.values())

    def exec(self) -> Iterator[tuple[str, float]]:
        """Add a process, start it, wait for its end."""
        exec_id = secrets.token_hex(6)

        def act() -> None:
            self._tasks.exec(self._long, exec_id, self._process)
            self._tasks.start(self._long, exec_id)
            self._tasks.wait(self._long, exec_id)

        yield EXEC, _timed(act)
        self._tasks.delete_process(self._long, exec_id)

    def shim_start(self) -> Iterator[tuple[str, float]]:
        """`start` of the shim alone, in a bundle of its own; then what it weighs, before any container."""
        self.starts += 1
        with tempfile.TemporaryDirectory(prefix="pysandbox-bench-") as bundle:
            shutil.copy(self._specs["true"], f"{bundle}/config.json")
            os.mkfifo(f"{bundle}/log")
            log = os.open(f"{bundle}/log", os.O_RDWR)
            try:
                took, address = self._containerd_start(bundle)
                with _shim(address) as pid:
                    yield START, took
                    yield "PSS of a shim alone, MiB", footprint.of(*_processes(pid)).proportional
            finally:
                os.close(log)

    def _containerd_start(self, bundle: str) -> tuple[float, str]:
        """Start it as containerd does, and return the milliseconds and its address."""
        environment = dict(self._containerd.environment)
        program = shutil.which(SHIMS[self.label], path=environment["PATH"]) or SHIMS[self.label]
        output = self._outputs[0]
        words = ["-namespace", self._containerd.namespace, "-id", f"start-{secrets.token_hex(6)}"]
        words += ["-address", self._containerd.address, "-publish-binary", "/bin/true", "start"]
        argv = ["/usr/bin/env", "-C", bundle, program, *words]
        return measure.run(argv, environment, output), os.pread(output, 200, 0).decode()

    def populate(self, count: int) -> list[str]:
        """Start so many containers that sleep; return their names."""
        names = [f"many-{self.label}-{number}" for number in range(count)]
        for name in names:
            self._containerd.ctr("run", "--detach", "--null-io", *self._words("sleep"), name)
        self.starts += count
        return names

    def scenarios(self) -> list[Callable[[], Iterator[tuple[str, float]]]]:
        """Return what takes a turn in each round."""
        return [self.take_run, self.life, self.exec, self.shim_start]


@contextlib.contextmanager
def _shim(address: str) -> Iterator[int]:
    """Ask a shim for its pid, and have it end afterwards."""
    from pysandbox.shim.messages import task as messages
    from pysandbox.ttrpc.client import Client
    from pysandbox.ttrpc.errors import RpcError

    with Client.connect(address.strip().removeprefix("unix://"), 10) as client:
        pid = client.call(messages.Task, "Connect", messages.ConnectRequest(id="none"), timeout=10).shim_pid
        try:
            yield pid
        finally:
            with contextlib.suppress(RpcError):  # the answer may be cut off
                client.call(messages.Task, "Shutdown", messages.ShutdownRequest(id="none", now=True), timeout=10)
            measure.end(pid)  # orphaned to us, the subreaper


def _timed(act: Callable[[], object]) -> float:
    begin = time.perf_counter_ns()
    act()
    return (time.perf_counter_ns() - begin) / 1e6


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the bench and print the tables."""
    parser = argparse.ArgumentParser(prog="shimbench", description=__doc__)
    parser.add_argument("--rounds", type=int, default=30, help="turns of each contender (default: 30)")
    parser.add_argument("--json", type=Path, help="write all raw figures to this file")
    wanted = parser.parse_args(arguments)
    if wanted.rounds < 1:
        parser.error(f"--rounds {wanted.rounds}: at least one")
    if os.geteuid() != 0:
        parser.error("only root can run containers")
    measure.adopt_orphans()
    result = Result()
    with contextlib.ExitStack() as stack:
        place = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="psb-")))
        _bench(stack, place, wanted.rounds, result)
    for line in lines(result):
        print(line)
    if wanted.json is not None:
        wanted.json.write_text(json.dumps(result.series, indent=1) + "\n")
    return 1 if result.doubts else 0


def _bench(stack: contextlib.ExitStack, place: Path, rounds: int, result: Result) -> None:
    found, missing = contender.find_contenders([contender.WARM, "runc"], place / "server")
    if contender.WARM in missing or not found:
        raise measure.Failed(f"pysandbox: {missing.get(contender.WARM, 'not installed')}")
    warm = next(each for each in found if each.warm and not each.private)
    server = stack.enter_context(Server(warm, place / "state-server"))
    path = f"{Path(warm.command[0]).parent}:{contender.ENVIRONMENT['PATH']}"
    if shutil.which(SHIMS[OURS], path=path) is None:
        raise measure.Failed(f"{SHIMS[OURS]} is not beside {warm.command[0]}: run `make setup`")
    containerd = stack.enter_context(Containerd(place, {**warm.environment, "PATH": path}))
    print("\n".join(f"{key}: {value}" for key, value in machine.describe(found).items()))
    contenders = [Contender(label, containerd, _specs(place)) for label in RUNTIMES]
    for each in contenders:
        stack.callback(each.close)
        each.prepare()
    before, started = server.status(), contenders[0].starts
    _rounds(contenders, containerd, rounds, result)
    _throughputs(contenders, max(1, rounds // 10), result)
    _populations(contenders, containerd, server, result)
    account = server.account(before, contenders[0].starts - started)
    if account.cold:
        result.doubts.append(f"NOT WARM: {account}; the server refused {server.status().refused}")


def _specs(place: Path) -> dict[str, Path]:
    """Make the bundles once; return the specs, which name their root file systems."""
    found = {}
    for name, args in (("true", workload.TRUE), ("sleep", workload.SLEEP)):
        bundle = place / name
        if not bundle.exists():
            workload.make_bundle(bundle, args)
            document = json.loads((bundle / "config.json").read_text())
            document["root"]["path"] = str(bundle / "rootfs")
            (bundle / "config.json").write_text(json.dumps(document))
        found[name] = bundle / "config.json"
    return found


def _rounds(contenders: Sequence[Contender], containerd: Containerd, rounds: int, result: Result) -> None:
    for number in range(rounds + 1):
        turns = [(each.label, take) for each in contenders for take in each.scenarios()]
        _CHANCE.shuffle(turns)
        for label, take in turns:
            for row, value in take():
                if number:  # the first round warms caches
                    result.add(row, label, value)
        result.add(FLOOR, "ctr", containerd.ctr("version"))


def _throughputs(contenders: Sequence[Contender], rounds: int, result: Result) -> None:
    """Containers per second by `ctr run --rm`."""
    for _ in range(rounds):
        turns = [(each, level) for each in contenders for level in LEVELS]
        _CHANCE.shuffle(turns)
        for each, level in turns:
            turn = throughput.take(each.run, level)
            result.add(f"{RUN}, {level} at once, per s", each.label, turn.rate)
            result.doubts += [f"FAILED: {each.label}, {level} at once: {failure}" for failure in turn.failures[:1]]


def _populations(contenders: Sequence[Contender], containerd: Containerd, server: Server, result: Result) -> None:
    """PSS of all shims at rest, divided by the containers; of ours with the server, which they share."""
    for each in contenders:
        for count in POPULATIONS:
            names = each.populate(count)
            pids = containerd.pids()
            time.sleep(SETTLED)
            shims = {_parent(pids[name]) for name in names}
            memory = footprint.of(*(pid for shim in shims for pid in _processes(shim))).proportional
            if each.label == OURS:
                status = server.status()
                shared = footprint.of(status.pid, *status.spares).proportional
                result.add(f"PSS per container at {count}, shims alone", each.label, memory / count)
                memory += shared
            result.add(f"PSS per container at {count}", each.label, memory / count)
            for name in names:
                containerd.ctr("task", "delete", "--force", name)
                containerd.ctr("container", "delete", name)


def _processes(shim: int) -> set[int]:
    """Return the processes of a shim: it, and who serves for it: a child, or its parent, that bears its name."""
    name = Path(f"/proc/{shim}/comm").read_text()
    found = {_parent(shim)}
    for task in Path(f"/proc/{shim}/task").iterdir():
        found |= set(map(int, (task / "children").read_text().split()))
    return {shim, *(pid for pid in found if _name(pid) == name)}


def _name(pid: int) -> str:
    with contextlib.suppress(OSError):
        return Path(f"/proc/{pid}/comm").read_text()
    return ""


def _parent(pid: int) -> int:
    return int(Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[1])


def lines(result: Result) -> Iterator[str]:
    """Yield the table, the goals and the doubts."""
    yield f"\n{'':<44}{'median':>10}{'quartiles':>20}   ratio to {THEIRS} (95 %)"
    for row, labels in result.series.items():
        yield row
        for label, values in labels.items():
            each = distribution.summarize(values)
            ratio = _ratio(labels) if label == OURS else ""
            quartiles = f"{each.lower:.2f} … {each.upper:.2f}"
            yield f"  {label:<42}{each.median:>10.2f}{quartiles:>20}   {ratio}".rstrip()
    yield f"\n{'goals':<44}{'ratio':<24}{'goal':<18}aim"
    for row, goal, aim in GOALS:
        labels = result.series.get(row, {})
        if {OURS, THEIRS} <= labels.keys():
            value = distribution.median(labels[OURS]) / distribution.median(labels[THEIRS])
            met, aimed = (f"≤ {limit:g}: {'met' if value <= limit else 'missed'}" for limit in (goal, aim))
            yield f"  {row:<42}{_ratio(labels):<24}{met:<18}{aimed}"
        else:
            yield f"  {row:<42}not measured"
    yield from result.doubts


def _ratio(labels: dict[str, list[float]]) -> str:
    if THEIRS not in labels:
        return ""
    found = distribution.ratio(labels[OURS], labels[THEIRS])
    return f"{found.value:.2f} ({found.low:.2f} … {found.high:.2f})"


if __name__ == "__main__":
    try:
        sys.exit(main())
    except (measure.Failed, OSError) as failure:
        sys.exit(f"shimbench: {failure}")
