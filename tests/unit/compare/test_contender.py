"""Who takes part, and with which environment."""

from __future__ import annotations

from pathlib import Path

import pytest

from pysandbox.compare import contender
from pysandbox.compare.contender import Contender
from pysandbox.compare.rounds import takes_part

SERVER = Path("/somewhere/server")


@pytest.fixture
def all_installed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(contender, "find_program", lambda name: f"/bin/{name.removesuffix('-cold')}")


@pytest.mark.usefixtures("all_installed")
def test_warm_and_cold_are_one_program_with_two_environments() -> None:
    found, _ = contender.find_contenders(["pysandbox", "pysandbox-cold"], SERVER)
    warm, cold = (each for each in found if not each.private)

    assert warm.command == cold.command
    assert warm.environment["PYSANDBOX_WARM"] == "/somewhere/server"
    assert cold.environment["PYSANDBOX_WARM"] == "off"
    assert (warm.warm, cold.warm) == (True, False)
    assert warm.ours
    assert cold.ours


@pytest.mark.usefixtures("all_installed")
def test_others_know_nothing_of_it() -> None:
    found, _ = contender.find_contenders(["runc"], SERVER)

    assert all("PYSANDBOX_WARM" not in each.environment for each in found)


@pytest.mark.usefixtures("all_installed")
def test_where_crun_needs_a_place_of_its_own_everybody_is_there_too(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(contender, "UNIFIED", "/nonexistent")

    found, missing = contender.find_contenders(["pysandbox", "pysandbox-cold", "runc", "crun"], SERVER)

    assert [each.label for each in found] == [
        "pysandbox", "pysandbox-cold", "runc",
        "pysandbox@cgroup2", "pysandbox-cold@cgroup2", "runc@cgroup2", "crun@cgroup2",
    ]  # fmt: skip
    assert list(missing) == ["crun"]


@pytest.mark.usefixtures("all_installed")
def test_on_a_unified_host_there_is_one_place(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(contender, "UNIFIED", str(tmp_path))

    found, missing = contender.find_contenders(["pysandbox", "crun"], SERVER)

    assert [each.label for each in found] == ["pysandbox", "crun"]
    assert missing == {}


def test_beside_means_in_the_same_place() -> None:
    assert contender.beside("pysandbox", "runc") == "runc"
    assert contender.beside("pysandbox-cold@cgroup2", "crun") == "crun@cgroup2"


@pytest.mark.parametrize(
    ("name", "private", "part"),
    [
        ("pysandbox", False, True),
        ("pysandbox-cold", False, True),
        ("runc", False, True),
        ("pysandbox", True, True),
        ("crun", True, True),
        ("pysandbox-cold", True, False),
        ("runc", True, False),
    ],
)
def test_in_the_private_place_only_crun_and_the_warm_one_race(name: str, private: bool, part: bool) -> None:
    assert takes_part(Contender(name, (name,), private=private)) is part
