"""`pysandbox start`: let the program of a created container run."""

from __future__ import annotations

from typing import TYPE_CHECKING

from pysandbox.cli.flags import Command

if TYPE_CHECKING:
    from pysandbox.cli.invocation import Invocation

COMMAND = Command("start", "let the user's program of a created container run", "<container-id>")


def run(invocation: Invocation) -> int:
    """Start a container."""
    from pysandbox import lifecycle

    lifecycle.start(invocation.runtime(), invocation.container_id)
    return 0
