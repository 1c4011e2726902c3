"""`pysandbox backends`: list the backends there are, where each comes from, and whether it can run here."""

from __future__ import annotations

import sys

from pysandbox.cli.flags import Command
from pysandbox.cli.list import table
from pysandbox.errors import SandboxError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from pysandbox.backend import Backend, BackendEntry
    from pysandbox.cli.invocation import Invocation
    from pysandbox.config import Config

COMMAND = Command("backends", "list the backends, and whether each can run on this host", "", at_least=0, at_most=0)


def run(invocation: Invocation) -> int:
    """Print one line for each backend. This loads every plugin that the settings allow."""
    rows = [["NAME", "FROM", "STATUS"]]
    rows += sorted(_rows(invocation.config()))
    sys.stdout.write(table(rows))
    return 0


def _rows(config: Config) -> Iterator[list[str]]:
    from pysandbox.plugins import BUILT_IN, FAMILIES, entries

    for name in (*BUILT_IN, *(variant for family in FAMILIES for variant in _variants(family, config))):
        yield _built_in(name, config)
    for name, distribution, offered in entries():
        if name in BUILT_IN or name in FAMILIES:
            continue
        if config.plugins is not None and name not in config.plugins:
            yield [name, distribution, f"not allowed by {config.path}"]
        else:
            yield [name, distribution, _entry(offered)]


def _variants(family: str, config: Config) -> Sequence[str]:
    """Return the full name of each variant that this host has; of a family that cannot be loaded, its own."""
    from pysandbox.plugins import load_kind, settings_of

    try:
        return [f"{family}:{variant}" for variant in load_kind(family, config).variants(settings_of(config, family))]
    except (SandboxError, OSError, ImportError):
        return [family]


def _built_in(name: str, config: Config) -> list[str]:
    from pysandbox.plugins import load_backend

    try:
        backend = load_backend(name, config)
        return [name, backend.origin() or "built in", _probe(backend)]
    except Exception as error:  # noqa: BLE001 (one that cannot be loaded is to be listed all the same)
        return [name, "built in", f"unusable: {error}"]


def _entry(offered: BackendEntry | Exception) -> str:
    if isinstance(offered, Exception):
        return f"unusable: {offered}"
    try:
        return _probe(offered.load()())
    except Exception as error:  # noqa: BLE001 (as above)
        return f"unusable: {error}"


def _probe(backend: Backend) -> str:
    problems = [f"{problem.what}{f' ({problem.remedy})' if problem.remedy else ''}" for problem in backend.probe()]
    return "; ".join(problems) or "can run"
