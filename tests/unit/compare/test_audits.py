"""The audit, asked as a command that may fail, hang or lie."""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest
from benchdocument import contender, finding

from pysandbox.compare import audits


def program(tmp_path: Path, script: str) -> list[str]:
    path = tmp_path / "program"
    path.write_text(f"#!/bin/sh\n{script}\n")
    path.chmod(0o755)
    return [os.fspath(path)]


def test_findings_are_taken_whatever_the_exit_code(tmp_path: Path) -> None:
    document = json.dumps({"version": 1, "findings": [finding("seccomp.mode", "weak")]})

    found = audits.audit(program(tmp_path, f"echo '{document}'; exit 1"), contender("namespaces", "backend"), "/b")

    assert found["failure"] == ""
    assert [(each["probe"], each["verdict"]) for each in found["findings"]] == [("seccomp.mode", "weak")]


def test_an_audit_that_fails_is_told_in_its_own_words(tmp_path: Path) -> None:
    found = audits.audit(program(tmp_path, "echo no such backend >&2; exit 1"), contender("runc", "runtime"), "/b")

    assert (found["backend"], found["failure"], found["findings"]) == ("oci:/usr/bin/runc", "no such backend", [])


def test_an_audit_that_hangs_is_ended_with_all_that_it_started(tmp_path: Path, monkeypatch) -> None:
    monkeypatch.setattr(audits, "LIMIT", 0.5)
    monkeypatch.setattr(audits, "ENDING", 0.5)

    found = audits.audit(
        program(
            tmp_path,
            f"trap 'echo cleared up > {tmp_path}/said' INT; echo $$ > {tmp_path}/pid; sleep 60 & wait; sleep 60",
        ),
        contender("runc", "runtime"),
        "/b",
    )

    assert found["failure"] == "no audit within 0 s"
    assert (tmp_path / "said").read_text() == "cleared up\n"  # it was asked before it was killed
    assert not os.path.exists(f"/proc/{(tmp_path / 'pid').read_text().strip()}/exe")


@pytest.mark.parametrize(
    "text",
    ["{}", '{"findings": 3}', '{"findings": [3]}', '{"findings": [{"verdict": "fine"}]}', "{"],
)
def test_what_is_no_audit_is_not_taken(text: str) -> None:
    with pytest.raises(ValueError, match="."):
        audits.read(text)


def test_too_many_findings_are_not_taken(monkeypatch) -> None:
    monkeypatch.setattr(audits, "FINDINGS", 2)

    with pytest.raises(ValueError, match="3 findings"):
        audits.read(json.dumps({"findings": [finding(str(number)) for number in range(3)]}))


def test_what_was_seen_in_a_sandbox_is_one_printable_line_with_an_end() -> None:
    found = audits.read(json.dumps({"findings": [finding("x", observed="a\x1b[31m\n" + "b" * 10_000)]}))

    assert found[0]["observed"].startswith("a?[31m b")
    assert len(found[0]["observed"]) == 400
