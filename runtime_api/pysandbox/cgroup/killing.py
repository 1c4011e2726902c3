"""Signals to everything in a cgroup.

Processes are stopped first where they can be: a stopped one cannot fork away from the list just read, nor end and leave
its pid to somebody else between the reading and the signal.
"""

from __future__ import annotations

import os
import time

from pysandbox.caller import current
from pysandbox.cgroup.directory import CgroupError
from pysandbox.errors import DeadlineExceeded

TYPE_CHECKING = False
if TYPE_CHECKING:
    from pysandbox.cgroup.cgroup import Cgroup

SIGKILL = 9

#: How long `kill` waits for killed processes to be gone, in seconds.
KILL_LIMIT = 5.0


def signal_stopped(cgroup: Cgroup, signal: int, *, stoppable: bool = True) -> None:
    """Stop all, signal all, let go again; processes that were frozen before stay so, unless the signal is SIGKILL."""
    pids = cgroup.pids()
    if not pids:
        return
    before = stoppable and cgroup.frozen()
    if stoppable and not before:
        _try_to_freeze(cgroup)
    try:
        for pid in cgroup.pids():
            _signal(pid, signal)
    finally:
        if stoppable and (not before or signal == SIGKILL):
            cgroup.thaw()


def wait_gone(cgroup: Cgroup) -> None:
    """Kill until nothing is left, or `KILL_LIMIT` is over: `remove` says what then."""
    deadline = time.monotonic() + KILL_LIMIT
    pause = 0.001
    while cgroup.pids() and time.monotonic() < deadline:
        cgroup.signal_all(SIGKILL)
        time.sleep(pause)
        pause = min(2 * pause, 0.1)


def _try_to_freeze(cgroup: Cgroup) -> None:
    try:
        cgroup.freeze()
    except (DeadlineExceeded, CgroupError):
        pass  # a process in uninterruptible sleep cannot be stopped; signal it all the same


def _signal(pid: int, signal: int) -> None:
    if pid in (os.getpid(), current().pid):
        return
    try:
        os.kill(pid, signal)
    except ProcessLookupError:
        pass
