"""Memory of processes, from the kernel's own words."""

from __future__ import annotations

import os

import pytest

from pysandbox.compare import footprint
from pysandbox.compare.footprint import Footprint
from pysandbox.compare.measure import Failed

ROLLUP = """\
5599b60000-7ffd3e1000 ---p 00000000 00:00 0                              [rollup]
Rss:               12288 kB
Pss:                4096 kB
Pss_Dirty:          1024 kB
Shared_Clean:       6144 kB
Shared_Dirty:       4096 kB
Private_Clean:       512 kB
Private_Dirty:      1536 kB
"""
STATUS = """\
Name:\tpysandbox
Pid:\t17
VmHWM:\t   13312 kB
VmRSS:\t   12288 kB
VmPTE:\t      64 kB
Threads:\t1
"""


def test_only_sizes_are_read() -> None:
    assert footprint.read_fields(STATUS) == {"VmHWM": 13312, "VmRSS": 12288, "VmPTE": 64}


def test_a_footprint_is_in_mebibytes() -> None:
    found = footprint.footprint(footprint.read_fields(ROLLUP), footprint.read_fields(STATUS))

    assert (found.processes, found.resident, found.proportional, found.private) == (1, 12, 4, 2)


def test_the_highest_counts_what_was_given_back_and_page_tables() -> None:
    found = footprint.footprint(footprint.read_fields(ROLLUP), footprint.read_fields(STATUS))

    assert found.highest == 2 + 1 + 1 / 16


def test_several_processes_are_one_sum() -> None:
    one, other = Footprint(1, 4, 3, 2, 2.5), Footprint(1, 6, 1, 1, 1.5)

    assert footprint.total([one, other]) == Footprint(2, 10, 4, 3, 4)
    assert footprint.total([]) == Footprint(0, 0, 0, 0, 0)


def test_this_process_has_one() -> None:
    found = footprint.of(os.getpid())

    assert found.resident >= found.proportional >= found.private > 0
    assert found.highest >= found.private


def test_a_process_that_has_gone_is_said_and_not_zero() -> None:
    pid = os.posix_spawn("/bin/true", ["true"], {})
    os.waitpid(pid, 0)

    with pytest.raises(Failed, match=f"process {pid} has ended"):
        footprint.of(pid)
