"""`pysandbox spec`: write a config.json to begin with."""

from __future__ import annotations

import json
import os

from pysandbox.cli.flags import Command, Flag
from pysandbox.errors import AlreadyExists, Unimplemented

TYPE_CHECKING = False
if TYPE_CHECKING:
    from pysandbox.cli.invocation import Invocation

COMMAND = Command(
    "spec",
    "create a new specification file",
    "",
    (
        Flag("bundle", "bundle directory, instead of the current one", "string", "b"),
        Flag("rootless", "for a rootless container: not supported", hidden=True),
    ),
    at_least=0,
    at_most=0,
)


def run(invocation: Invocation) -> int:
    """Write the file; never over one that is there."""
    from pysandbox.oci.default import default_spec

    if invocation.parsed["rootless"]:
        raise Unimplemented("spec --rootless: rootless containers are not supported")
    path = os.path.join(invocation.parsed["bundle"], "config.json")
    # As runc: on v1 its mount shows the container's own cgroup without that namespace, on v2 it would show the host's.
    unified = os.path.exists("/sys/fs/cgroup/cgroup.controllers")
    text = json.dumps(default_spec(cgroup_namespace=unified), indent="\t", ensure_ascii=False)
    try:
        descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o666)
    except FileExistsError:
        raise AlreadyExists(f"file {path} exists: remove it first") from None
    with open(descriptor, "w", encoding="utf-8") as file:
        file.write(text)
    return 0
