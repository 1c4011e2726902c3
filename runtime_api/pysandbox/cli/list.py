"""`pysandbox list`: show the containers below a root directory."""

from __future__ import annotations

import json
import os
import sys

from pysandbox.cli.flags import Command, Flag
from pysandbox.errors import InvalidArgument

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from typing import Any

    from pysandbox.cli.invocation import Invocation

COMMAND = Command(
    "list",
    "list the containers below a root directory",
    "",
    (
        Flag("format", "table or json", "string", "f", "table"),
        Flag("quiet", "print ids only", alias="q"),
    ),
    at_least=0,
    at_most=0,
)
_COLUMNS = ("id", "pid", "status", "bundle", "created", "owner")


def run(invocation: Invocation) -> int:
    """Print the containers."""
    from pysandbox import lifecycle

    form = invocation.parsed["format"]
    if form not in ("table", "json"):
        raise InvalidArgument("invalid format option")
    root = invocation.globals_["root"]
    if "root" in invocation.globals_.given and not os.path.isdir(root):
        raise InvalidArgument(f"open {root}: no such file or directory")
    documents = [
        standing.document(owner=_user_name(standing.record.owner))
        for standing in lifecycle.containers(invocation.runtime())
    ]
    if invocation.parsed["quiet"]:
        sys.stdout.writelines(f"{document['id']}\n" for document in documents)
    elif form == "json":
        sys.stdout.write(json.dumps(documents or None, separators=(",", ":"), ensure_ascii=False) + "\n")
    else:
        rows = [[str(document[column]) for column in _COLUMNS] for document in documents]
        sys.stdout.write(table([[column.upper() for column in _COLUMNS], *rows]))
    return 0


def _user_name(uid: str) -> str:
    import pwd

    try:
        return pwd.getpwuid(int(uid)).pw_name
    except (KeyError, ValueError, OverflowError):
        return f"#{uid}"


def table(rows: Sequence[Sequence[str]]) -> str:
    """Return rows in columns as Go's tabwriter(12, 1, 3, ' ') lays them out."""
    widths = [max(12, *(len(cell) + 3 for cell in column)) for column in zip(*rows, strict=True)]
    lines = [
        "".join(f"{cell:{width}}" for cell, width in zip(row[:-1], widths, strict=False)) + row[-1] for row in rows
    ]
    return "\n".join(lines) + "\n"


def show(form: str, found: Sequence[Any], columns: Sequence[str], row: Callable[[Any], Sequence[str]]) -> None:
    """Print records: as a table, or every field of each as JSON. Raises InvalidArgument for another form."""
    if form == "json":
        from pysandbox.record import fields

        documents = [{field.name: getattr(one, field.name) for field in fields(one)} for one in found]
        sys.stdout.write(json.dumps(documents) + "\n")
    elif form == "table":
        sys.stdout.write(table([[column.upper() for column in columns], *map(row, found)]))
    else:
        raise InvalidArgument("invalid format option")
