"""What a person sees of an audit."""

from __future__ import annotations

import pytest

from pysandbox.audit.audit import Report
from pysandbox.audit.finding import Finding
from pysandbox.audit.table import _show_rich, show


def _finding(probe: str, verdict: str) -> Finding:
    return Finding(
        probe=probe, group="identity", how="so", observed="[red]0[/red]", expected="2", verdict=verdict, why="because"
    )


@pytest.fixture
def report() -> Report:
    findings = [_finding("seccomp.mode", "weak"), _finding("no_new_privs", "ok"), _finding("user.uid", "unknown")]
    return Report(backend="namespaces", bundle="/b", machine={}, changes=["args"], notes=["late"], findings=findings)


def test_what_is_not_ok_is_shown_and_all_is_counted(report: Report, capsys: pytest.CaptureFixture[str]) -> None:
    show(report, everything=False)

    lines = capsys.readouterr().out.splitlines()
    assert [line.split()[:2] for line in lines[1:3]] == [["seccomp.mode", "weak"], ["user.uid", "unknown"]]
    assert lines[3:] == ["note: late", "changed for the audit: args", "namespaces: 3 findings: 1 ok, 1 weak, 1 unknown"]


def test_everything_is_shown_on_demand(report: Report, capsys: pytest.CaptureFixture[str]) -> None:
    show(report, everything=True)

    assert "no_new_privs" in capsys.readouterr().out


def test_a_table_of_rich_takes_nothing_of_a_container_for_markup(
    report: Report, capsys: pytest.CaptureFixture[str]
) -> None:
    pytest.importorskip("rich", reason="requires rich, of the extra compare")

    assert _show_rich(report, report.findings)
    assert "[red]0[/red]" in capsys.readouterr().out


def test_without_rich_there_is_a_plain_table(report: Report, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(__import__("sys").modules, "rich.console", None)

    assert not _show_rich(report, report.findings)
