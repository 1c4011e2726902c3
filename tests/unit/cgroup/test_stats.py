"""Usage has the shape of runc's `events --stats`: checked against files as the kernel writes them."""

from __future__ import annotations

from pathlib import Path

import pytest

from pysandbox.cgroup.stats import blkio_entries, ranges, v1_stats, v2_stats


def files(directory: Path, **texts: str) -> str:
    for name, text in texts.items():
        (directory / name.replace("__", ".")).write_text(text)
    return str(directory)


def test_v1_memory(tmp_path: Path) -> None:
    path = files(
        tmp_path,
        memory__stat="cache 8192\nrss 4096\n",
        memory__usage_in_bytes="12288\n",
        memory__limit_in_bytes="65536\n",
        memory__max_usage_in_bytes="20480\n",
        memory__failcnt="3\n",
    )

    memory = v1_stats({"memory": path})["memory"]

    assert memory["usage"] == {"limit": 65536, "usage": 12288, "max": 20480, "failcnt": 3}
    assert memory["cache"] == 8192
    assert memory["raw"] == {"cache": 8192, "rss": 4096}
    assert memory["swap"] == {"limit": 0, "failcnt": 0}  # no memsw files: swap is not accounted for


def test_v1_cpu_is_in_nanoseconds(tmp_path: Path) -> None:
    path = files(
        tmp_path,
        cpuacct__usage="300\n",
        cpuacct__usage_user="200\n",
        cpuacct__usage_sys="100\n",
        cpuacct__usage_percpu="250 50 \n",
        cpu__stat="nr_periods 7\nnr_throttled 2\nthrottled_time 9000\n",
    )

    cpu = v1_stats({"cpu": path, "cpuacct": path})["cpu"]

    assert cpu["usage"] == {"total": 300, "user": 200, "kernel": 100, "percpu": [250, 50]}
    assert cpu["throttling"] == {"periods": 7, "throttledPeriods": 2, "throttledTime": 9000}


def test_v2_cpu_is_turned_into_nanoseconds(tmp_path: Path) -> None:
    text = "usage_usec 3\nuser_usec 2\nsystem_usec 1\nnr_periods 5\nnr_throttled 4\nthrottled_usec 6\n"

    cpu = v2_stats(files(tmp_path, cpu__stat=text))["cpu"]

    assert cpu["usage"] == {"total": 3000, "user": 2000, "kernel": 1000}
    assert cpu["throttling"] == {"periods": 5, "throttledPeriods": 4, "throttledTime": 6000}


def test_v2_swap_is_reported_together_with_memory_as_v1_does(tmp_path: Path) -> None:
    path = files(
        tmp_path,
        memory__stat="anon 1\nfile 2\n",
        memory__current="1000\n",
        memory__max="5000\n",
        memory__peak="2000\n",
        memory__swap__current="100\n",
        memory__swap__max="300\n",
    )

    memory = v2_stats(path)["memory"]

    assert memory["usage"] == {"limit": 5000, "usage": 1000, "max": 2000, "failcnt": 0}
    assert memory["swap"] == {"limit": 5300, "usage": 1100, "failcnt": 0}
    assert memory["cache"] == 2


def test_v2_no_limit_is_the_largest_number(tmp_path: Path) -> None:
    path = files(tmp_path, memory__current="1\n", memory__max="max\n", memory__swap__max="max\n", pids__max="max\n")

    stats = v2_stats(path)

    assert stats["memory"]["usage"]["limit"] == stats["memory"]["swap"]["limit"] == 2**64 - 1
    assert "limit" not in stats["pids"]


def test_v2_io_and_pressure(tmp_path: Path) -> None:
    path = files(
        tmp_path,
        io__stat="8:0 rbytes=4096 wbytes=0 rios=1 wios=0 dbytes=0 dios=0\n",
        io__pressure="some avg10=1.50 avg60=0.00 avg300=0.00 total=77\n",
    )

    blkio = v2_stats(path)["blkio"]

    assert blkio["ioServiceBytesRecursive"][0] == {"major": 8, "op": "Read", "value": 4096}
    assert blkio["psi"] == {"some": {"avg10": 1.5, "avg60": 0.0, "avg300": 0.0, "total": 77}}


def test_the_document_has_every_part_even_with_nothing_to_say(tmp_path: Path) -> None:
    parts = {"cpu", "cpuset", "memory", "pids", "blkio", "hugetlb", "intel_rdt", "network_interfaces"}

    assert set(v1_stats({})) == set(v2_stats(str(tmp_path))) == parts


def test_blkio_lines_with_and_without_an_operation() -> None:
    assert blkio_entries("8:16 Read 5\n8:16 9\nTotal 14\n") == [
        {"major": 8, "minor": 16, "op": "Read", "value": 5},
        {"major": 8, "minor": 16, "value": 9},
    ]


@pytest.mark.parametrize(("text", "numbers"), [("0-2,7\n", [0, 1, 2, 7]), ("", []), ("\n", []), ("3", [3])])
def test_ranges(text: str, numbers: list[int]) -> None:
    assert ranges(text) == numbers
