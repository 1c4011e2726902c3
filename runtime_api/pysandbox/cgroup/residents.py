"""Who is in the cgroups of a container, whoever started them: what its parents do not tell of a fork of a server."""

from __future__ import annotations

import contextlib
import os

from pysandbox.cgroup.layout import parse_own


def beside(pid: int) -> list[int]:
    """Return all processes in a cgroup of `pid`, or below: itself, too. Empty where it has none of its own.

    A cgroup that we are in as well, or are below, is not the container's own. As /proc/PID/cgroup tells (cgroups(7)).
    """
    own, theirs = _cgroups("self"), _cgroups(str(pid))
    places = {name: path for name, path in theirs.items() if not f"{own.get(name, '/')}/".startswith(_below(path))}
    if not places:
        return []
    return [int(name) for name in os.listdir("/proc") if name.isdecimal() and _is_in(_cgroups(name), places)]


def _is_in(cgroups: dict[str, str], places: dict[str, str]) -> bool:
    return any(f"{cgroups[name]}/".startswith(_below(path)) for name, path in places.items() if name in cgroups)


def _below(path: str) -> str:
    return f"{path.rstrip('/')}/"


def _cgroups(pid: str) -> dict[str, str]:
    """Return the path of a process in each hierarchy; empty if it is gone."""
    with contextlib.suppress(OSError), open(f"/proc/{pid}/cgroup", encoding="utf-8", errors="surrogateescape") as file:
        return parse_own(file.read())
    return {}
