"""A process of the host, told apart from a later one with the same pid."""

from __future__ import annotations

import os
import select
import signal as signals
import time

from pysandbox.backend import ExitStatus
from pysandbox.caller import current
from pysandbox.errors import DeadlineExceeded, FailedPrecondition
from pysandbox.linux import is_alive, start_time

#: What `wait` reports when the process was another's child, so that its exit code cannot be known.
UNKNOWN_EXIT_CODE = 255


def open_process(pid: int, started: int) -> int:
    """Return a pidfd of this very process, the caller's to close: taken first and verified afterwards.

    Raises FailedPrecondition if it has ended, whoever has its pid now.
    """
    if pid <= 0:
        raise FailedPrecondition("container not running")
    try:
        pidfd = os.pidfd_open(pid)
    except ProcessLookupError:
        raise FailedPrecondition("container not running") from None
    if not is_alive(pid, started):
        os.close(pidfd)
        raise FailedPrecondition("container not running")
    return pidfd


def send_signal(pid: int, started: int, signal: int) -> None:
    """Signal this very process, never one that has its pid by now."""
    pidfd = open_process(pid, started)
    try:
        signals.pidfd_send_signal(pidfd, signal)
    except ProcessLookupError:
        raise FailedPrecondition("container not running") from None
    finally:
        os.close(pidfd)


def wait_exit(pid: int, started: int, timeout: float | None) -> ExitStatus:
    """Wait for the process's end and reap it if it is a child of ours; DeadlineExceeded after `timeout` seconds."""
    if not _wait_readable(pid, started, timeout):
        raise DeadlineExceeded(f"process {pid} has not ended after {timeout} s")
    try:
        status = current().reap(pid) or 0
    except ChildProcessError:
        return ExitStatus(code=UNKNOWN_EXIT_CODE, exited_at=time.time())
    code = os.waitstatus_to_exitcode(status)
    return ExitStatus(code=code if code >= 0 else 128 - code, exited_at=time.time())


def _wait_readable(pid: int, started: int, timeout: float | None) -> bool:
    try:
        pidfd = os.pidfd_open(pid)
    except ProcessLookupError:
        return True
    try:
        if start_time(pid) not in (None, started):
            return True  # another process has the pid by now
        poll = select.poll()
        poll.register(pidfd, select.POLLIN)
        return bool(poll.poll(None if timeout is None else timeout * 1000))
    finally:
        os.close(pidfd)
