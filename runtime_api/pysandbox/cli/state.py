"""`pysandbox state`: print a container's state as JSON."""

from __future__ import annotations

import json
import sys

from pysandbox.cli.flags import Command

TYPE_CHECKING = False
if TYPE_CHECKING:
    from pysandbox.cli.invocation import Invocation

COMMAND = Command("state", "output the state of a container", "<container-id>")


def run(invocation: Invocation) -> int:
    """Print the state document, in runc's form."""
    from pysandbox import lifecycle

    standing = lifecycle.state(invocation.runtime(), invocation.container_id)
    sys.stdout.write(json.dumps(standing.document(owner=""), indent=2, ensure_ascii=False))
    return 0
