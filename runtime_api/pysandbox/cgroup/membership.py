"""Who is in a cgroup: joining, and refusing one that somebody else is in."""

from __future__ import annotations

import errno
import os
import time

from pysandbox.cgroup import directory
from pysandbox.cgroup.directory import CgroupError
from pysandbox.errors import FailedPrecondition, InvalidArgument

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping


def check_unused(paths: Iterable[str], *, frozen: bool) -> None:
    """Refuse existing directories that have processes in or below them, or that would freeze whoever joins."""
    pids: set[int] = set()
    for path in paths:
        pids |= directory.processes(path)
    if pids:
        raise FailedPrecondition(f"container's cgroup is not empty: {len(pids)} process(es) found")
    if frozen:
        raise FailedPrecondition("container's cgroup unexpectedly frozen")


def join(path: str, pid: int) -> None:
    """Move a process, with all its threads, into a cgroup."""
    for _ in range(5):
        try:
            directory.write(path, "cgroup.procs", str(pid))
            return
        except CgroupError as error:
            if error.errno != errno.EINVAL:
                raise
        time.sleep(0.03)  # EINVAL comes while the process is being forked or exec'ed
    directory.write(path, "cgroup.procs", str(pid))


def sub_cgroups(paths: Mapping[str, str], below: str | Mapping[str, str] | None) -> list[str]:
    """Return the directories to join: those of `paths`, or existing ones below them.

    `below` is the value of `exec --cgroup`: `[CONTROLLER[,…]:]PATH`, or several of them as a map from controller to
    path, where `""` stands for every controller not named.
    """
    wanted = parse_below(below) if isinstance(below, str) else below or {}
    for controller in wanted:
        if controller and controller not in paths:
            raise InvalidArgument(f'unknown controller "{controller}" in sub-cgroup')
    everywhere = wanted.get("", "")
    chosen = []
    for controller, path in paths.items():
        inner = wanted.get(controller, everywhere)
        if ".." in inner.split("/") or "\0" in inner:
            raise InvalidArgument(f"bad sub cgroup path: {inner} is not a sub cgroup path")
        parts = [part for part in inner.split("/") if part not in ("", ".")]
        place = os.path.join(path, *parts)
        if parts and not directory.exists(place, "cgroup.procs"):
            raise InvalidArgument(f"adding pid to cgroup: open {place}/cgroup.procs: no such file or directory")
        chosen.append(place)
    return list(dict.fromkeys(chosen))


def parse_below(text: str) -> dict[str, str]:
    """Take `[CONTROLLER[,…]:]PATH` apart."""
    controllers, colon, path = text.rpartition(":")
    if not colon:
        return {"": text}
    return dict.fromkeys(controllers.split(","), path)
