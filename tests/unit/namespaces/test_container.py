"""What `delete` does to processes that are not the container's."""

from __future__ import annotations

import os
from pathlib import Path
from unittest.mock import Mock

from pysandbox.backend import Process
from pysandbox.linux import start_time
from pysandbox_namespaces.container import NamespacesContainer


def _ended_child() -> int:
    pid = os.posix_spawn("/bin/sh", ["sh", "-c", "exit 7"], {})
    os.waitid(os.P_PID, pid, os.WEXITED | os.WNOWAIT)
    return pid


def _container(pid: int, started: int, state: Path) -> NamespacesContainer:
    return NamespacesContainer("web", str(state), Process(pid=pid), started, Mock())


def test_delete_leaves_the_exit_code_of_a_child_that_has_inits_pid_by_now(tmp_path: Path) -> None:
    pid = _ended_child()
    started = start_time(pid, zombie=True)
    assert started is not None
    assert start_time(pid) is None

    _container(pid, started - 1, tmp_path).delete()

    assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 7


def test_delete_reaps_an_init_that_nobody_has_reaped(tmp_path: Path) -> None:
    pid = _ended_child()

    _container(pid, start_time(pid, zombie=True) or 0, tmp_path).delete()

    assert start_time(pid, zombie=True) is None
