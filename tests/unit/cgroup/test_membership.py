"""Where `exec --cgroup` puts a process: in the container's own cgroup or below it, and nowhere else."""

from __future__ import annotations

from pathlib import Path

import pytest

from pysandbox.cgroup.membership import parse_below, sub_cgroups
from pysandbox.errors import InvalidArgument


@pytest.fixture
def paths(tmp_path: Path) -> dict[str, str]:
    """A container's cgroup in two hierarchies, with one below it in each."""
    for name in ("cpu", "pids"):
        (tmp_path / name / "inner").mkdir(parents=True)
        (tmp_path / name / "inner/cgroup.procs").touch()
    return {name: str(tmp_path / name) for name in ("cpu", "pids")}


@pytest.mark.parametrize("below", [None, "", "/", "./"])
def test_nothing_said_is_the_containers_own(paths: dict[str, str], below: str | None) -> None:
    assert sub_cgroups(paths, below) == [paths["cpu"], paths["pids"]]


def test_one_below_is_joined_in_every_hierarchy_or_in_those_named(paths: dict[str, str]) -> None:
    assert sub_cgroups(paths, "inner") == [f"{paths['cpu']}/inner", f"{paths['pids']}/inner"]
    assert sub_cgroups(paths, "cpu:/inner") == [f"{paths['cpu']}/inner", paths["pids"]]


@pytest.mark.parametrize(
    ("below", "message"),
    [
        ("..", r": \.\. is not a sub cgroup path$"),
        ("cpu:inner/../..", r": inner/\.\./\.\. is not a sub cgroup path$"),
        ("none", r"^adding pid to cgroup: open .*/cpu/none/cgroup\.procs: no such file or directory$"),
        ("whaaat:/", '^unknown controller "whaaat"'),
    ],
)
def test_any_other_is_refused_in_runcs_words(paths: dict[str, str], below: str, message: str) -> None:
    with pytest.raises(InvalidArgument, match=message):
        sub_cgroups(paths, below)


def test_several_controllers_may_share_a_path() -> None:
    assert parse_below("cpu,cpuacct:inner") == {"cpu": "inner", "cpuacct": "inner"}
