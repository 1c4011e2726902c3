"""What is measured: each scenario runs one contender once and yields named figures."""

from __future__ import annotations

import contextlib
import os
import secrets
import time
from itertools import dropwhile, pairwise
from typing import TYPE_CHECKING

from pysandbox.compare import measure, memory, parity, throughput, workload

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence
    from pathlib import Path
    from typing import Any, Self

    from pysandbox.compare.contender import Contender

#: MiB; all other figures are milliseconds.
MEMORY = "peak memory"
EXECUTOR = "executor"
AFTER_PLAN = "executor after the plan"
FLOOR = "floor"
#: Steps in which the executor waits: `wait_plan` ends when the plan has come.
WAITS = {"wait_plan", "stop", "wait_start"}


class Bench:
    """One contender with a state root, a long-running container, and the place to start it from."""

    def __init__(self, contender: Contender, place: measure.Place, directory: Path, bundles: dict[str, Path]) -> None:
        self.contender, self.place, self.bundles = contender, place, bundles
        self.root = directory / f"state-{contender.label}"
        self._output = os.open(directory / f"output-{contender.label}", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        self._pid_file = directory / f"pid-{contender.label}"
        self._long = ""
        self._long_pid = 0
        #: Commands of this contender so far.
        self.commands = 0
        #: MiB of processes outside of the caller's cgroup that serve a command: the warm server's spare.
        self.elsewhere = 0.0

    def __enter__(self) -> Self:
        """Start the container that `exec` and `state` are measured on."""
        self._long, self._long_pid = self._new("sleep")
        self.command("start", self._long)
        return self

    def __exit__(self, *_: object) -> None:
        """Remove it, whatever happened."""
        with contextlib.suppress(measure.Failed):
            self.command("delete", "--force", self._long)
            measure.end(self._long_pid)
        os.close(self._output)

    def command(self, *args: str, prefix: Sequence[str] = ()) -> float:
        """Run one command of the runtime in its place and return its milliseconds."""
        argv = [*prefix, *self._argv(*args)]
        self.commands += 1
        return self.place.call(lambda: measure.run(argv, self.contender.environment, self._output))

    def output(self) -> str:
        """Return what the last command wrote."""
        return os.pread(self._output, 1 << 20, 0).decode(errors="replace")

    def features(self) -> dict[str, Any]:
        """Return the parity line."""
        try:
            self.command("exec", self._long, "/bin/cat", "/tmp/fuse")  # noqa: S108  (in the container)
        except measure.Failed as error:
            opened = "not permitted" not in str(error)
        else:
            opened = True
        return parity.features(self._long_pid, self._long, self.root / self._long, opens_fuse=opened)

    @contextlib.contextmanager
    def foreground(self) -> Iterator[int]:
        """Have `run` wait for a container; yield the pid of what was started."""
        container = _new_id()
        argv = self._argv("run", *self._bundle("sleep"), "--pid-file", os.fspath(self._pid_file), container)
        self._pid_file.unlink(missing_ok=True)
        self.commands += 1
        pid = self.place.call(lambda: measure.spawn(argv, self.contender.environment, self._output))
        try:
            self._wait_for_sleep()
            yield pid
        finally:
            with contextlib.suppress(measure.Failed):  # what went wrong before is what is to be told
                self.command("kill", container, "KILL")
            measure.end(pid)

    def _wait_for_sleep(self) -> None:
        """Wait until the container's program runs."""
        deadline = time.monotonic() + measure.LIMIT
        while time.monotonic() < deadline:
            with contextlib.suppress(OSError, ValueError):
                pid = int(self._pid_file.read_text())
                with open(f"/proc/{pid}/comm") as file:
                    if file.read() == "sleep\n":
                        return
            time.sleep(0.01)
        raise measure.Failed(f"{self.contender.label}: run: no container after {measure.LIMIT:.0f} s: {self.output()}")

    # -- scenarios ---------------------------------------------------------------------------------------------------

    def run_true(self) -> Iterator[tuple[str, float]]:
        """`run` of a program that does nothing."""
        yield "run true", self.command("run", *self._bundle("true"), _new_id())

    def life(self) -> Iterator[tuple[str, float]]:
        """Create, start, kill, delete, each timed; and the three of them that make a container and remove it."""
        container = _new_id()
        steps = {"create": self._create(container, "sleep")}
        pid = int(self._pid_file.read_text())
        steps["start"] = self.command("start", container)
        steps["kill"] = self.command("kill", container, "KILL")
        measure.end(pid)
        steps["delete"] = self.command("delete", container)
        yield from steps.items()
        yield "create+start+delete", sum(steps[name] for name in ("create", "start", "delete"))

    def exec_true(self) -> Iterator[tuple[str, float]]:
        """`exec` of a program that does nothing."""
        yield "exec true", self.command("exec", self._long, "/bin/true")

    def state(self) -> Iterator[tuple[str, float]]:
        """`state` of a running container."""
        yield "state", self.command("state", self._long)

    def executor(self) -> Iterator[tuple[str, float]]:
        """The executor's own share of `run true`, from its spawn to the user's program, as `--trace` tells it.

        All of it is work. Only what follows the plan is time that `run` takes the longer for it: what the executor does
        before goes on while Python plans.
        """
        if not self.contender.ours:
            return
        self.command("run", "--trace", *self._bundle("true"), _new_id())
        yield EXECUTOR, traced_milliseconds(self.output())
        yield AFTER_PLAN, traced_milliseconds(self.output(), since="plan")

    def peak_memory(self) -> Iterator[tuple[str, float]]:
        """Most memory that `run true` and all its processes had at once, what the kernel holds for them included.

        A spare of the warm server has it in the server's cgroup: what it had at most of its own is added.
        """
        if not memory.available():
            return
        meter = memory.Meter()
        workload.set_cgroups_path(self.bundles["counted"], meter.cgroups_path)
        with meter.prefix() as prefix:
            self.command("run", *self._bundle("counted"), _new_id(), prefix=prefix)
            yield MEMORY, meter.mebibytes() + self.elsewhere

    def throughput(self, level: int) -> throughput.Turn:
        """Run containers, `level` of them at once."""
        outputs = [os.memfd_create("output") for _ in range(level)]

        def run(worker: int) -> float:
            argv = self._argv("run", *self._bundle("true"), _new_id())
            return measure.run(argv, self.contender.environment, outputs[worker])

        self.commands += throughput.CONTAINERS
        try:
            return self.place.call(lambda: throughput.take(run, level))
        finally:
            for output in outputs:
                os.close(output)

    def scenarios(self) -> list[Any]:
        """Return all of them, in the order of the table."""
        return [self.run_true, self.life, self.exec_true, self.state, self.executor, self.peak_memory]

    def _argv(self, *args: str) -> list[str]:
        return [*self.contender.command, "--root", os.fspath(self.root), *args]

    def _bundle(self, name: str) -> tuple[str, str]:
        return "--bundle", os.fspath(self.bundles[name])

    def _create(self, container: str, bundle: str) -> float:
        return self.command("create", *self._bundle(bundle), "--pid-file", os.fspath(self._pid_file), container)

    def _new(self, bundle: str) -> tuple[str, int]:
        container = _new_id()
        self._create(container, bundle)
        return container, int(self._pid_file.read_text())


def traced_milliseconds(text: str, since: str | None = None) -> float:
    """Return the sum of the steps of a `--trace`, but those in which the executor waited for the front end.

    `since` is the first step to count, if not the first of all. Raises Failed where there is no such step.

    A line is `12.345 ms  +0.123  step`: what came before this step took 0.123. Between one of `WAITS` and the next, the
    front end was at work: the plan, the record, limits, hooks. What the executor did before that, it did beside it.
    """
    steps = [line.split() for line in text.splitlines() if line.split()[1:2] == ["ms"]]
    if since is not None:
        steps = list(dropwhile(lambda step: step[-1] != since, steps))
    if not steps:
        raise measure.Failed(f"--trace printed no step {since or ''}".rstrip())
    return sum(float(now[-2].lstrip("+")) for before, now in pairwise(steps) if before[-1] not in WAITS)


def floor(contender: Contender, place: measure.Place, output: int) -> Iterator[tuple[str, float]]:
    """Milliseconds for a program that is no runtime."""
    yield FLOOR, place.call(lambda: measure.run(contender.command, contender.environment, output))


def kernel(gauge: str, bundle: Path, place: measure.Place, output: int) -> Iterator[tuple[str, float]]:
    """Milliseconds for what the kernel does for a container, by bare system calls: the executor's floor."""
    command = (gauge, "floor", os.fspath(bundle / "rootfs"), *workload.TRUE)
    place.call(lambda: measure.run(command, {}, output))
    yield EXECUTOR, float(os.pread(output, 64, 0))


def _new_id() -> str:
    return f"bench-{secrets.token_hex(6)}-{time.monotonic_ns() % 1000}"
