"""`pysandbox checkpoint`: refused in one line, whatever its flags."""

from __future__ import annotations

from pysandbox.cli.flags import Command
from pysandbox.errors import Unimplemented

TYPE_CHECKING = False
if TYPE_CHECKING:
    from pysandbox.cli.invocation import Invocation

COMMAND = Command("checkpoint", "not supported", "", at_least=0, at_most=None, raw=True)


def run(invocation: Invocation) -> int:  # noqa: ARG001 (the shape of every command)
    """Refuse."""
    raise Unimplemented("checkpoint is not supported: pysandbox does not drive CRIU")
