"""A process of the host, told apart from a later one with the same pid."""

from __future__ import annotations

import os
import select
import signal as signals
import time
from typing import TYPE_CHECKING

from pysandbox.backend import ExitStatus
from pysandbox.errors import DeadlineExceeded, FailedPrecondition

if TYPE_CHECKING:
    from collections.abc import Sequence

#: What `wait` reports when the process was another's child, so that its exit code cannot be known.
UNKNOWN_EXIT_CODE = 255


def stat_fields(pid: int) -> Sequence[bytes]:
    """Return the fields of /proc/PID/stat from the third (state) on; raises ProcessLookupError."""
    try:
        descriptor = os.open(f"/proc/{pid}/stat", os.O_RDONLY | os.O_CLOEXEC)
    except FileNotFoundError:
        raise ProcessLookupError(f"no such process: {pid}") from None
    try:
        content = os.read(descriptor, 4096)
    finally:
        os.close(descriptor)
    # The second field is the program's name in brackets, and may itself hold brackets and spaces.
    return content[content.rindex(b")") + 2 :].split()


def start_time(pid: int) -> int:
    """Return when the process started, in clock ticks since boot; 0 if it is gone. See proc_pid_stat(5), field 22."""
    try:
        return int(stat_fields(pid)[19])
    except ProcessLookupError:
        return 0


def is_alive(pid: int, started: int) -> bool:
    """Say whether this very process is there and no zombie. `started` 0 accepts any process with the pid."""
    if pid <= 0:
        return False
    try:
        fields = stat_fields(pid)
    except ProcessLookupError:
        return False
    return fields[0] not in (b"Z", b"X") and (not started or int(fields[19]) == started)


def send_signal(pid: int, started: int, signal: int) -> None:
    """Signal this very process: the pidfd is taken first and verified afterwards, so a reused pid is never hit."""
    try:
        pidfd = os.pidfd_open(pid)
    except ProcessLookupError:
        raise FailedPrecondition("container not running") from None
    try:
        if not is_alive(pid, started):
            raise FailedPrecondition("container not running")
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
        _, status = os.waitpid(pid, 0)
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
        if started and start_time(pid) not in (0, started):
            return True
        poll = select.poll()
        poll.register(pidfd, select.POLLIN)
        return bool(poll.poll(None if timeout is None else timeout * 1000))
    finally:
        os.close(pidfd)
