"""The shim's own cgroup: ShimCgroup of containerd.runc.v1.Options."""

from __future__ import annotations

import contextlib
import os

from pysandbox.caller import current
from pysandbox.cgroup.layout import read_layout
from pysandbox.errors import InvalidArgument


def enter(path: str) -> None:
    """Move the shim, with all its threads, into a cgroup, in each hierarchy that has it. Raises InvalidArgument."""
    layout = read_layout()
    entered = 0
    for hierarchy in (*layout.legacy, *filter(None, [layout.unified])):
        with (
            contextlib.suppress(FileNotFoundError),
            open(f"{hierarchy.directory(path)}/cgroup.procs", "wb", buffering=0) as file,
        ):
            file.writelines(b"%d" % pid for pid in {os.getpid(), current().pid})
            entered += 1
    if not entered:
        raise InvalidArgument(f"runtime options: shim_cgroup {path}: no hierarchy has such a cgroup")
