"""An audit for people: a table by groups, with colours where `rich` is installed and a terminal reads it."""

from __future__ import annotations

import sys
from collections import Counter
from typing import TYPE_CHECKING

from pysandbox.audit.finding import OK, UNKNOWN, VERDICTS, WEAK

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from pysandbox.audit.audit import Report
    from pysandbox.audit.finding import Finding

_COLOURS = {OK: "green", WEAK: "red", UNKNOWN: "yellow"}
_HEADS = ("probe", "verdict", "observed", "expected", "why")


def show(report: Report, *, everything: bool) -> None:
    """Print the findings: those that are not ok, or all; then how many there are of each verdict."""
    shown = [finding for finding in report.findings if everything or finding.verdict != OK]
    lines = [f"note: {note}" for note in report.notes] + [f"changed for the audit: {one}" for one in report.changes]
    if not (sys.stdout.isatty() and shown and _show_rich(report, shown)):
        sys.stdout.write(_plain(shown))
    sys.stdout.writelines(f"{line}\n" for line in [*lines, summary(report)])


def summary(report: Report) -> str:
    """Return how many findings there are of each verdict, in one line."""
    counts = Counter(finding.verdict for finding in report.findings)
    said = ", ".join(f"{counts[verdict]} {verdict}" for verdict in VERDICTS)
    return f"{report.backend}: {len(report.findings)} findings: {said}"


def _show_rich(report: Report, findings: Sequence[Finding]) -> bool:
    """Print with colours; False where there is no rich."""
    try:
        from rich.console import Console
        from rich.table import Table
        from rich.text import Text
    except ImportError:
        return False
    table = Table(title=f"{report.backend}: {report.bundle}", title_justify="left")
    for head in _HEADS:
        table.add_column(head, overflow="fold")
    for group, rows in _by_group(findings):
        table.add_section()
        table.add_row(Text(group, style="bold"), *[""] * (len(_HEADS) - 1))
        for row in rows:
            cells = [Text(cell) for cell in _cells(row)]
            cells[1].stylize(_COLOURS[row.verdict])
            table.add_row(*cells)
    Console().print(table)
    return True


def _plain(findings: Sequence[Finding]) -> str:
    if not findings:
        return ""
    rows = [[head.upper() for head in _HEADS[:-1]], *[_cells(finding)[:-1] for finding in findings]]
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    lines = ["  ".join(f"{cell:{width}}" for cell, width in zip(row, widths, strict=True)).rstrip() for row in rows]
    return "\n".join(lines) + "\n"


def _cells(finding: Finding) -> list[str]:
    return [finding.probe, finding.verdict, finding.observed, finding.expected, finding.why]


def _by_group(findings: Iterable[Finding]) -> list[tuple[str, list[Finding]]]:
    groups: dict[str, list[Finding]] = {}
    for finding in findings:
        groups.setdefault(finding.group, []).append(finding)
    return list(groups.items())
