"""`pysandbox console`: what a container's own kernel said last, on the serial console of its machine."""

from __future__ import annotations

import sys

from pysandbox.cli.flags import Command

TYPE_CHECKING = False
if TYPE_CHECKING:
    from pysandbox.cli.invocation import Invocation

COMMAND = Command(
    "console",
    "display what the kernel of a container's machine said last",
    "<container-id>",
    details="""
Only for containers in machines of their own. Nothing can be typed: the machine's console is no way in.
""",
)


def run(invocation: Invocation) -> int:
    """Print it; what no terminal should be sent is replaced."""
    from pysandbox import lifecycle

    text = lifecycle.running(invocation.runtime(), invocation.container_id).console()
    shown = "".join(each if each.isprintable() or each == "\n" else "\N{REPLACEMENT CHARACTER}" for each in text)
    sys.stdout.write(shown if shown.endswith("\n") or not shown else f"{shown}\n")
    return 0
