"""What each backend will do with each field that a spec uses: the rows of `pysandbox explain`."""

from __future__ import annotations

from pysandbox.oci.features import treatment
from pysandbox.oci.schema import Array, Object
from pysandbox.oci.validate import OTHER_PLATFORMS, SPEC
from pysandbox.record import dataclass

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping
    from typing import Any

    from pysandbox.backend import Features
    from pysandbox.oci.types import Spec


@dataclass(frozen=True, slots=True)
class Row:
    """One field: its path without indexes, and by backend `enforced`, `guest`, `refused`, `ignored` or `unknown`.

    `unknown` is a property that the runtime specification does not have: it passes, and nothing is done with it.
    """

    path: str
    treatments: Mapping[str, str]


def explain(spec: Spec, backends: Mapping[str, Features]) -> list[Row]:
    """Return a row for each field that a valid spec uses, in the spec's own order, each field once."""
    rows: dict[str, Row] = {}
    for path, known in _fields(SPEC, spec, ""):
        if path not in rows:
            rows[path] = Row(
                path, {name: _treatment(path, features, known=known) for name, features in backends.items()}
            )
    return list(rows.values())


def _treatment(path: str, features: Features, *, known: bool) -> str:
    return treatment(features.fields, path) if known or path in OTHER_PLATFORMS else "unknown"


def _fields(shape: Any, value: Any, path: str) -> Iterator[tuple[str, bool]]:
    """Yield the path of every leaf, and whether the specification knows it."""
    if isinstance(shape, Object):
        for name, member in value.items():
            below = f"{path}.{name}" if path else name
            if name in shape.fields:
                yield from _fields(shape.fields[name], member, below)
            else:
                yield below, False
    elif isinstance(shape, Array) and isinstance(shape.shape, Object):
        for member in value:
            yield from _fields(shape.shape, member, path)
    else:
        yield path, True
