"""When a run of the bench is not to be believed, and what it leaves for other programs to read."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from pysandbox.compare import report
from pysandbox.compare.footprint import Footprint
from pysandbox.compare.report import Result
from pysandbox.compare.server import Account


def _result(missing: dict[str, str] | None = None) -> Result:
    return Result(2, {"kernel": "6.1"}, missing or {})


def test_a_run_without_doubts_has_none() -> None:
    result = _result({"crun": "not installed"})
    result.account("one at a time", Account(10, 10))

    assert not result.failed
    assert list(report.doubts(result)) == []


def test_cold_commands_of_the_warm_contender_fail_the_run_loudly() -> None:
    result = _result()
    result.account("pysandbox, run true, 8 at once", Account(32, 32))
    result.account("pysandbox, run true, 8 at once", Account(32, 30))

    assert result.failed
    assert list(report.doubts(result)) == ["NOT WARM: pysandbox, run true, 8 at once: 2 of 64 commands ran cold"]


@pytest.mark.parametrize("label", ["pysandbox@cgroup2", "pysandbox-cold"])
def test_a_pysandbox_that_was_left_out_fails_the_run(label: str) -> None:
    result = _result({label: "4 of 4 commands ran cold"})

    assert result.failed
    assert f"NOT MEASURED: {label}: 4 of 4" in next(report.doubts(result))


def test_one_failed_container_fails_the_run() -> None:
    result = _result()
    result.failures.append("runc, run true, 2 at once: exit code 1")

    assert result.failed
    assert next(report.doubts(result)).startswith("FAILED: 1 containers; the first: runc")


def test_the_json_has_raw_figures_summaries_goals_and_memory(tmp_path: Path) -> None:
    result = _result()
    for name, value in (("pysandbox", 4.0), ("runc", 10.0)):
        result.add("run true", name, value)
        result.add("run true, 2 at once", name, 1000 / value)
    result.waiting = {"pysandbox": {"server": Footprint(1, 12, 5, 2, 2.5)}}

    report.write(result, tmp_path / "out.json")
    written = json.loads((tmp_path / "out.json").read_text())

    assert written["raw"]["run true"] == {"pysandbox": [4.0], "runc": [10.0]}
    assert written["summary"]["run true, 2 at once"]["runc"]["median"] == 100
    assert [(goal["value"], goal["met"], goal["aimed"]) for goal in written["goals"]] == [(0.4, True, False)]
    assert written["waiting"]["pysandbox"]["server"]["proportional"] == 5


def test_scenarios_come_in_the_order_of_the_table_and_contenders_by_name() -> None:
    result = _result()
    for name in ("run true, 8 at once", "state", "run true, 1 at once", "run true"):
        result.add(name, "runc", 1.0)
        result.add(name, "crun", 1.0)

    assert list(result.ordered()) == ["run true", "state", "run true, 1 at once", "run true, 8 at once"]
    assert list(result.ordered()["state"]) == ["crun", "runc"]
