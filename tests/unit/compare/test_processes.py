"""Which processes belong to a command."""

from __future__ import annotations

import os
import subprocess

import pytest

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


def cgroups(monkeypatch: pytest.MonkeyPatch, places: dict[str, dict[str, str]]) -> None:
    """Have processes 1, 2, … in these cgroups, and ourselves in those of `self`."""
    monkeypatch.setattr(processes, "_cgroups", lambda pid: places.get(pid, {}))
    monkeypatch.setattr(processes, "_all", lambda: iter([(int(pid), 1, 0) for pid in places if pid != "self"]))


def test_what_is_in_a_containers_cgroup_belongs_to_it_whoever_its_parent_is(monkeypatch: pytest.MonkeyPatch) -> None:
    cgroups(
        monkeypatch,
        {
            "self": {"pids": "/user", "": "/"},
            "1": {"pids": "/c", "": "/"},
            "2": {"pids": "/c/below", "": "/"},
            "3": {"pids": "/cc", "": "/"},
            "4": {"": "/"},
        },
    )

    assert processes.beside(1) == {(1, 0), (2, 0)}


@pytest.mark.parametrize("path", ["/", "/user", "/user/us"])
def test_a_cgroup_that_we_are_in_is_nobodys_own(path: str, monkeypatch: pytest.MonkeyPatch) -> None:
    cgroups(monkeypatch, {"self": {"pids": "/user/us"}, "1": {"pids": path}, "2": {"pids": path}})

    assert processes.beside(1) == set()


def test_who_is_gone_is_in_no_cgroup() -> None:
    assert processes.beside(2**22 + 1) == set()
