"""Policies: what is not observed has failed, and what nobody knows is refused."""

from __future__ import annotations

from pathlib import Path

import pytest

from pysandbox.audit.catalogue import PROBES
from pysandbox.audit.finding import Finding
from pysandbox.audit.gate import demanded
from pysandbox.audit.policy import READY, failures, load_policy, make_policy
from pysandbox.errors import InvalidArgument


def _finding(probe: str, verdict: str) -> Finding:
    return Finding(probe=probe, group="", how="", observed="seen", expected="", verdict=verdict, why="so")


@pytest.mark.parametrize("verdict", ["weak", "unknown"])
def test_a_demand_is_met_only_by_ok(verdict: str) -> None:
    policy = make_policy({"require": ["seccomp.mode"]}, "p")

    assert failures(policy, [_finding("seccomp.mode", "ok")]) == []
    assert [one.verdict for one in failures(policy, [_finding("seccomp.mode", verdict)])] == [verdict]


def test_what_was_not_observed_at_all_has_failed() -> None:
    missed = failures(make_policy({"require": ["outside.qemu.seccomp"]}, "p"), [])

    assert [(one.probe, one.verdict, one.why) for one in missed] == [
        ("outside.qemu.seccomp", "unknown", "there is no such process")
    ]


def test_what_is_accepted_need_not_be_ok() -> None:
    policy = make_policy({"require": ["group:escape"], "accept": {"escape.chroot": "known"}}, "p")
    found = [_finding(name, "weak" if name == "escape.chroot" else "ok") for name in policy.required]

    assert "escape.chroot" in policy.required
    assert failures(policy, found) == []


@pytest.mark.parametrize(
    ("document", "said"),
    [
        ({}, "require should be a list"),
        ({"require": []}, "require should be a list"),
        ({"require": "seccomp.mode"}, "require should be a list"),
        ({"require": [1]}, "require should be a list"),
        ({"require": ["secomp.mode"]}, "no probe 'secomp.mode': did you mean 'seccomp.mode'"),
        ({"require": ["group:nothing"]}, "no group 'nothing'"),
        ({"require": ["seccomp.mode"], "accept": {"escape.chroot": "x"}}, "escape.chroot is not required"),
        ({"require": ["seccomp.mode"], "accept": {"nothing": "x"}}, "no probe 'nothing'"),
        ({"require": ["seccomp.mode"], "accept": {"seccomp.mode": " "}}, "accept should give a reason"),
        ({"require": ["seccomp.mode"], "accept": ["seccomp.mode"]}, "accept should give a reason"),
        ({"require": ["seccomp.mode"], "exempt": []}, "unknown setting 'exempt'"),
    ],
)
def test_a_wrong_policy_is_refused(document: dict[str, object], said: str) -> None:
    with pytest.raises(InvalidArgument, match=said):
        make_policy(document, "p")


@pytest.mark.parametrize("name", READY)
def test_the_policies_that_come_with_it_can_be_read(name: str) -> None:
    policy = load_policy(name)

    assert len(policy.required) > 50
    assert set(policy.accepted) < set(policy.required) <= set(PROBES)


def test_a_policy_is_toml_or_json(tmp_path: Path) -> None:
    for name, text in (("p.toml", 'require = ["seccomp.mode"]\n'), ("p.json", '{"require": ["seccomp.mode"]}')):
        (tmp_path / name).write_text(text)
        assert load_policy(str(tmp_path / name)).required == ("seccomp.mode",)


@pytest.mark.parametrize("text", ["require = [", "\0", "require = ['a']\n" * 2])
def test_a_broken_file_is_one_clear_error(tmp_path: Path, text: str) -> None:
    (tmp_path / "p.toml").write_text(text)

    with pytest.raises(InvalidArgument, match=r"p\.toml: "):
        load_policy(str(tmp_path / "p.toml"))


def test_settings_may_demand_probes_groups_and_policies() -> None:
    policy = demanded(["seccomp.mode", "group:escape", "policy:container"], "config.toml")

    container = load_policy("container")
    assert {"seccomp.mode", "escape.canary"} <= set(policy.required)
    assert not set(container.accepted) & set(policy.required)
    with pytest.raises(InvalidArgument, match=r"config.toml: require: no probe 'secomp'"):
        demanded(["secomp"], "config.toml")
