"""`pysandbox kill`: signal a container's init, or all of its processes."""

from __future__ import annotations

import signal

from pysandbox.cli.flags import Command, Flag
from pysandbox.errors import InvalidArgument

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

    number = signal_number([*invocation.parsed.arguments, "SIGTERM"][1])
    lifecycle.kill(invocation.runtime(), invocation.container_id, number, everyone=invocation.parsed["all"])
    return 0


def signal_number(text: str) -> int:
    """Return the number of a signal given as 15, TERM or sigterm. Raises InvalidArgument."""
    if text.isdecimal():
        if int(text) <= signal.NSIG:
            return int(text)
    else:
        name = text.upper()
        number = getattr(signal, name if name.startswith("SIG") else f"SIG{name}", None)
        if isinstance(number, signal.Signals):
            return int(number)
    raise InvalidArgument(f'unknown signal "{text}"')
