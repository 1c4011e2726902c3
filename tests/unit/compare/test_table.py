"""The tables of the bench."""

from __future__ import annotations

from pysandbox.compare import table
from pysandbox.compare.footprint import Footprint


def _row(series: dict[str, dict[str, list[float]]], label: str) -> str:
    (found,) = [line for line in table.lines(series) if line.split()[:1] == [label]]
    return found


def test_the_table_shows_the_ratio_with_its_interval() -> None:
    assert "2.00 (2.00 … 2.00)" in _row({"run true": {"pysandbox": [20.0] * 5, "runc": [10.0] * 5}}, "pysandbox")


def test_contenders_in_the_private_place_are_compared_with_those_there() -> None:
    series = {"state": {"pysandbox@cgroup2": [3.0], "runc": [1.0], "runc@cgroup2": [2.0], "crun@cgroup2": [4.0]}}

    assert "1.50 (1.50 … 1.50)" in _row(series, "pysandbox@cgroup2")
    assert "0.75 (0.75 … 0.75)" in _row(series, "pysandbox@cgroup2")
    assert "2.00 (2.00 … 2.00)" in _row(series, "crun@cgroup2")


def test_nobody_is_compared_with_itself() -> None:
    assert "(" not in _row({"state": {"runc": [1.0], "pysandbox": [1.0]}}, "runc")


def test_where_no_crun_took_part_there_is_no_column_for_it() -> None:
    assert "crun" not in "\n".join(table.lines({"state": {"runc": [1.0], "pysandbox": [1.0]}}))


def test_throughput_is_told_in_containers_per_second() -> None:
    assert "median per s" in "\n".join(table.lines({"run true, 4 at once": {"runc": [40.0]}}))


def test_memory_is_told_for_each_part_and_the_forks_below() -> None:
    shown = list(table.memory_lines({"pysandbox": {"server": Footprint(1, 12.0, 5.25, 2.0, 2.5)}}, [1.0, 1.25, 9.0]))

    assert shown[2].split() == ["pysandbox:", "server", "1", "12.00", "5.25", "2.00"]
    assert "1.25 ms" in shown[-1]


def test_without_a_server_no_forks_are_told() -> None:
    assert "fork" not in "\n".join(table.memory_lines({"runc": {"run": Footprint(1, 1, 1, 1, 1)}}, []))
