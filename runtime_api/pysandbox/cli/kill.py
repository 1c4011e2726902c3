"""`pysandbox kill`: signal a container's init, or all of its processes."""

from __future__ import annotations

from pysandbox.cli.flags import Command, Flag

TYPE_CHECKING = False
if TYPE_CHECKING:
    from pysandbox.cli.invocation import Invocation

COMMAND = Command(
    "kill",
    "send a signal (SIGTERM unless another is given) to a container's init",
    "<container-id> [signal]",
    (Flag("all", "signal all processes inside the container", alias="a", hidden=True),),
    at_most=2,
)


def run(invocation: Invocation) -> int:
    """Send the signal."""
    from pysandbox import lifecycle
    from pysandbox.oci.signals import parse_signal

    number = parse_signal([*invocation.parsed.arguments, "SIGTERM"][1])
    lifecycle.kill(invocation.runtime(), invocation.container_id, number, everyone=invocation.parsed["all"])
    return 0
