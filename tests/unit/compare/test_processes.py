"""Which processes belong to a command."""

from __future__ import annotations

import os
import subprocess

from pysandbox.compare import processes


def test_a_parent_is_told_with_its_start_so_that_a_later_pid_is_another() -> None:
    me = next(each for each in processes.everybody() if each[0] == os.getpid())

    with subprocess.Popen(["/bin/sleep", "60"]) as child:
        found = processes.parent(child.pid)
        child.kill()

    assert found == me


def test_who_is_gone_has_no_parent() -> None:
    assert processes.parent(2**22 + 1) is None  # beyond PID_MAX_LIMIT
    assert processes.parent(1) is None  # its parent, 0, is nobody
