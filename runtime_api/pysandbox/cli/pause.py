"""`pysandbox pause`: suspend all processes of a container."""

from __future__ import annotations

from pysandbox.cli.flags import Command

TYPE_CHECKING = False
if TYPE_CHECKING:
    from pysandbox.cli.invocation import Invocation

COMMAND = Command("pause", "suspend all processes of a container", "<container-id>")


def run(invocation: Invocation) -> int:
    """Pause a container."""
    from pysandbox import lifecycle

    lifecycle.pause(invocation.runtime(), invocation.container_id)
    return 0
