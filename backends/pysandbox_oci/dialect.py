"""Where the command lines of OCI runtimes differ. What runc has is taken for granted of whoever is not known."""

from __future__ import annotations

import os

from pysandbox.record import dataclass


@dataclass(frozen=True, slots=True, kw_only=True)
class Dialect:
    """What a runtime's command line has. `sub_cgroups` is how `exec --cgroup` is said: each controller, one path, not.

    `indirect`: the process that stands for a container, or for an exec'ed one, on the host is the runtime's own, so a
    signal for the container's has to go through the runtime, and `ps` tells pids that are not the host's.
    """

    name: str
    preserves: bool = True  # --preserve-fds
    moves_root: bool = True  # --no-pivot, --no-new-keyring
    stats: bool = True  # events --stats
    sub_cgroups: str = "each"
    indirect: bool = False


RUNC = Dialect(name="runc")
CRUN = Dialect(name="crun", stats=False, sub_cgroups="one")
RUNSC = Dialect(name="runsc", preserves=False, moves_root=False, sub_cgroups="", indirect=True)
DIALECTS = {dialect.name: dialect for dialect in (RUNC, CRUN, RUNSC)}
#: Programs whose names tell.
_PROGRAMS = {"runc": "runc", "crun": "crun", "krun": "crun", "runsc": "runsc", "youki": "crun"}


def by_name(path: str) -> Dialect | None:
    """Return the dialect that a program's file name tells, None for one that tells nothing."""
    name = _PROGRAMS.get(os.path.basename(path))
    return DIALECTS[name] if name is not None else None


def by_version(said: str) -> Dialect:
    """Return the dialect of what `--version` says: its first word is the runtime's name."""
    first = (said.split() or [""])[0].lower()
    return DIALECTS[_PROGRAMS.get(first, "runc")]
