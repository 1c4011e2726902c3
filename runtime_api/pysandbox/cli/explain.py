"""`pysandbox explain`: say what each field of a bundle's spec will get on each backend."""

from __future__ import annotations

import os
import sys

from pysandbox.cli.flags import Command
from pysandbox.cli.list import table

TYPE_CHECKING = False
if TYPE_CHECKING:
    from pysandbox.backend import Features
    from pysandbox.cli.invocation import Invocation
    from pysandbox.config import Config

COMMAND = Command(
    "explain",
    "say what each field of a bundle's spec will get on each backend",
    "[bundle]",
    at_least=0,
    details="""
enforced: done on the host. guest: done by the guest's kernel. refused: creating the container fails, naming the field.
ignored: nothing is done. unknown: the runtime specification has no such field, so it passes unread. With --backend, one
backend only.
""",
)


def run(invocation: Invocation) -> int:
    """Print a table: a row for each field, a column for each backend."""
    from pysandbox.oci.bundle import load_bundle
    from pysandbox.oci.explain import explain

    bundle = load_bundle(os.path.abspath([*invocation.parsed.arguments, "."][0]))
    backends = _features(invocation.config(), invocation.globals_["backend"])
    rows = [["FIELD", *(name.upper() for name in backends)]]
    rows += [[row.path, *row.treatments.values()] for row in explain(bundle.spec, backends)]
    sys.stdout.write(table(rows))
    return 0


def _features(config: Config, only: str) -> dict[str, Features]:
    from pysandbox.plugins import BUILT_IN, load_backend

    names = [only] if only else list(BUILT_IN)
    return {name: load_backend(name, config).features() for name in names}
