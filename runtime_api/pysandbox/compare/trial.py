"""What one contender does with a derived bundle, each act timed once."""

from __future__ import annotations

import contextlib
import os
import secrets
import time
from dataclasses import dataclass
from typing import TYPE_CHECKING

from pysandbox.compare import derived, gauge, processes, throughput, timing
from pysandbox.compare.measure import Failed

if TYPE_CHECKING:
    from collections.abc import Collection, Iterator
    from pathlib import Path

    from pysandbox.compare.contender import Contender

#: Milliseconds for each figure that the gauge takes.
GAUGE = 40
#: Seconds for `--version`.
VERSION_LIMIT = 10.0
#: Seconds after a start until memory is read: what starts the workload may still be about to become it.
SETTLE = 0.1
#: Bytes of a pid file that are read, and PID_MAX_LIMIT.
LONGEST_PID, LAST_PID = 32, 1 << 22
PROGRAMS = {
    "hello": ("hello",),
    "wait": ("wait",),
    "measure": ("measure", str(GAUGE), derived.FILES),
}


@dataclass(frozen=True, slots=True)
class Memory:
    """Processes that a sandbox needs beside its workload, and their PSS in MiB."""

    processes: int
    proportional: float


@dataclass(frozen=True, slots=True)
class Sandbox:
    """A running container: its id, and the pid that the host knows it by."""

    name: str
    pid: int


class Trial:
    """One contender, a state directory of its own, and the bundles derived for it."""

    def __init__(self, contender: Contender, bundles: dict[str, Path], directory: Path, limit: float) -> None:
        self.contender, self.bundles, self.directory, self.limit = contender, bundles, directory, limit
        self._root = directory / "state"
        self._pid_file = directory / "pid"
        self._output = os.open(directory / "output", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        self._here: dict[str, Sandbox] = {}
        self.long: Sandbox | None = None
        #: Names of all commands so far.
        self.commands: list[str] = []

    def close(self) -> None:
        """End and remove every container that is still there, whatever happened."""
        for sandbox in list(self._here.values()):
            self.remove(sandbox)
        os.close(self._output)

    # -- acts --------------------------------------------------------------------------------------------------------

    def start_to_exit(self) -> Iterator[tuple[str, float]]:
        """`run` a program that writes a line and ends."""
        found = self._run("hello", self.limit)
        if found.first is None:
            raise Failed(f"{self.contender.name}: run: the program wrote nothing")
        yield "start to first byte", found.first
        yield "start to exit", found.end

    def life(self) -> Iterator[tuple[str, float]]:
        """Create, start, kill and delete one container, each timed."""
        sandbox, created, started = self.begin()
        yield "create", created
        yield "start", started
        killed, deleted = self.end(sandbox)
        yield "kill", killed
        yield "delete", deleted

    def exec(self) -> Iterator[tuple[str, float]]:
        """`exec` the same program in the container that waits."""
        argv = self._argv("exec", self._long().name, derived.PROGRAM, "hello")
        found = timing.run(self._name("exec"), argv, self._environment, self.limit)
        if found.first is None:
            raise Failed(f"{self.contender.name}: exec: the program wrote nothing")
        yield "exec to first byte", found.first
        yield "exec to exit", found.end

    def inside(self) -> gauge.Readings:
        """`run` the gauge in a container of its own; return what it says."""
        timing_ = self._run("measure", self.limit + 60)
        found = gauge.read(timing_.output)
        if found.milliseconds is not None and timing_.first is not None:
            found.ahead = found.milliseconds / max(1.0, timing_.end - timing_.first)
        return found

    def throughput(self, level: int, containers: int) -> throughput.Turn:
        """`run` so many containers, `level` of them at once."""
        return throughput.take(lambda _worker: self._run("hello", self.limit * 2), level, containers)

    def _run(self, bundle: str, limit: float) -> timing.Timing:
        """`run` a bundle to its end; where that fails or is interrupted, what is left of it is removed."""
        name = _new_id()
        self._here[name] = Sandbox(name, 0)
        argv = self._argv("run", *self._bundle(bundle), name)
        try:
            found = timing.run(self._name("run"), argv, self._environment, limit)
        except Failed:
            self.remove(self._here[name])
            raise
        del self._here[name]
        return found

    # -- containers --------------------------------------------------------------------------------------------------

    def begin(self) -> tuple[Sandbox, float, float]:
        """Create and start a container that waits; return it with the milliseconds of both."""
        name = _new_id()
        self._pid_file.unlink(missing_ok=True)
        self._here[name] = Sandbox(name, 0)
        created = self.command("create", *self._bundle("wait"), "--pid-file", os.fspath(self._pid_file), name)
        self._here[name] = sandbox = Sandbox(name, self._read_pid("create"))
        return sandbox, created, self.command("start", name)

    def _read_pid(self, command: str) -> int:
        try:
            return read_pid(self._pid_file)
        except (OSError, ValueError) as error:
            raise Failed(f"{self._name(command)}: no pid in its --pid-file: {error}") from None

    def end(self, sandbox: Sandbox) -> tuple[float, float]:
        """Kill and delete a container; return the milliseconds of both. Its end in between is not counted."""
        killed = self.command("kill", sandbox.name, "KILL")
        timing.wait_end(sandbox.pid, self.limit)
        deleted = self.command("delete", sandbox.name)
        del self._here[sandbox.name]
        return killed, deleted

    def remove(self, sandbox: Sandbox) -> None:
        """Remove a container by force; what cannot be removed is not waited for."""
        self._here.pop(sandbox.name, None)
        with contextlib.suppress(Failed):
            self.command("delete", "--force", sandbox.name)
            if sandbox.pid:
                timing.wait_end(sandbox.pid, self.limit)

    def hold(self) -> None:
        """Start the container that `exec` is measured in."""
        self.long, _, _ = self.begin()

    def command(self, *words: str) -> float:
        """Run one command of the runtime; return its milliseconds. Raises Failed with its words."""
        return timing.run(self._name(words[0]), self._argv(*words), self._environment, self.limit, self._output).end

    def version(self) -> str:
        """Return the first line of what the contender says of its version, or why it says none."""
        argv = [*self.contender.command, "--version"]
        try:
            found = timing.run(self._name("--version"), argv, self._environment, VERSION_LIMIT)
        except Failed as error:
            return f"unknown ({error})"
        return gauge.printable(found.output.strip().partition("\n")[0])

    # -- memory ------------------------------------------------------------------------------------------------------

    def detached(self, *, but: Collection[int]) -> Memory:
        """Return what a container that was created and started needs beside its workload."""
        before = processes.descendants(os.getpid(), but=but)
        sandbox, _, _ = self.begin()
        try:
            time.sleep(SETTLE)
            return outside((processes.descendants(os.getpid(), but=but) - before) | processes.beside(sandbox.pid))
        finally:
            self.end(sandbox)

    @contextlib.contextmanager
    def foreground(self) -> Iterator[set[processes.Process]]:
        """Have `run` wait for a container; yield what is in the container's cgroup while it waits."""
        name = _new_id()
        self._here[name] = Sandbox(name, 0)
        self._pid_file.unlink(missing_ok=True)
        argv = self._argv("run", *self._bundle("wait"), "--pid-file", os.fspath(self._pid_file), name)
        output = os.memfd_create("output")
        started = None
        try:
            started = timing.Started(self._name("run"), argv, self._environment, output)
            started.release()
            self._wait_for_hello(output)
            yield processes.beside(self._read_pid("run"))
        finally:
            with contextlib.suppress(Failed):
                self.command("kill", name, "KILL")
            with contextlib.suppress(Failed):
                if started is not None:
                    started.wait(self.limit)
            os.close(output)
            self.remove(self._here[name])

    def _wait_for_hello(self, output: int) -> None:
        deadline = time.monotonic() + self.limit
        while not os.pread(output, 100, 0).endswith(b"hello\n"):
            if time.monotonic() > deadline:
                raise Failed(f"{self.contender.name}: run: no output within {self.limit:.0f} s")
            time.sleep(0.005)

    # -- command lines -----------------------------------------------------------------------------------------------

    @property
    def _environment(self) -> dict[str, str]:
        return self.contender.environment

    def _name(self, command: str) -> str:
        return f"{self.contender.name}: {command}"

    def _argv(self, *words: str) -> list[str]:
        self.commands.append(words[0])
        return [*self.contender.command, "--root", os.fspath(self._root), *words]

    def _bundle(self, name: str) -> tuple[str, str]:
        return "--bundle", os.fspath(self.bundles[name])

    def _long(self) -> Sandbox:
        if self.long is None:
            raise Failed(f"{self.contender.name}: no container to execute in")
        return self.long


class Host(Trial):
    """No sandbox at all: the gauge itself, on the same files, started in the same way. What is below all others."""

    def __init__(self, contender: Contender, root: Path, directory: Path, limit: float) -> None:
        super().__init__(contender, {}, directory, limit)
        self._program, self._files = (os.fspath(root / path.lstrip("/")) for path in (derived.PROGRAM, derived.FILES))

    def start_to_exit(self) -> Iterator[tuple[str, float]]:
        """Start the gauge, which writes a line and ends."""
        found = timing.run(self._name("gauge"), [self._program, "hello"], self._environment, self.limit)
        yield "start to first byte", found.first or found.end
        yield "start to exit", found.end

    def inside(self) -> gauge.Readings:
        """Have the gauge measure the host, on the same file system."""
        argv = [self._program, "measure", str(GAUGE), self._files]
        return gauge.read(timing.run(self._name("run"), argv, self._environment, self.limit + 60).output)


def read_pid(path: Path) -> int:
    """Return what a pid file holds. Raises OSError, ValueError for anything but a process's number."""
    with path.open("rb", buffering=0) as file:
        text = (file.read(LONGEST_PID) or b"").strip()
    if not text.isdigit() or not 1 < int(text) <= LAST_PID:
        raise ValueError(repr(text))
    return int(text)


def outside(found: Collection[processes.Process]) -> Memory:
    """Return the memory of those processes that are no workload."""
    return Memory(*processes.proportional({pid for pid, _ in found if not processes.is_workload(pid)}))


def _new_id() -> str:
    return f"bench-{secrets.token_hex(6)}"
