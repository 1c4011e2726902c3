"""Who is asked to take part."""

from __future__ import annotations

import pytest

from pysandbox.compare import candidate
from pysandbox.errors import InvalidArgument

PROGRAM = ("/usr/bin/pysandbox", "--config", "/etc/x.toml")


def find(names=(), runtimes=None):
    return candidate.find(list(names), runtimes or {}, PROGRAM)


def test_a_backend_is_called_by_our_own_program_with_its_settings() -> None:
    found, missing = find(["namespaces", "oci:crun"])

    assert [each.commands for each in found] == [
        ((*PROGRAM, "--backend", "namespaces"),),
        ((*PROGRAM, "--backend", "oci:crun"),),
    ]
    assert all(each.ours for each in found)
    assert missing == {}


def test_a_runtime_is_called_directly_and_by_path_where_one_is_given() -> None:
    found, _ = find(["mine"], {"mine": ("/opt/mine", "--flag")})

    assert [(each.commands, each.ours) for each in found] == [((("/opt/mine", "--flag"),), False)]


def test_a_runtime_that_is_not_installed_is_told(monkeypatch) -> None:
    monkeypatch.setattr(candidate.shutil, "which", lambda *_, **__: None)

    found, missing = find(["runsc"])

    assert found == []
    assert "not installed: no runsc on PATH" in missing["runsc"]


def test_all_are_asked_where_nobody_is_named(monkeypatch) -> None:
    monkeypatch.setattr(candidate.shutil, "which", lambda name, **_: f"/bin/{name}" if name != "crun" else None)

    found, missing = find((), {"mine": ("/opt/mine",)})

    assert [each.name for each in found] == ["namespaces", "microvm", "runc", "runsc", "mine"]
    assert list(missing) == ["crun"]


def test_gvisor_is_tried_without_what_a_host_may_not_have() -> None:
    found, _ = find(["runsc"], {"runsc": ("/opt/runsc",)})

    assert found[0].commands[0] == ("/opt/runsc",)
    assert found[0].commands[-1] == ("/opt/runsc", "--ignore-cgroups", "--network=none")


@pytest.mark.parametrize("text", ["runsc", "=x", "a/b=/bin/true", "a=", "a=/no/such/program", "a='", "<b>=/bin/true"])
def test_a_runtime_that_cannot_be_meant_is_refused(text: str) -> None:
    with pytest.raises(InvalidArgument, match="--runtime"):
        candidate.read_runtimes([text])


@pytest.mark.parametrize("name", ["host", "a b", "../x", "<script>", "-x"])
def test_a_name_that_nobody_has_is_refused(name: str) -> None:
    with pytest.raises(InvalidArgument, match="--backend"):
        candidate.read_names([name])


def test_names_are_given_one_by_one_or_with_commas() -> None:
    assert candidate.read_names(["runc,namespaces", "microvm", "runc"]) == ["runc", "namespaces", "microvm"]


def test_what_check_says_becomes_the_reason_and_the_accelerator() -> None:
    findings = [
        {"verdict": "problem", "subject": "image", "what": "no image"},
        {"verdict": "note", "subject": "accelerator", "what": "emulation (tcg)"},
    ]

    assert candidate.read_check({"findings": findings}) == candidate.Checked("image: no image", "emulation (tcg)")
