"""OCI resources become properties of a systemd unit."""

from __future__ import annotations

from typing import Any

import pytest

from pysandbox.cgroup.properties import INFINITY, bit_mask, resource_properties
from pysandbox.cgroup.systemd import expand_slice, parse_unit
from pysandbox.errors import InvalidArgument

MIB = 1 << 20


def values(resources: dict[str, Any], version: int = 2, systemd: int = 252) -> dict[str, Any]:
    properties = resource_properties(resources, version, systemd=systemd)  # type: ignore[arg-type]
    return {name: value for name, (_, value) in properties}


def test_memory() -> None:
    resources = {"memory": {"limit": MIB, "swap": 3 * MIB, "reservation": 512}}

    assert values(resources) == {"MemoryMax": MIB, "MemorySwapMax": 2 * MIB, "MemoryLow": 512}
    assert values(resources, version=1) == {"MemoryLimit": MIB}
    assert values({"memory": {"limit": -1}}) == {"MemoryMax": INFINITY, "MemorySwapMax": INFINITY}


def test_pids() -> None:
    assert values({"pids": {"limit": 9}}) == {"TasksMax": 9}
    assert values({"pids": {"limit": -1}}) == {"TasksMax": INFINITY}


def test_cpu() -> None:
    assert values({"cpu": {"shares": 1024}}) == {"CPUWeight": 100}
    assert values({"cpu": {"shares": 1024}}, version=1) == {"CPUShares": 1024}
    assert values({"cpu": {"shares": 1024, "idle": 1}}) == {"CPUWeight": 0}
    assert values({"cpu": {"shares": 1024, "idle": 1}}, systemd=247) == {"CPUWeight": 100}


def test_a_quota_is_rounded_up_to_a_hundredth_of_a_cpu() -> None:
    assert values({"cpu": {"quota": 33333, "period": 100000}}) == {
        "CPUQuotaPeriodUSec": 100000,
        "CPUQuotaPerSecUSec": 340000,
    }
    assert values({"cpu": {"quota": 50000}}) == {"CPUQuotaPerSecUSec": 500000}
    assert values({"cpu": {"quota": -1}}) == {"CPUQuotaPerSecUSec": INFINITY}
    assert "CPUQuotaPeriodUSec" not in values({"cpu": {"quota": 1000, "period": 5000}}, systemd=241)


def test_cpus_are_a_bit_mask() -> None:
    assert values({"cpu": {"cpus": "0-2,9"}}) == {"AllowedCPUs": bytes([0b111, 0b10])}
    assert values({"cpu": {"cpus": "0"}}, systemd=243) == {}
    with pytest.raises(InvalidArgument, match=r'^linux\.resources\.cpu\.cpus: "a" is not a list'):
        bit_mask("a", "linux.resources.cpu.cpus")


def test_unified_keys_that_systemd_knows() -> None:
    unified = {
        "memory.high": "max",
        "pids.max": "7",
        "cpu.max": "1000 2000",
        "memory.oom.group": "1",
        "hugetlb.2MB.max": "0",
    }

    assert values({"unified": unified}) == {
        "MemoryHigh": INFINITY,
        "TasksMax": 7,
        "CPUQuotaPeriodUSec": 2000,
        "CPUQuotaPerSecUSec": 500000,
        "OOMPolicy": "kill",
    }


def test_devices_are_named_so_that_a_daemon_reload_does_not_open_them() -> None:
    properties = values({"devices": [{"allow": True, "type": "b", "major": 8, "minor": 0, "access": "r"}]})

    assert properties["DevicePolicy"] == "strict"
    assert {("/dev/block/8:0", "r"), ("/dev/char/1:3", "rwm"), ("char-*", "m"), ("block-*", "m")} <= set(
        properties["DeviceAllow"]
    )
    assert values({"devices": [{"allow": True, "access": "rwm"}]})["DevicePolicy"] == "auto"
    assert "DevicePolicy" not in values({})


@pytest.mark.parametrize(
    ("path", "unit"),
    [
        ("", ("system.slice", "runc-c1.scope")),
        ("machine.slice:libpod:abc", ("machine.slice", "libpod-abc.scope")),
        (":docker:abc", ("system.slice", "docker-abc.scope")),
        ("user-1000.slice:a:b", ("user-1000.slice", "a-b.scope")),
    ],
)
def test_a_cgroups_path_names_slice_and_unit(path: str, unit: tuple[str, str]) -> None:
    assert parse_unit(path, "c1") == unit


@pytest.mark.parametrize(
    "path",
    ["/a/b", "a:b", "a:b:c:d", "noslice:a:b", "a/b.slice:a:b", "a--b.slice:x:y", ".slice:x:y", "a.slice:x:", "a.slice:x:y/z",
     "a.slice:x:..\0", "a.slice:x:" + "y" * 300, "a.slice:x:y.slice"],
)  # fmt: skip
def test_anything_else_is_refused(path: str) -> None:
    with pytest.raises(InvalidArgument, match=r"^linux\.cgroupsPath: "):
        parse_unit(path, "c1")


@pytest.mark.parametrize(
    ("slice_", "path"),
    [("system.slice", "/system.slice"), ("a-b-c.slice", "/a.slice/a-b.slice/a-b-c.slice"), ("-.slice", "")],
)
def test_slices_nest_at_their_dashes(slice_: str, path: str) -> None:
    assert expand_slice(slice_) == path
