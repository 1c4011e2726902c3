"""How big a machine is, from a spec and the settings."""

from __future__ import annotations

import pytest

from pysandbox.errors import InvalidArgument
from pysandbox_microvm.size import GUEST_MEMORY, MIB, Size, most_size, size_class, size_of

ROOMY = {"max_vcpus": 8, "max_memory": 8192}


def sized(resources: object = None, hardware: object = None, settings: object = None) -> Size:
    spec = {"linux": {"resources": resources or {}}}
    if hardware:
        spec["vm"] = {"hwConfig": hardware}
    return size_of(spec, {**ROOMY, **(settings or {})})


def test_a_spec_without_limits_gets_one_processor_and_half_a_gibibyte():
    assert sized() == Size(1, 512 * MIB)
    assert size_of({}, ROOMY) == Size(1, 512 * MIB)


def test_the_settings_say_what_a_spec_without_limits_gets():
    assert sized(settings={"vcpus": 2, "memory": 1024}) == Size(2, 1024 * MIB)


@pytest.mark.parametrize(("quota", "vcpus"), [(50_000, 1), (100_000, 1), (100_001, 2), (250_000, 3), (-1, 1), (0, 1)])
def test_a_cpu_quota_is_rounded_up_to_processors(quota, vcpus):
    assert sized({"cpu": {"quota": quota, "period": 100_000}}).vcpus == vcpus


def test_a_quota_without_a_period_is_of_the_kernels_own():
    assert sized({"cpu": {"quota": 300_000}}).vcpus == 3


@pytest.mark.parametrize(("cpus", "vcpus"), [("0", 1), ("0-3", 4), ("0-1,5", 3), ("nonsense", 1), ("3-1", 1), ("", 1)])
def test_without_a_quota_the_set_of_cpus_counts(cpus, vcpus):
    assert sized({"cpu": {"cpus": cpus}}).vcpus == vcpus


def test_a_memory_limit_leaves_room_for_the_guests_own():
    assert sized({"memory": {"limit": 1024 * MIB}}).memory == 1024 * MIB + GUEST_MEMORY


def test_a_small_or_missing_memory_limit_makes_no_machine_smaller_than_the_default():
    for limit in (1, 64 * MIB, 0, -1):
        assert sized({"memory": {"limit": limit}}).memory == 512 * MIB


def test_memory_comes_in_steps_that_the_guest_can_use():
    assert sized({"memory": {"limit": 1000 * MIB + 1}}).memory == 1000 * MIB + 4 * MIB + GUEST_MEMORY


def test_limits_beyond_what_is_allowed_get_what_is_allowed():
    assert sized({"memory": {"limit": 1 << 60}, "cpu": {"quota": 1 << 40}}) == Size(8, 8192 * MIB)


def test_vm_hw_config_decides():
    limits = {"memory": {"limit": 4096 * MIB}, "cpu": {"quota": 400_000}}
    assert sized(limits, {"vcpus": 2, "memory": 256 * MIB}) == Size(2, 256 * MIB)


@pytest.mark.parametrize(
    ("hardware", "path"),
    [
        ({"vcpus": 9}, "vm.hwConfig.vcpus"),
        ({"memory": 9 << 30}, "vm.hwConfig.memory"),
        ({"memory": MIB}, "vm.hwConfig"),
    ],
)
def test_vm_hw_config_beyond_what_is_allowed_is_refused_with_its_path(hardware, path):
    with pytest.raises(InvalidArgument, match=path):
        sized(hardware=hardware)


@pytest.mark.parametrize("value", [0, -1, True, "2", 1.5, None])
def test_a_setting_that_is_no_positive_number_is_refused(value):
    with pytest.raises(InvalidArgument, match=r"backends\.microvm\.vcpus"):
        sized(settings={"vcpus": value})


@pytest.mark.parametrize(
    ("size", "expected"),
    [
        (Size(1, 512 * MIB), Size(1, 512 * MIB)),
        (Size(3, 640 * MIB), Size(2, 512 * MIB)),
        (Size(4, 4095 * MIB), Size(4, 2048 * MIB)),
        (Size(1, 128 * MIB), Size(1, 128 * MIB)),
    ],
)
def test_a_size_class_is_the_next_lower_power_of_two(size, expected):
    assert size_class(size) == expected


def test_a_machine_can_grow_to_all_of_the_host_unless_the_settings_say_less():
    assert most_size({}).vcpus >= 1
    assert most_size({}).memory % (1024 * MIB) == 0
    assert most_size(ROOMY) == Size(8, 8192 * MIB)
