"""`pysandbox create`: make a container whose program waits for `start`."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

from pysandbox.cli.creation import (
    CREATE_FLAGS,
    delivery,
    listen_descriptors,
    options,
    preserved,
    stdio,
    with_environment,
)
from pysandbox.cli.flags import Command

if TYPE_CHECKING:
    from pysandbox.cli.invocation import Invocation

COMMAND = Command("create", "create a container", "<container-id>", CREATE_FLAGS)


def run(invocation: Invocation) -> int:
    """Create a container."""
    from pysandbox import lifecycle
    from pysandbox.console import check_console
    from pysandbox.oci.bundle import load_bundle
    from pysandbox.state import check_id

    flags = invocation.parsed
    check_id(invocation.container_id)
    bundle = load_bundle(os.path.abspath(flags["bundle"] or "."))
    process = bundle.spec["process"]
    check_console(terminal=bool(process.get("terminal")), detach=True, console_socket=flags["console-socket"])
    listening = listen_descriptors(invocation.inherited)
    descriptors = preserved(flags, invocation.inherited, listening)
    if listening:
        bundle = with_environment(bundle, f"LISTEN_FDS={listening}", "LISTEN_PID=1")
    runtime = invocation.runtime()
    deliver = delivery(flags)
    os.chdir(bundle.path)
    lifecycle.create(
        runtime,
        invocation.container_id,
        bundle,
        stdio=stdio(process, descriptors),
        options=options(invocation),
        deliver=deliver,
    )
    return 0
