"""`pysandbox backends`: list the backends there are, where each comes from, and whether it can run here."""

from __future__ import annotations

import sys

from pysandbox.cli.flags import Command
from pysandbox.cli.list import table

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator

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
    from pysandbox.plugins import BUILT_IN, entries, load_backend

    for name in BUILT_IN:
        try:
            yield [name, "built in", _probe(load_backend(name, config))]
        except Exception as error:  # noqa: BLE001 (one that cannot be loaded is to be listed all the same)
            yield [name, "built in", f"unusable: {error}"]
    for name, distribution, offered in entries():
        if name in BUILT_IN:
            continue
        if config.plugins is not None and name not in config.plugins:
            yield [name, distribution, f"not allowed by {config.path}"]
        else:
            yield [name, distribution, _entry(offered)]


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
