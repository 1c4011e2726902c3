"""OCI resources become writes: which file, which value, in which order."""

from __future__ import annotations

from typing import Any

import pytest

from pysandbox.cgroup.resources import (
    Knobs,
    cpu_weight,
    ignored,
    io_weight,
    swap_limit,
    usage_problem,
    v1_writes,
    v2_writes,
)
from pysandbox.errors import InvalidArgument

MIB = 1 << 20


def v1(resources: dict[str, Any], **knobs: Any) -> list[tuple[str, str]]:
    return [(write.file, write.value) for write in v1_writes(resources, Knobs(**knobs)) if not write.optional]


def v2(resources: dict[str, Any], **knobs: Any) -> list[tuple[str, str]]:
    return [(write.file, write.value) for write in v2_writes(resources, Knobs(**knobs)) if not write.optional]


def test_nothing_asked_for_writes_nothing() -> None:
    assert v1({}) == v2({}) == []


def test_zero_means_not_set() -> None:
    resources = {"memory": {"limit": 0, "swap": 0}, "cpu": {"shares": 0, "quota": 0, "period": 0}}

    assert v1(resources) == v2(resources) == []


@pytest.mark.parametrize(
    ("resources", "writes"),
    [
        ({"pids": {"limit": 20}}, [("pids.max", "20")]),
        ({"pids": {"limit": -1}}, [("pids.max", "max")]),
        ({"pids": {"limit": 0}}, [("pids.max", "1")]),
        ({"memory": {"limit": MIB}}, [("memory.limit_in_bytes", str(MIB))]),
        ({"memory": {"reservation": MIB}}, [("memory.soft_limit_in_bytes", str(MIB))]),
        ({"memory": {"disableOOMKiller": True}}, [("memory.oom_control", "1")]),
        ({"memory": {"swappiness": 0}}, [("memory.swappiness", "0")]),
        ({"cpu": {"shares": 512}}, [("cpu.shares", "512")]),
        ({"cpu": {"quota": 5000, "period": 10000}}, [("cpu.cfs_period_us", "10000"), ("cpu.cfs_quota_us", "5000")]),
        ({"cpu": {"quota": -1}}, [("cpu.cfs_quota_us", "-1")]),
        ({"cpu": {"burst": 1000}}, [("cpu.cfs_burst_us", "1000")]),
        ({"cpu": {"idle": 1}}, [("cpu.idle", "1")]),
        ({"cpu": {"cpus": "0-1", "mems": "0"}}, [("cpuset.cpus", "0-1"), ("cpuset.mems", "0")]),
        (
            {"cpu": {"realtimePeriod": 1000000, "realtimeRuntime": 5000}},
            [("cpu.rt_period_us", "1000000"), ("cpu.rt_runtime_us", "5000")],
        ),
        ({"blockIO": {"weight": 300}}, [("blkio.weight", "300")]),
        (
            {"blockIO": {"weightDevice": [{"major": 8, "minor": 0, "weight": 100, "leafWeight": 50}]}},
            [("blkio.weight_device", "8:0 100"), ("blkio.leaf_weight_device", "8:0 50")],
        ),
        (
            {"blockIO": {"throttleWriteIOPSDevice": [{"major": 8, "minor": 16, "rate": 40}]}},
            [("blkio.throttle.write_iops_device", "8:16 40")],
        ),
        ({"hugepageLimits": [{"pageSize": "2MB", "limit": 4096}]}, [("hugetlb.2MB.limit_in_bytes", "4096")]),
        ({"network": {"classID": 1048577}}, [("net_cls.classid", "1048577")]),
        ({"network": {"priorities": [{"name": "eth0", "priority": 5}]}}, [("net_prio.ifpriomap", "eth0 5")]),
        ({"rdma": {"mlx5_1": {"hcaHandles": 3, "hcaObjects": 0}}}, [("rdma.max", "mlx5_1 hca_handle=3 hca_object=0")]),
    ],
)
def test_v1(resources: dict[str, Any], writes: list[tuple[str, str]]) -> None:
    assert v1(resources) == writes


@pytest.mark.parametrize(
    ("resources", "writes"),
    [
        ({"pids": {"limit": -1}}, [("pids.max", "max")]),
        ({"memory": {"limit": MIB}}, [("memory.max", str(MIB))]),
        ({"memory": {"reservation": MIB}}, [("memory.low", str(MIB))]),
        ({"memory": {"limit": MIB, "swap": 3 * MIB}}, [("memory.swap.max", str(2 * MIB)), ("memory.max", str(MIB))]),
        ({"cpu": {"shares": 1024}}, [("cpu.weight", "100")]),
        ({"cpu": {"quota": 5000, "period": 10000}}, [("cpu.max", "5000 10000")]),
        ({"cpu": {"quota": 5000}}, [("cpu.max", "5000 100000")]),
        ({"cpu": {"period": 10000}}, [("cpu.max", "max 10000")]),
        ({"cpu": {"quota": -1}}, [("cpu.max", "max 100000")]),
        ({"cpu": {"burst": 1000}}, [("cpu.max.burst", "1000")]),
        ({"cpu": {"idle": 1}}, [("cpu.idle", "1")]),
        ({"blockIO": {"weight": 500}}, [("io.weight", "4950")]),
        (
            {"blockIO": {"throttleReadBpsDevice": [{"major": 8, "minor": 0, "rate": 1000}]}},
            [("io.max", "8:0 rbps=1000")],
        ),
        ({"blockIO": {"throttleReadBpsDevice": [{"major": 8, "minor": 0, "rate": 0}]}}, [("io.max", "8:0 rbps=max")]),
        ({"hugepageLimits": [{"pageSize": "1GB", "limit": 0}]}, [("hugetlb.1GB.max", "0")]),
        ({"unified": {"memory.high": "100M"}}, [("memory.high", "100M")]),
        ({"unified": {"io.max": "8:0 rbps=1\n8:16 rbps=2"}}, [("io.max", "8:0 rbps=1"), ("io.max", "8:16 rbps=2")]),
    ],
)
def test_v2(resources: dict[str, Any], writes: list[tuple[str, str]]) -> None:
    assert v2(resources) == writes


def test_bfq_has_its_own_weight_files() -> None:
    resources = {"blockIO": {"weight": 300, "weightDevice": [{"major": 8, "minor": 0, "weight": 100}]}}

    assert v1(resources, bfq=True) == [("blkio.bfq.weight", "300"), ("blkio.bfq.weight_device", "8:0 100")]
    assert v2(resources, bfq=True) == [("io.bfq.weight", "300"), ("io.bfq.weight", "8:0 100")]


# crun's own table: the ends and the default are met exactly.
@pytest.mark.parametrize(
    ("shares", "weight"), [(2, 1), (1024, 100), (262144, 10000), (1, 1), (300000, 10000), (512, 59)]
)
def test_cpu_shares_become_a_weight_on_crun_s_curve(shares: int, weight: int) -> None:
    assert cpu_weight(shares) == weight


def test_a_higher_share_never_gets_a_lower_weight() -> None:
    weights = [cpu_weight(shares) for shares in range(2, 262145, 97)]

    assert weights == sorted(weights)


@pytest.mark.parametrize(("weight", "expected"), [(10, 1), (1000, 10000), (500, 4950)])
def test_blkio_weights_are_stretched_to_io_weights(weight: int, expected: int) -> None:
    assert io_weight(weight) == expected


def test_both_limits_grow_with_swap_first_and_shrink_with_memory_first() -> None:
    resources = {"memory": {"limit": 64 * MIB, "swap": 96 * MIB}}
    memory, swap = ("memory.limit_in_bytes", str(64 * MIB)), ("memory.memsw.limit_in_bytes", str(96 * MIB))

    assert v1(resources, memory_limit=32 * MIB) == [swap, memory]
    assert v1(resources, memory_limit=128 * MIB) == [memory, swap]
    assert v1(resources) == [memory, swap]


def test_unlimited_memory_takes_the_limit_off_swap_too() -> None:
    resources = {"memory": {"limit": -1}}

    assert v1(resources, memory_limit=MIB) == [("memory.memsw.limit_in_bytes", "-1"), ("memory.limit_in_bytes", "-1")]
    assert v1(resources, swap=False) == [("memory.limit_in_bytes", "-1")]
    assert swap_limit(-1, 0) == "max"


@pytest.mark.parametrize(
    ("limit", "swap", "expected"), [(MIB, 0, None), (MIB, -1, "max"), (MIB, MIB, "0"), (MIB, 3 * MIB, str(2 * MIB))]
)
def test_swap_alone_is_what_v2_limits(limit: int, swap: int, expected: str | None) -> None:
    assert swap_limit(limit, swap) == expected


@pytest.mark.parametrize(
    ("resources", "text"),
    [
        ({"memory": {"swap": MIB}}, "linux.resources.memory.swap: unable to set swap limit without memory limit"),
        ({"memory": {"limit": 2 * MIB, "swap": MIB}}, "memory+swap limit should be >= memory limit"),
        ({"unified": {"../cgroup.procs": "1"}}, "must be a file name"),
        ({"unified": {"memory": "1"}}, "must be in the form CONTROLLER.PARAMETER"),
        ({"unified": {"cgroup.procs": "1"}}, '"cgroup.procs" is not a limit'),
        ({"unified": {"cgroup.kill": "1"}}, '"cgroup.kill" is not a limit'),
        ({"hugepageLimits": [{"pageSize": "../../x", "limit": 1}]}, "hugepageLimits[0].pageSize"),
    ],
)
def test_v2_refuses(resources: dict[str, Any], text: str) -> None:
    with pytest.raises(InvalidArgument) as refusal:
        v2(resources)

    assert text in str(refusal.value)


@pytest.mark.parametrize(
    ("resources", "text"),
    [
        (
            {"unified": {"memory.high": "1"}},
            "linux.resources.unified: invalid configuration: cannot use unified resources on cgroup v1",
        ),
        ({"cpu": {"shares": 262145}}, "the maximum allowed cpu-shares is 262144"),
        ({"cpu": {"shares": 1}}, "the minimum allowed cpu-shares is 2"),
        ({"memory": {"swappiness": 101}}, "linux.resources.memory.swappiness: invalid value: 101"),
        ({"hugepageLimits": [{"pageSize": "2MB/x", "limit": 1}]}, "hugepageLimits[0].pageSize"),
    ],
)
def test_v1_refuses(resources: dict[str, Any], text: str) -> None:
    with pytest.raises(InvalidArgument) as refusal:
        v1(resources)

    assert text in str(refusal.value)


def test_every_write_names_the_json_path_that_asks_for_it() -> None:
    resources: Any = {"blockIO": {"throttleReadBpsDevice": [{"major": 8, "minor": 0, "rate": 1}]}}

    (write,) = v1_writes(resources, Knobs())

    assert write.path == "linux.resources.blockIO.throttleReadBpsDevice[0].rate"


@pytest.mark.parametrize(
    ("memory", "problem"),
    [
        ({"limit": 10}, None),
        ({"limit": 101, "checkBeforeUpdate": True}, None),
        ({"limit": -1, "checkBeforeUpdate": True}, None),
        (
            {"limit": 100, "checkBeforeUpdate": True},
            "linux.resources.memory.limit: rejecting memory limit 100 <= usage 100",
        ),
        (
            {"limit": 10, "swap": 20, "checkBeforeUpdate": True},
            "linux.resources.memory.swap: rejecting memory+swap limit 20 <= usage 100",
        ),
    ],
)
def test_check_before_update(memory: dict[str, Any], problem: str | None) -> None:
    assert usage_problem(memory, usage=100) == problem


def test_what_has_no_counterpart_is_listed() -> None:
    resources: Any = {
        "memory": {"kernel": 1, "swappiness": 3, "useHierarchy": False},
        "cpu": {"realtimeRuntime": 5},
        "network": {"classID": 1},
        "blockIO": {"weightDevice": [{"major": 8, "minor": 0, "leafWeight": 300}]},
    }

    assert ignored(resources, version=1) == ["linux.resources.memory.kernel", "linux.resources.memory.useHierarchy"]
    assert ignored(resources, version=2) == [
        "linux.resources.memory.kernel",
        "linux.resources.memory.swappiness",
        "linux.resources.cpu.realtimeRuntime",
        "linux.resources.network.classID",
        "linux.resources.memory.useHierarchy",
        "linux.resources.blockIO.weightDevice.leafWeight",
    ]
