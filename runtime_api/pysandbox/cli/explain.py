"""`pysandbox explain`: say what each field of a bundle's spec will get on each backend."""

from __future__ import annotations

import os
import sys
from typing import TYPE_CHECKING, Any

from pysandbox.cli.flags import Command
from pysandbox.cli.list import table

if TYPE_CHECKING:
    from collections.abc import Iterator

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
ignored: nothing is done, and the log says so. With --backend, one backend only.
""",
)


def run(invocation: Invocation) -> int:
    """Print a table: a row for each field, a column for each backend."""
    from pysandbox.oci.bundle import load_bundle
    from pysandbox.oci.features import treatment

    bundle = load_bundle(os.path.abspath([*invocation.parsed.arguments, "."][0]))
    backends = _features(invocation.config(), invocation.globals_["backend"])
    rows = [["FIELD", *(name.upper() for name in backends)]]
    paths = sorted(set(field_paths(bundle.spec, "")))
    rows += [[path, *(treatment(features.fields, path) for features in backends.values())] for path in paths]
    sys.stdout.write(table(rows))
    return 0


def field_paths(value: Any, path: str) -> Iterator[str]:
    """Yield the path of every field that holds a value, without list indexes: `mounts.options`.

    Maps whose keys are the user's own (annotations, sysctl) count as one field.
    """
    children = value if isinstance(value, list) else [value]
    objects = [child for child in children if isinstance(child, dict)]
    if not objects or path in {"annotations", "linux.sysctl", "linux.resources.unified", "linux.resources.rdma"}:
        if path and value not in (None, [], {}):
            yield path
        return
    for child in objects:
        for key, inner in child.items():
            yield from field_paths(inner, f"{path}.{key}" if path else key)


def _features(config: Config, only: str) -> dict[str, Features]:
    from pysandbox.plugins import BUILT_IN, load_backend

    names = [only] if only else list(BUILT_IN)
    return {name: load_backend(name, config).features() for name in names}
