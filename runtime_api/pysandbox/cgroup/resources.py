"""OCI `linux.resources` to writes into the files of a cgroup: pure functions, for v1 and for v2.

Zero means "not set" for the numbers where runc takes it so. Devices are in `devices.py`. What has no counterpart is
listed by `ignored`, for the caller to log. v1 limits become v2 ones as crun(1) documents it.

Sources: runtime-spec config-linux.md, the kernel's admin-guide/cgroup-v1/*.rst and admin-guide/cgroup-v2.rst.
"""

from __future__ import annotations

from pysandbox.errors import InvalidArgument
from pysandbox.record import dataclass

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping
    from typing import Any

    from pysandbox.oci.types import Resources

_ROOT = "linux.resources"

#: The kernel's default length of a period, in microseconds, for both versions.
DEFAULT_PERIOD = 100_000


@dataclass(frozen=True, slots=True)
class Write:
    """One value for one file of one controller, and the JSON path that asks for it.

    `again`: when the kernel says EINVAL, try once more after the controller's other writes. Period, quota, burst and
    their realtime kin depend on each other, so an order that always works does not exist. `optional`: the file may be
    missing, as the value is what the kernel does without it.
    """

    controller: str
    file: str
    value: str
    path: str
    again: bool = False
    optional: bool = False


@dataclass(frozen=True, slots=True)
class Knobs:
    """What the pure functions must know of the cgroup at hand.

    `memory_limit`: the v1 limit now, in bytes (None: unlimited). `swap`: swap is accounted for. `bfq`: weights are
    BFQ's (v1: `blkio.bfq.weight`, v2: `io.bfq.weight`).
    """

    memory_limit: int | None = None
    swap: bool = True
    bfq: bool = False


# --- v1 ---------------------------------------------------------------------------------------------------------------


def v1_writes(resources: Resources, knobs: Knobs) -> list[Write]:
    """Return the writes for v1, in an order that the kernel accepts. Raises InvalidArgument for `unified`."""
    if resources.get("unified"):
        raise InvalidArgument(f"{_ROOT}.unified: invalid configuration: cannot use unified resources on cgroup v1")
    return [
        *_v1_cpuset(resources.get("cpu") or {}),
        *_v1_memory(resources.get("memory") or {}, knobs),
        *_v1_cpu(resources.get("cpu") or {}),
        *_v1_pids(resources.get("pids") or {}),
        *_v1_blkio(resources.get("blockIO") or {}, knobs),
        *_v1_hugetlb(resources.get("hugepageLimits") or ()),
        *_v1_network(resources.get("network") or {}),
        *_rdma(resources.get("rdma") or {}),
    ]


def _v1_cpuset(cpu: Mapping[str, Any]) -> Iterator[Write]:
    for key, file in (("cpus", "cpuset.cpus"), ("mems", "cpuset.mems")):
        if cpu.get(key):
            yield Write("cpuset", file, cpu[key], f"{_ROOT}.cpu.{key}")


def _v1_memory(memory: Mapping[str, Any], knobs: Knobs) -> Iterator[Write]:
    limit, swap = memory.get("limit") or 0, memory.get("swap") or 0
    if limit == -1 and not swap and knobs.swap:
        swap = -1  # no limit on memory means none on memory and swap together
    writes = []
    if limit:
        writes.append(Write("memory", "memory.limit_in_bytes", str(limit), f"{_ROOT}.memory.limit"))
    if swap:
        write = Write("memory", "memory.memsw.limit_in_bytes", str(swap), f"{_ROOT}.memory.swap")
        # The kernel keeps limit <= memsw at every moment: when both grow, memsw goes first, when both shrink, last.
        grows = knobs.memory_limit is not None and (swap == -1 or swap > knobs.memory_limit)
        writes.insert(0 if grows else len(writes), write)
    yield from writes
    if memory.get("reservation"):
        value = str(memory["reservation"])
        yield Write("memory", "memory.soft_limit_in_bytes", value, f"{_ROOT}.memory.reservation")
    if memory.get("disableOOMKiller"):
        yield Write("memory", "memory.oom_control", "1", f"{_ROOT}.memory.disableOOMKiller")
    if memory.get("swappiness") is not None:
        yield Write("memory", "memory.swappiness", _swappiness(memory["swappiness"]), f"{_ROOT}.memory.swappiness")


def _swappiness(value: int) -> str:
    if not 0 <= value <= 100:
        raise InvalidArgument(f"{_ROOT}.memory.swappiness: invalid value: {value}, valid range is 0-100")
    return str(value)


def _v1_cpu(cpu: Mapping[str, Any]) -> Iterator[Write]:
    _check_shares(cpu.get("shares") or 0)
    for key, file in (
        ("realtimePeriod", "cpu.rt_period_us"),
        ("realtimeRuntime", "cpu.rt_runtime_us"),
        ("shares", "cpu.shares"),
        ("period", "cpu.cfs_period_us"),
        ("quota", "cpu.cfs_quota_us"),
    ):
        if cpu.get(key):
            yield Write("cpu", file, str(cpu[key]), f"{_ROOT}.cpu.{key}", again=key not in ("shares", "quota"))
    for key, file in (("burst", "cpu.cfs_burst_us"), ("idle", "cpu.idle")):
        if cpu.get(key) is not None:
            yield Write("cpu", file, str(cpu[key]), f"{_ROOT}.cpu.{key}", again=key == "burst", optional=not cpu[key])


def _check_shares(shares: int) -> None:
    """Refuse what the kernel would silently change."""
    if shares > 262144:
        raise InvalidArgument(f"{_ROOT}.cpu.shares: the maximum allowed cpu-shares is 262144")
    if shares == 1 or shares < 0:
        raise InvalidArgument(f"{_ROOT}.cpu.shares: the minimum allowed cpu-shares is 2")


def _v1_pids(pids: Mapping[str, Any]) -> Iterator[Write]:
    limit = pids.get("limit")
    if limit is not None:
        yield Write("pids", "pids.max", pids_max(limit), f"{_ROOT}.pids.limit")


def pids_max(limit: int) -> str:
    """Return a limit of processes as the kernel takes it. 0 counts as 1, as under runc: init is one already."""
    return "max" if limit < 0 else str(max(limit, 1))


_THROTTLES = (
    ("throttleReadBpsDevice", "read_bps_device", "rbps"),
    ("throttleWriteBpsDevice", "write_bps_device", "wbps"),
    ("throttleReadIOPSDevice", "read_iops_device", "riops"),
    ("throttleWriteIOPSDevice", "write_iops_device", "wiops"),
)


def _v1_blkio(blkio: Mapping[str, Any], knobs: Knobs) -> Iterator[Write]:
    prefix = "blkio.bfq." if knobs.bfq else "blkio."
    path = f"{_ROOT}.blockIO"
    if blkio.get("weight"):
        yield Write("blkio", prefix + "weight", str(blkio["weight"]), f"{path}.weight")
    if blkio.get("leafWeight"):
        yield Write("blkio", "blkio.leaf_weight", str(blkio["leafWeight"]), f"{path}.leafWeight")
    for index, device in enumerate(blkio.get("weightDevice") or ()):
        for key, file in (("weight", prefix + "weight_device"), ("leafWeight", "blkio.leaf_weight_device")):
            if device.get(key):
                value = f"{_numbers(device)} {device[key]}"
                yield Write("blkio", file, value, f"{path}.weightDevice[{index}].{key}")
    for key, file, _ in _THROTTLES:
        for index, device in enumerate(blkio.get(key) or ()):
            value = f"{_numbers(device)} {device['rate']}"
            yield Write("blkio", f"blkio.throttle.{file}", value, f"{path}.{key}[{index}].rate")


def _numbers(device: Mapping[str, Any]) -> str:
    return f"{device['major']}:{device['minor']}"


def _v1_hugetlb(limits: Any) -> Iterator[Write]:
    for index, limit in enumerate(limits):
        path = f"{_ROOT}.hugepageLimits[{index}]"
        size = page_size(limit["pageSize"], path)
        yield Write("hugetlb", f"hugetlb.{size}.limit_in_bytes", str(limit["limit"]), f"{path}.limit")
        # Reserved pages count from the moment of mmap(2) (Linux 5.7); without this limit a container can hold them all.
        file = f"hugetlb.{size}.rsvd.limit_in_bytes"
        yield Write("hugetlb", file, str(limit["limit"]), f"{path}.limit", optional=True)


def page_size(size: str, path: str) -> str:
    """Check a page size, which becomes part of a file's name: digits, then KB, MB or GB."""
    if not (size[:-2].isascii() and size[:-2].isdigit() and size[-2:] in ("KB", "MB", "GB")):
        raise InvalidArgument(f'{path}.pageSize: "{size}" is not a number followed by KB, MB or GB')
    return size


def _v1_network(network: Mapping[str, Any]) -> Iterator[Write]:
    if network.get("classID"):
        yield Write("net_cls", "net_cls.classid", str(network["classID"]), f"{_ROOT}.network.classID")
    for index, priority in enumerate(network.get("priorities") or ()):
        value = f"{priority['name']} {priority['priority']}"
        yield Write("net_prio", "net_prio.ifpriomap", value, f"{_ROOT}.network.priorities[{index}]")


def _rdma(rdma: Mapping[str, Any]) -> Iterator[Write]:
    for device, limits in rdma.items():
        words = [device]
        for key, word in (("hcaHandles", "hca_handle"), ("hcaObjects", "hca_object")):
            if limits.get(key) is not None:
                words.append(f"{word}={limits[key]}")
        yield Write("rdma", "rdma.max", " ".join(words), f"{_ROOT}.rdma.{device}")


# --- v2 ---------------------------------------------------------------------------------------------------------------


def v2_writes(resources: Resources, knobs: Knobs) -> list[Write]:
    """Return the writes for v2, in runc's order. Raises InvalidArgument for limits that contradict each other."""
    return [
        *_v1_pids(resources.get("pids") or {}),
        *_v2_memory(resources.get("memory") or {}),
        *_v2_io(resources.get("blockIO") or {}, knobs),
        *_v2_cpu(resources.get("cpu") or {}),
        *_v1_cpuset(resources.get("cpu") or {}),
        *_v2_hugetlb(resources.get("hugepageLimits") or ()),
        *_rdma(resources.get("rdma") or {}),
        *_unified(resources.get("unified") or {}),
    ]


def _v2_memory(memory: Mapping[str, Any]) -> Iterator[Write]:
    limit, swap = memory.get("limit") or 0, memory.get("swap") or 0
    swap_max = swap_limit(limit, swap)
    if swap_max is not None:
        # Without swap accounting there is no file, and none is needed for "as much as there is" or "none at all".
        absent = swap_max in ("max", "0")
        yield Write("memory", "memory.swap.max", swap_max, f"{_ROOT}.memory.swap", optional=absent)
    if limit:
        yield Write("memory", "memory.max", _or_max(limit), f"{_ROOT}.memory.limit")
    if memory.get("reservation"):
        yield Write("memory", "memory.low", _or_max(memory["reservation"]), f"{_ROOT}.memory.reservation")


def swap_limit(limit: int, swap: int) -> str | None:
    """Return `memory.swap.max` for a v1 pair: v1 limits memory and swap together, v2 swap alone. None: leave it."""
    if limit == -1 and swap == 0:
        return "max"
    if swap == 0:
        return None
    if swap == -1:
        return "max"
    if limit <= 0:
        raise InvalidArgument(f"{_ROOT}.memory.swap: unable to set swap limit without memory limit")
    if swap < limit:
        raise InvalidArgument(f"{_ROOT}.memory.swap: memory+swap limit should be >= memory limit")
    return str(swap - limit)


def _or_max(value: int) -> str:
    return "max" if value < 0 else str(value)


def _v2_io(blkio: Mapping[str, Any], knobs: Knobs) -> Iterator[Write]:
    path = f"{_ROOT}.blockIO"
    if blkio.get("weight"):
        file, value = ("io.bfq.weight", blkio["weight"]) if knobs.bfq else ("io.weight", io_weight(blkio["weight"]))
        yield Write("io", file, str(value), f"{path}.weight")
    for index, device in enumerate(blkio.get("weightDevice") or ()):
        if device.get("weight"):
            weight = device["weight"] if knobs.bfq else io_weight(device["weight"])
            file = "io.bfq.weight" if knobs.bfq else "io.weight"
            yield Write("io", file, f"{_numbers(device)} {weight}", f"{path}.weightDevice[{index}].weight")
    for key, _, word in _THROTTLES:
        for index, device in enumerate(blkio.get(key) or ()):
            value = f"{_numbers(device)} {word}={device['rate'] or 'max'}"
            yield Write("io", "io.max", value, f"{path}.{key}[{index}].rate")


def io_weight(weight: int) -> int:
    """Turn a blkio weight (10 to 1000) into an `io.weight` (1 to 10000), linearly."""
    return 1 + (weight - 10) * 9999 // 990


def _v2_cpu(cpu: Mapping[str, Any]) -> Iterator[Write]:
    if cpu.get("idle") is not None:
        yield Write("cpu", "cpu.idle", str(cpu["idle"]), f"{_ROOT}.cpu.idle", optional=not cpu["idle"])
    if cpu.get("shares"):
        yield Write("cpu", "cpu.weight", str(cpu_weight(cpu["shares"])), f"{_ROOT}.cpu.shares")
    if cpu.get("burst") is not None:
        burst = cpu["burst"]
        yield Write("cpu", "cpu.max.burst", str(burst), f"{_ROOT}.cpu.burst", again=True, optional=not burst)
    quota, period = cpu.get("quota") or 0, cpu.get("period") or 0
    if quota or period:
        value = str(quota) if quota > 0 else "max"
        key = "quota" if quota else "period"
        yield Write("cpu", "cpu.max", f"{value} {period or DEFAULT_PERIOD}", f"{_ROOT}.cpu.{key}")


def cpu_weight(shares: int) -> int:
    """Turn `cpu.shares` (2 to 262144, default 1024) into `cpu.weight` (1 to 10000, default 100), as crun(1) has it.

    The curve meets both ends and the default: 10 ^ ((log2(shares)^2 + 125 log2(shares)) / 612 - 7/34), rounded up.
    """
    if shares <= 2:
        return 1
    if shares >= 262144:
        return 10000
    import math

    logarithm = math.log2(shares)
    return math.ceil(10 ** ((logarithm * logarithm + 125 * logarithm) / 612 - 7 / 34))


def _v2_hugetlb(limits: Any) -> Iterator[Write]:
    for index, limit in enumerate(limits):
        path = f"{_ROOT}.hugepageLimits[{index}]"
        size = page_size(limit["pageSize"], path)
        yield Write("hugetlb", f"hugetlb.{size}.max", str(limit["limit"]), f"{path}.limit")
        yield Write("hugetlb", f"hugetlb.{size}.rsvd.max", str(limit["limit"]), f"{path}.limit", optional=True)


def _unified(unified: Mapping[str, str]) -> Iterator[Write]:
    for key, text in unified.items():
        path = f"{_ROOT}.unified"
        if "/" in key or "\0" in key:
            raise InvalidArgument(f'{path}: unified resource "{key}" must be a file name (no slashes)')
        controller, dot, parameter = key.partition(".")
        if not (controller and dot and parameter):
            raise InvalidArgument(f'{path}: unified resource "{key}" must be in the form CONTROLLER.PARAMETER')
        if key in ("cgroup.procs", "cgroup.threads", "cgroup.kill", "cgroup.freeze", "cgroup.type"):
            raise InvalidArgument(f'{path}: unified resource "{key}" is not a limit')
        for line in text.splitlines() or [""]:
            yield Write(controller, key, line, f'{path}["{key}"]')


# --- both -------------------------------------------------------------------------------------------------------------


def usage_problem(memory: Mapping[str, Any], usage: int) -> str | None:
    """Say why new limits would kill at once, when `checkBeforeUpdate` asks to be told. `usage` in bytes."""
    if not memory.get("checkBeforeUpdate"):
        return None
    for key, what in (("swap", "memory+swap limit"), ("limit", "memory limit")):
        limit = memory.get(key) or 0
        if 0 < limit <= usage:
            return f"{_ROOT}.memory.{key}: rejecting {what} {limit} <= usage {usage}"
    return None


def ignored(resources: Resources, version: int) -> list[str]:
    """Return the JSON paths of what was asked for and cannot be given on cgroups of this version."""
    absent = ["memory.kernel", "memory.kernelTCP"]
    if version == 2:
        absent += ["memory.swappiness", "memory.disableOOMKiller", "blockIO.leafWeight", "cpu.realtimeRuntime"]
        absent += ["cpu.realtimePeriod", "network.classID", "network.priorities"]
    sections: Mapping[str, Any] = resources
    found = [path for path in absent if _member(sections, path)]
    if _member(sections, "memory.useHierarchy") is False:
        found.append("memory.useHierarchy")  # memory has had no other way since Linux 5.11
    if version == 2 and any(device.get("leafWeight") for device in _member(sections, "blockIO.weightDevice") or ()):
        found.append("blockIO.weightDevice.leafWeight")
    return [f"{_ROOT}.{path}" for path in found]


def _member(sections: Mapping[str, Any], path: str) -> Any:
    section, key = path.split(".")
    return (sections.get(section) or {}).get(key)
