"""The warm contender's server: one of the bench's own, and the proof that commands were really served by it."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import time
from dataclasses import dataclass
from typing import TYPE_CHECKING

from pysandbox.compare.measure import Failed, end, run

if TYPE_CHECKING:
    from pathlib import Path
    from typing import Self

    from pysandbox.compare.contender import Contender

#: Seconds in which the first command's server must answer, and in which a stopped one must be gone.
LIMIT = 10.0
#: How often the server's count is read before commands count as cold.
LOOKS = 10


@dataclass(frozen=True, slots=True)
class Status:
    """What `server status` says.

    `served` counts commands that it took, `refused` those it did not, by reason; `spares` and `serving` are pids of its
    forks; `fork` is the milliseconds that the last fork took it.
    """

    pid: int
    served: int
    refused: dict[str, int]
    spares: frozenset[int]
    serving: frozenset[int]
    fork: float


@dataclass(frozen=True, slots=True)
class Account:
    """How many commands should have run warm since a status was asked, and how many of them the server took."""

    commands: int
    served: int

    @property
    def cold(self) -> int:
        """How many it did not take."""
        return max(0, self.commands - self.served)

    def __str__(self) -> str:
        """Return one sentence."""
        return f"{self.cold} of {self.commands} commands ran cold" if self.cold else f"all {self.commands} ran warm"


def read_status(text: str) -> Status:
    """Return the status that a JSON document tells. Raises Failed for anything else."""
    try:
        document = json.loads(text)
        return Status(
            int(document["pid"]),
            int(document["served"]),
            dict(document["refused"]),
            frozenset(document["spares"]),
            frozenset(document["serving"]),
            float(document["fork_ms"]),
        )
    except (ValueError, KeyError, TypeError) as error:
        raise Failed(f"`server status` printed no status ({error!r}): {text[:200].strip()}") from None


def account(before: Status, after: Status, commands: int) -> Account:
    """Return what became of `commands`. Raises Failed if another server answers than before."""
    if after.pid != before.pid:
        raise Failed(f"server {before.pid} was replaced by {after.pid} while it was measured")
    return Account(commands, after.served - before.served)


class Server:
    """The server that the first command starts in `contender.server`, which does not exist yet.

    A launcher starts a server only from the namespaces of the host's first process, so it is to be made in the host's
    place. It is orphaned to us, the subreaper. `directory` is for its first command's use.
    """

    def __init__(self, contender: Contender, directory: Path) -> None:
        self._contender = contender
        self._directory = directory
        #: Asked of this one, no command is counted, and no spare used up.
        self._program = f"{os.path.realpath(contender.command[0])}-cold"
        self.pid = 0
        #: Milliseconds that forks took, as each status told.
        self.forks: list[float] = []

    def __enter__(self) -> Self:
        """Have a command start it, and wait until it answers. Raises Failed with the reason if it does not."""
        if not os.path.exists(self._program):
            raise Failed(f"no warm start: {self._program} is not installed")
        self._first_command()
        deadline = time.monotonic() + LIMIT
        while True:
            try:
                self.pid = self.status().pid
                return self
            except Failed as error:
                if time.monotonic() > deadline:
                    self._ask("stop")  # what cannot tell its status may be there all the same
                    raise Failed(f"no warm server within {LIMIT:.0f} s: {error}") from None
                time.sleep(0.05)

    def _first_command(self) -> None:
        self._directory.mkdir()
        output = os.memfd_create("output")
        try:
            argv = [*self._contender.command, "--root", os.fspath(self._directory), "list"]
            run(argv, self._contender.environment, output)
        finally:
            os.close(output)

    def __exit__(self, *_: object) -> None:
        """Stop it; what does not stop is killed, and said."""
        answer = self._ask("stop")
        deadline = time.monotonic() + LIMIT
        while os.path.exists(f"/proc/{self.pid}/exe"):  # a zombie has none
            if time.monotonic() > deadline:
                os.kill(self.pid, signal.SIGKILL)
                end(self.pid)
                raise Failed(f"server {self.pid} did not stop: {answer.stderr.strip() or answer.stdout.strip()}")
            time.sleep(0.01)
        end(self.pid)

    def status(self) -> Status:
        """Return what it says of itself. Raises Failed."""
        answer = self._ask("status")
        if answer.returncode != 0:
            raise Failed(answer.stderr.strip() or f"`server status`: exit code {answer.returncode}")
        found = read_status(answer.stdout)
        self.forks.append(found.fork)
        return found

    def account(self, before: Status, commands: int) -> Account:
        """Return what became of `commands`: the server may hear of the last a moment after they have ended."""
        for _ in range(LOOKS):
            found = account(before, self.status(), commands)
            if not found.cold:
                break
            time.sleep(0.05)
        return found

    def _ask(self, what: str) -> subprocess.CompletedProcess[str]:
        argv = [self._program, "server", what]
        return subprocess.run(
            argv, env=self._contender.environment, capture_output=True, text=True, timeout=LIMIT + 5, check=False
        )
