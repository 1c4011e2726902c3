"""`pysandbox compare`: the bench and the audits of all who took part in it, in one document."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from pysandbox.compare import audits
from pysandbox.compare.bundlebench import Bench

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping, Sequence

    from pysandbox.compare.request import Request

VERSION = 1


def compare(request: Request, progress: Callable[[str, int, int], None]) -> dict[str, Any]:
    """Measure, then audit; return the document. An interrupt ends either, and keeps what there is."""
    bench = Bench(request, progress).run()
    document: dict[str, Any] = {"version": VERSION, "kind": "comparison", "bench": bench, "audits": []}
    contenders = [each for each in bench["contenders"] if each["kind"] != "host"]
    if bench["interrupted"]:
        return document
    try:
        for number, each in enumerate(contenders):
            progress(f"auditing {each['name']}", number, len(contenders))
            document["audits"].append(audits.audit(request.program, each, bench["bundle"]))
    except KeyboardInterrupt:
        bench["interrupted"] = True
    return document


def emulated(bench: Mapping[str, Any]) -> list[str]:
    """Return the contenders whose processor was emulated: nothing is said of how well they isolate."""
    return [each["name"] for each in bench["contenders"] if "emulation" in each.get("accelerator", "")]


def figure_of(bench: Mapping[str, Any], scenario: str, contender: str) -> Mapping[str, Any] | None:
    """Return one figure, or None."""
    figures = bench["figures"]
    return next((each for each in figures if (each["scenario"], each["contender"]) == (scenario, contender)), None)


def matrix(found: Sequence[Mapping[str, Any]]) -> Iterator[tuple[str, list[dict[str, Any]]]]:
    """Yield each group of probes with its rows: what a probe is, whether contenders differ, contender → finding."""
    rows: dict[tuple[str, str], dict[str, Any]] = {}
    for audit in found:
        for each in audit["findings"]:
            empty = {"probe": each["probe"], "how": each["how"], "expected": each["expected"], "cells": {}}
            row = rows.setdefault((each["group"], each["probe"]), empty)
            row["cells"][audit["contender"]] = each
    groups: dict[str, list[dict[str, Any]]] = {}
    for (group, _), row in rows.items():
        verdicts = [finding["verdict"] for finding in row["cells"].values()]
        row["differs"] = len(set(verdicts)) > 1
        row["weak"] = "weak" in verdicts
        groups.setdefault(group or "other", []).append(row)
    yield from groups.items()
