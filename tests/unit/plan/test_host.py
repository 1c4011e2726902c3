from __future__ import annotations

import os
import resource
from typing import TYPE_CHECKING

from pysandbox.plan.host import host_facts

if TYPE_CHECKING:
    from collections.abc import Iterator

import pytest


@pytest.fixture
def one_cpu() -> Iterator[None]:
    before = os.sched_getaffinity(0)
    os.sched_setaffinity(0, {min(before)})
    yield
    os.sched_setaffinity(0, before)


def test_facts_are_those_of_this_kernel() -> None:
    with open("/proc/sys/kernel/cap_last_cap", encoding="ascii") as file:
        assert host_facts().last_capability == int(file.read())
    assert host_facts().kcore == os.path.exists("/proc/kcore")
    assert host_facts().selinux == os.path.exists("/sys/fs/selinux/enforce")


def test_limits_are_gathered_for_a_user_namespace_only() -> None:
    assert host_facts({"linux": {"namespaces": [{"type": "pid"}]}}).limits == {}  # type: ignore[typeddict-item]
    limits = host_facts({"linux": {"namespaces": [{"type": "user"}]}}).limits  # type: ignore[typeddict-item]
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    assert limits[resource.RLIMIT_NOFILE] == (soft % 2**64, hard % 2**64)


def test_cpus_are_named_when_this_process_has_not_all(one_cpu: None) -> None:
    with open("/sys/devices/system/cpu/possible", encoding="ascii") as file:
        last = int(file.read().strip().rpartition("-")[2])
    assert list(host_facts().cpus) == (list(range(last + 1)) if last else [])
