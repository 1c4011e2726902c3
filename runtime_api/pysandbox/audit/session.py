"""One run of the probe in a container: made, watched within a limit, looked at from outside, and removed."""

from __future__ import annotations

import contextlib
import os
import select
import signal
import tempfile
import threading
import time
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Self

from pysandbox import lifecycle
from pysandbox.audit import outside
from pysandbox.audit.derivation import derive
from pysandbox.audit.lines import Reader
from pysandbox.backend import Options, Stdio
from pysandbox.errors import NotFound, SandboxError, Unavailable
from pysandbox.executor import open_program, program_path
from pysandbox.record import replace

if TYPE_CHECKING:
    from collections.abc import Iterator

    from pysandbox.audit.finding import Facts
    from pysandbox.lifecycle import Runtime
    from pysandbox.oci.bundle import Bundle

PROGRAM = "pysandbox-probe"
#: Seconds for all probes; a machine that is emulated takes a hundred times longer than the host.
LIMIT = 300.0
#: Bytes of the probe's standard error that are kept.
_COMPLAINTS = 2048
_INTERRUPTS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)


@dataclass(frozen=True, slots=True, kw_only=True)
class Observation:
    """What a run showed. `hows` of the probe's own lines; `notes` are what went wrong, one line each."""

    facts: dict[str, Facts]
    hows: dict[str, str]
    changes: tuple[str, ...]
    notes: tuple[str, ...] = field(default=())


def probe_path() -> str:
    """Return the probe's file, which only root can have changed. Raises Unavailable."""
    path = program_path(PROGRAM)
    os.close(open_program(PROGRAM))
    return path


def observe(runtime: Runtime, bundle: Bundle, options: Options, limit: float = LIMIT) -> Observation:
    """Run the probe in the bundle's place. Raises whatever making a container raises, and Unavailable for no answer."""
    container_id = f"audit-{os.urandom(6).hex()}"
    with _canary() as canary:
        derivation = derive(bundle.spec, probe_path(), canary, f"-{container_id}")
        with _Pipes() as pipes:
            reader, seen, note = _run(
                runtime, container_id, replace(bundle, spec=derivation.spec), options, pipes, limit
            )
            notes = [*reader.faults, *([note] if note else [])]
            if not reader.facts:
                raise Unavailable(f"the probe reported nothing: {'; '.join(notes) or pipes.complaint() or 'it ended'}")
    return Observation(facts={**reader.facts, **seen}, hows=reader.hows, changes=derivation.changes, notes=tuple(notes))


def _run(
    runtime: Runtime, container_id: str, bundle: Bundle, options: Options, pipes: _Pipes, limit: float
) -> tuple[Reader, dict[str, Facts], str]:
    """Return what the probe wrote, what was seen from outside, and what stopped it."""
    try:
        with _undisturbed():
            container = lifecycle.create(runtime, container_id, bundle, stdio=pipes.stdio(), options=options)
            lifecycle.start(runtime, container_id, container)
        pipes.close_theirs()
        reader, note = Reader(), ""
        if not _gather(reader, pipes, time.monotonic() + limit):
            note = f"the probe was not done after {limit:g} s"
        return reader, outside.observe(container.init.pid), note
    finally:
        with _undisturbed():
            _remove(runtime, container_id)


@contextlib.contextmanager
def _undisturbed() -> Iterator[None]:
    """Put off what signals would raise: a create that ends just anywhere keeps its lock, and a delete leaves a half."""
    if threading.current_thread() is not threading.main_thread():  # which has no handlers to be called
        yield
        return
    told: list[int] = []
    handlers = {number: found for number in _INTERRUPTS if callable(found := signal.getsignal(number))}
    for number in handlers:
        signal.signal(number, lambda number, _frame: told.append(number))
    try:
        yield
    finally:
        for number, handler in handlers.items():
            signal.signal(number, handler)
        if told:
            signal.raise_signal(told[0])


def _remove(runtime: Runtime, container_id: str) -> None:
    """Remove the container, if it was made; what cannot be removed is told, and is no end to an audit."""
    try:
        lifecycle.delete(runtime, container_id, force=True)
    except NotFound:
        return
    except (SandboxError, OSError) as error:
        runtime.warn(f"container {container_id} is left behind: {error}; remedy: pysandbox delete --force")


def _gather(reader: Reader, pipes: _Pipes, deadline: float) -> bool:
    """Read until the probe says that it is done, or has ended; False if it took too long."""
    while not reader.ended:
        left = deadline - time.monotonic()
        ready = select.select(pipes.ours, [], [], max(left, 0))[0]
        if left <= 0 or not ready:
            return False
        if not pipes.take(ready, reader):
            return True
    return True


@contextlib.contextmanager
def _canary() -> Iterator[str]:
    """Make a file on the host that no container is to find."""
    with tempfile.TemporaryDirectory(prefix="pysandbox-canary-") as directory:
        path = os.path.join(directory, "canary")
        with open(path, "x", encoding="ascii") as file:
            file.write("a file of the host\n")
        yield path


class _Pipes:
    """Standard input, output and error of the probe. Its input ends when it has been looked at."""

    def __enter__(self) -> Self:
        self._stdin, self._stdout, self._stderr = os.pipe(), os.pipe(), os.pipe()
        self._theirs = [self._stdin[0], self._stdout[1], self._stderr[1]]
        self.ours = [self._stdout[0], self._stderr[0]]
        self._complaints = b""
        return self

    def __exit__(self, *_: object) -> None:
        self.close_theirs()
        for descriptor in (self._stdin[1], self._stdout[0], self._stderr[0]):
            os.close(descriptor)

    def stdio(self) -> Stdio:
        """Return the container's ends."""
        return Stdio(stdin=self._theirs[0], stdout=self._theirs[1], stderr=self._theirs[2])

    def close_theirs(self) -> None:
        """Close the container's ends here, so that its own end is seen."""
        while self._theirs:
            os.close(self._theirs.pop())

    def take(self, ready: list[int], reader: Reader) -> bool:
        """Read what is there; False at the end of standard output."""
        if self._stderr[0] in ready:
            data = os.read(self._stderr[0], 4096)
            self._complaints = (self._complaints + data)[:_COMPLAINTS]
            if not data:
                self.ours = [self._stdout[0]]
        if self._stdout[0] in ready:
            data = os.read(self._stdout[0], 65536)
            reader.feed(data)
            return bool(data)
        return True

    def complaint(self) -> str:
        """Return what the probe wrote to standard error, in one line."""
        text = self._complaints.decode("utf-8", "replace")
        return "".join(character if character.isprintable() else " " for character in text).strip()
