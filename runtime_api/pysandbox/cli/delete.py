"""`pysandbox delete`: remove a container and all that it held."""

from __future__ import annotations

from pysandbox.cli.flags import Command, Flag

TYPE_CHECKING = False
if TYPE_CHECKING:
    from pysandbox.cli.invocation import Invocation

COMMAND = Command(
    "delete",
    "delete what a container holds, often one used with detach",
    "<container-id>",
    (Flag("force", "delete a container that runs (SIGKILL), or is not there", alias="f"),),
)


def run(invocation: Invocation) -> int:
    """Delete a container."""
    from pysandbox import lifecycle

    lifecycle.delete(invocation.runtime(), invocation.container_id, force=invocation.parsed["force"])
    return 0
