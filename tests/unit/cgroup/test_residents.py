"""Who is in the cgroups of a container."""

from __future__ import annotations

import pytest

from pysandbox.cgroup import residents


def place(monkeypatch: pytest.MonkeyPatch, places: dict[str, dict[str, str]]) -> None:
    """Have processes 1, 2, … in these cgroups, and ourselves in those of `self`."""
    monkeypatch.setattr(residents, "_cgroups", lambda pid: places.get(pid, {}))
    monkeypatch.setattr(residents.os, "listdir", lambda _: [*places, "sys"])


def test_what_is_in_a_containers_cgroup_belongs_to_it_whoever_its_parent_is(monkeypatch: pytest.MonkeyPatch) -> None:
    place(
        monkeypatch,
        {
            "self": {"pids": "/user", "": "/"},
            "1": {"pids": "/c", "": "/"},
            "2": {"pids": "/c/below", "": "/"},
            "3": {"pids": "/cc", "": "/"},
            "4": {"": "/"},
        },
    )

    assert residents.beside(1) == [1, 2]


@pytest.mark.parametrize("path", ["/", "/user", "/user/us"])
def test_a_cgroup_that_we_are_in_is_nobodys_own(path: str, monkeypatch: pytest.MonkeyPatch) -> None:
    place(monkeypatch, {"self": {"pids": "/user/us"}, "1": {"pids": path}, "2": {"pids": path}})

    assert residents.beside(1) == []


def test_who_is_gone_is_in_no_cgroup() -> None:
    assert residents.beside(2**22 + 1) == []  # beyond PID_MAX_LIMIT
