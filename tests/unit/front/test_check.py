"""`pysandbox check` and `pysandbox env`: what they say of a host, and what they exit with."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from pysandbox import environment, plugins
from pysandbox.backend import Finding
from pysandbox.cli.main import command
from pysandbox.errors import Unavailable

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from pysandbox.config import Config


class Host:
    """A backend that finds what a test says."""

    def __init__(self, *findings: Finding) -> None:
        self.findings = findings
        self.settings: Mapping[str, Any] = {}

    def inspect(self, settings: Mapping[str, Any]) -> Sequence[Finding]:
        self.settings = settings
        return self.findings


@pytest.fixture
def backends(monkeypatch: pytest.MonkeyPatch) -> dict[str, Host]:
    """Two backends in the places of those there are: one that can run here and one that cannot."""
    found = {
        "fine": Host(Finding("ok", "kernel", "is new"), Finding("note", "speed", "is low")),
        "broken": Host(Finding("problem", "image", "is missing", "build it")),
    }
    monkeypatch.setattr(plugins, "BUILT_IN", dict.fromkeys(found, ("", "")))

    def load(name: str, config: Config) -> Host:
        if name not in found:
            raise Unavailable(f"no backend {name}")
        return found[name]

    monkeypatch.setattr(plugins, "load_backend", load)
    return found


def run(capfd: pytest.CaptureFixture[str], *words: str) -> tuple[int, str, str]:
    code = command(list(words), frozenset())
    output = capfd.readouterr()
    return code, output.out, output.err


# -- check -------------------------------------------------------------------------------------------------------------


def test_each_finding_is_a_line_with_its_remedy(backends: object, capfd: pytest.CaptureFixture[str]) -> None:
    code, out, _ = run(capfd, "check")
    lines = [" ".join(line.split()) for line in out.splitlines()]
    assert code == 1
    assert "fine: can run" in lines
    assert "note speed is low" in lines
    assert "broken: cannot run" in lines
    assert "problem image is missing; remedy: build it" in lines


def test_only_the_backend_that_was_asked_for_counts(backends: object, capfd: pytest.CaptureFixture[str]) -> None:
    code, out, _ = run(capfd, "--backend", "fine", "check")
    assert (code, "broken" in out) == (0, False)
    assert run(capfd, "--backend", "broken", "check")[0] == 1


def test_a_backend_that_cannot_be_loaded_is_a_finding(backends: object, capfd: pytest.CaptureFixture[str]) -> None:
    code, out, _ = run(capfd, "--backend", "none", "check")
    assert code == 1
    assert "no backend none" in out


def test_findings_as_json(backends: object, capfd: pytest.CaptureFixture[str]) -> None:
    code, out, _ = run(capfd, "check", "--format", "json")
    document = json.loads(out)
    assert code == 1
    assert [document[name]["can_run"] for name in ("fine", "broken")] == [True, False]
    assert document["broken"]["findings"][-1] == {
        "verdict": "problem", "subject": "image", "what": "is missing", "remedy": "build it",
    }  # fmt: skip


def test_a_backend_gets_its_settings(
    backends: dict[str, Host], tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    settings = tmp_path / "config.toml"
    settings.write_text('[backends.fine]\nqemu = "/x"\n')
    assert run(capfd, "--config", str(settings), "--backend", "fine", "check")[0] == 0
    assert backends["fine"].settings == {"qemu": "/x"}


@pytest.mark.parametrize("words", [["check", "--format", "yaml"], ["check", "more"], ["env", "more"]])
def test_bad_words_get_one_line(words: list[str], backends: object, capfd: pytest.CaptureFixture[str]) -> None:
    code, _, err = run(capfd, *words)
    assert code == 1
    assert len(err.splitlines()) == 1


# -- env ---------------------------------------------------------------------------------------------------------------


def test_env_tells_versions_host_settings_and_findings(backends: object, capfd: pytest.CaptureFixture[str]) -> None:
    code, out, _ = run(capfd, "env", "--json")
    document = json.loads(out)
    assert code == 0, "what cannot run is a fact, no failure"
    assert document["installation"]["pysandbox"]
    assert document["host"]["kernel"].startswith("Linux ")
    assert document["settings"]["root"] == "/run/pysandbox"
    assert document["backend fine"]["can run"] == "yes"
    assert document["backend broken"]["image"] == "is missing"
    text = run(capfd, "env")[1]
    assert all(str(value) in text for value in document["host"].values() if "available" not in value)


def test_two_findings_of_one_kind_are_both_told(backends: dict[str, Host], capfd: pytest.CaptureFixture[str]) -> None:
    backends["broken"].findings = (Finding("problem", "host", "one"), Finding("problem", "host", "two"))
    assert json.loads(run(capfd, "env", "--json")[1])["backend broken"]["host"] == "one; two"


# -- the host ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "number"),
    [("MemAvailable:    7 kB\n", 7168), ("MemFree: 7 kB\n", 0), ("MemAvailable:\n", 0), ("MemAvailable: x kB\n", 0)],
)
def test_memory_is_read_or_0(text: str, number: int, tmp_path: Path) -> None:
    (tmp_path / "meminfo").write_text(text)
    assert environment.memory("MemAvailable", str(tmp_path / "meminfo")) == number
    assert environment.memory("MemAvailable", str(tmp_path / "none")) == 0


def test_the_cgroups_of_this_host_are_told() -> None:
    assert "version" in environment.cgroups()
