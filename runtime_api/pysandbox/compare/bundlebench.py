"""`pysandbox bench`: contenders take turns on bundles derived from the user's; what was measured becomes a document.

An interrupted bench keeps what it has. A contender that cannot run, or fails at something, is told with its own words.
"""

from __future__ import annotations

import contextlib
import os
import time
from dataclasses import asdict
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

from pysandbox.compare import derived, figure, growth, machine, measure
from pysandbox.compare.result import Result
from pysandbox.compare.roster import Roster
from pysandbox.compare.turns import Turns
from pysandbox.compare.workplace import Workplace
from pysandbox.oci.bundle import load_bundle

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from pathlib import Path

    from pysandbox.compare.containerdtrial import Client
    from pysandbox.compare.request import Request
    from pysandbox.oci.bundle import Bundle

VERSION = 1


class Bench:
    """One run of the bench."""

    def __init__(self, request: Request, progress: Callable[[str, int, int], None]) -> None:
        self.request, self.progress = request, progress
        self.result = Result()
        self.bundle: Bundle = load_bundle(request.bundle)
        derived.check(self.bundle)
        self._roster = Roster(request, self.bundle, self.result, progress)
        self._begin = time.monotonic()
        self._cpu = 0.0

    def run(self) -> dict[str, Any]:
        """Measure; return the document. Raises InvalidArgument, Unavailable; an interrupt only marks the document."""
        measure.adopt_orphans()
        load, stolen = os.getloadavg(), machine.stolen()
        workplace = Workplace(derived.mapped_group(self.bundle.spec))
        with workplace, contextlib.ExitStack() as stack:
            directory = workplace.path
            try:
                client = self._connect(stack)
                self._roster.prepare(stack, directory)
                cpu = time.process_time()
                self._measure(client)
                self._cpu = time.process_time() - cpu
            except KeyboardInterrupt:
                self.result.interrupted = True
            environment = self._environment(directory, load, stolen)
            self._roster.note_cold()
            self.progress("clearing up", 0, 1)
        self.result.notes += [f"could not be removed: {what}" for what in workplace.left[:1]]
        return self._document(environment)

    def _measure(self, client: Client | None) -> None:
        Turns(self.request.settings, self._roster, self.result, self.progress).measure()
        if client is not None:
            from pysandbox.compare.containerdturns import ContainerdTurns

            ContainerdTurns(client, self.request, self._roster, self.result, self.progress).measure()

    def _connect(self, stack: contextlib.ExitStack) -> Client | None:
        """Connect to the containerd that was asked for. Raises Unavailable."""
        if not self.request.containerd or "containerd" not in self.request.settings.groups:
            return None
        from pysandbox.compare.containerdtrial import Client

        return stack.enter_context(Client(self.request.containerd))

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
        result, settings = self.result, self.request.settings
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
