"""`pysandbox resume`: resume all processes of a paused container."""

from __future__ import annotations

from pysandbox.cli.flags import Command

TYPE_CHECKING = False
if TYPE_CHECKING:
    from pysandbox.cli.invocation import Invocation

COMMAND = Command("resume", "resume all processes of a paused container", "<container-id>")


def run(invocation: Invocation) -> int:
    """Resume a container."""
    from pysandbox import lifecycle

    lifecycle.resume(invocation.runtime(), invocation.container_id)
    return 0
