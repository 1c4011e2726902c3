"""`pysandbox create`: make a container whose program waits for `start`."""

from __future__ import annotations

import os

from pysandbox.cli.creation import CREATE_FLAGS, prepare
from pysandbox.cli.flags import Command

TYPE_CHECKING = False
if TYPE_CHECKING:
    from pysandbox.cli.invocation import Invocation

COMMAND = Command("create", "create a container", "<container-id>", CREATE_FLAGS)


def run(invocation: Invocation) -> int:
    """Create a container."""
    from pysandbox.oci.bundle import load_bundle
    from pysandbox.state import check_id

    check_id(invocation.container_id)
    bundle = load_bundle(os.path.abspath(invocation.parsed["bundle"] or "."), invocation.parsed["config"])
    _, create = prepare(invocation, invocation.container_id, bundle, detach=True)
    create()
    return 0
