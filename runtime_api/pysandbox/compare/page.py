"""The page: one file that needs no network, in which nothing that a bundle or a sandbox said is more than text."""

from __future__ import annotations

import secrets
from collections import Counter
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pysandbox.compare import audits, charts, comparison, terminal
from pysandbox.errors import Unavailable

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

#: What the figures and findings must not be taken for, a paragraph each.
LIMITS = """
Ratios travel to another machine of this kind; milliseconds do not.

A start here finds files, templates and programs in the page cache: the first one after a boot takes longer.

Images are not fetched and not unpacked, and no network is set up beyond what config.json asks for: an engine's own
time comes on top.

The probes observe what a well-behaved program sees. They attack nothing: a sandbox without weak findings is not thereby
proven to hold.

What is counted as memory is there at the end of a start, with an idle workload: a busy one makes its sandbox grow.

Inside, time is what the sandbox's own clock says.
"""
EMULATED = """
{names}: the processor was emulated, and of emulation QEMU promises no isolation. The findings tell what a program sees
there, not what it could break; the times are those of emulation, and say nothing about one with KVM.
"""


def require() -> None:
    """Raise Unavailable, with the remedy, where the libraries of the page are not installed."""
    try:
        import jinja2  # noqa: F401
        import plotly  # noqa: F401
    except ImportError as error:
        raise Unavailable(f"{error.name} is not installed: pip install 'pysandbox[compare]'") from None


def page(document: Mapping[str, Any]) -> str:
    """Return the page of a comparison."""
    from jinja2 import Environment, StrictUndefined
    from markupsafe import Markup
    from plotly.offline import get_plotlyjs

    bench = document["bench"]
    figures = charts.charts(bench)

    def chart(name: str) -> Markup:
        if name not in figures:
            return Markup('<div class="panel">not measured</div>')
        return Markup('<div class="panel"><div class="chart" data-chart="{}"></div></div>').format(name)

    environment = Environment(autoescape=True, undefined=StrictUndefined, extensions=["jinja2.ext.loopcontrols"])
    template = environment.from_string(Path(__file__).with_name("page.html.j2").read_text(encoding="utf-8"))
    return template.render(
        nonce=secrets.token_urlsafe(16),
        # Plotly's own library, and JSON in which it has escaped every letter that could end the element.
        library=Markup(get_plotlyjs().replace("</script", "<\\/script")),  # noqa: S704
        figures={name: Markup(text) for name, text in figures.items()},  # noqa: S704
        chart=chart,
        **_content(document),
    )


def _content(document: Mapping[str, Any]) -> dict[str, Any]:
    bench, found = document["bench"], document["audits"]
    return {
        "bench": bench,
        "title": f"pysandbox compare: {bench['bundle']}",
        "headline": headline(document),
        "sandboxes": [each for each in bench["contenders"] if each["kind"] != "host"],
        "taken": bench["taken"].replace("T", " ").removesuffix("+00:00") + " UTC",
        "overview": _overview(found),
        "machine": _machine(bench["machine"]),
        "warnings": list(_warnings(bench)),
        "cards": list(_cards(document)),
        "matrix": [(group, _sorted(rows), _right(rows)) for group, rows in comparison.matrix(found)],
        "audited": [each["contender"] for each in found if each["findings"]],
        "no_audit": "; ".join(f"{each['contender']}: {each['failure']}" for each in found) or "it was not reached",
        "tables": list(_tables(bench)),
        "limits": LIMITS.strip().split("\n\n"),
        "facts": list(_facts(bench)),
    }


def headline(document: Mapping[str, Any]) -> str:
    """Return who starts fastest, and what the strongest box costs, in one sentence."""
    bench = document["bench"]
    names = [each["name"] for each in bench["contenders"] if each["kind"] != "host"]
    starts = {name: each["median"] for name in names if (each := comparison.figure_of(bench, "start to exit", name))}
    if not starts:
        return "Nothing could be measured"
    order = sorted(starts, key=lambda name: starts[name])
    first = f"{order[0]} starts and ends a container in {terminal.number(starts[order[0]])} ms"
    others = [f"{name} in {terminal.number(starts[name])}" for name in order[1:]]
    return ", ".join([first, *others])


def _machine(machine: Mapping[str, Any]) -> str:
    return (
        f"{machine['processor'] or machine['architecture']}, {machine['processors']} processors, "
        f"Linux {machine['kernel']}, load {machine['load'][0]:.2f} before and {machine['load_after'][0]:.2f} after."
    )


def _warnings(bench: Mapping[str, Any]) -> Iterator[str]:
    if names := comparison.emulated(bench):
        yield EMULATED.strip().format(names=", ".join(names))
    if bench["interrupted"]:
        yield "The comparison was interrupted: this is what was measured until then."
    if bench["machine"]["stolen"] > terminal.STOLEN:
        yield f"The hypervisor took {bench['machine']['stolen']:.0%} of the time from this machine meanwhile."
    yield from bench["notes"]


def _cards(document: Mapping[str, Any]) -> Iterator[dict[str, Any]]:
    bench, colours = document["bench"], charts.colours(document["bench"])
    found = {each["contender"]: each for each in document["audits"]}
    for each in bench["contenders"]:
        name = each["name"]
        if each["kind"] == "host":
            continue
        start, waiting, detached = (
            comparison.figure_of(bench, scenario, name)
            for scenario in ("start to exit", "memory, run waits", "memory, detached")
        )
        audit = found.get(name, {"findings": [], "failure": "not reached"})
        yield {
            "name": name,
            "colour": colours[name],
            "start": terminal.number(start["median"]) if start else "?",
            "ratio": terminal.times(start["ratio"]) if start else "",
            "memory": terminal.number(waiting["median"]) if waiting else "?",
            "detached": terminal.number(detached["median"]) if detached else "",
            "counts": audits.counts(audit["findings"]) if audit["findings"] else None,
            "failure": audit["failure"],
        }


def _overview(found: Sequence[Mapping[str, Any]]) -> list[tuple[str, list[dict[str, int]]]]:
    """Return each group of probes with the verdicts' counts of each audited contender."""
    audited = [each["findings"] for each in found if each["findings"]]
    groups = dict.fromkeys(finding["group"] for findings in audited for finding in findings)
    return [
        (group or "other", [audits.counts([each for each in own if each["group"] == group]) for own in audited])
        for group in groups
    ]


def _sorted(rows: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    """Put first what differs, then what is weak."""
    return sorted(rows, key=lambda row: (not row["differs"], not row["weak"]))


def _right(rows: Sequence[Mapping[str, Any]]) -> Counter[str]:
    """Return how many findings of each contender are as expected."""
    cells = (cell for row in rows for cell in row["cells"].items())
    return Counter(name for name, finding in cells if finding["verdict"] == "ok")


def _tables(bench: Mapping[str, Any]) -> Iterator[tuple[str, list[str], list[dict[str, Any]]]]:
    """Yield title, contenders and rows of each group."""
    for group, title in terminal.TITLES.items():
        figures = [each for each in bench["figures"] if each["group"] == group]
        present = {each["contender"] for each in figures}
        names = [each["name"] for each in bench["contenders"] if each["name"] in present]
        rows = []
        for scenario in (each for each in bench["scenarios"] if each["group"] == group):
            own = [each for each in figures if each["scenario"] == scenario["name"]]
            if own:
                cells = {each["contender"]: terminal.cell(each) for each in own}
                rows.append({**scenario, "cells": cells})
        if rows:
            yield title, names, rows


def _facts(bench: Mapping[str, Any]) -> Iterator[tuple[str, str]]:
    for name, value in bench["machine"].items():
        yield (
            name.replace("_", " "),
            ", ".join(f"{one:.2f}" for one in value) if isinstance(value, list) else str(value),
        )
    for each in bench["contenders"]:
        if each["kind"] != "host":
            parts = (each["version"], each.get("accelerator", ""), each["note"], " ".join(each["command"]))
            yield each["name"], "; ".join(part for part in parts if part)
    yield "the tool's own processor time", f"{bench['tool_processor_seconds']} s of {bench['seconds']} s"
