"""A container's usage as containerd's clients read it: metrics of a cgroup of version 1 or 2, whichever it is.

In: the document of `Container.stats`, in the shape of runc's `events --stats`, with the kernel's own names in `raw`.
"""

from __future__ import annotations

import os

from pysandbox.ttrpc.message import UINT64

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Mapping
    from typing import Any

    from pysandbox.ttrpc.message import Message

#: Fields of version 1's MemoryStat that the kernel calls otherwise.
_V1_NAMES = {
    "pg_pg_in": "pgpgin",
    "pg_pg_out": "pgpgout",
    "pg_fault": "pgfault",
    "pg_maj_fault": "pgmajfault",
    "hierarchical_swap_limit": "hierarchical_memsw_limit",
    "total_pg_pg_in": "total_pgpgin",
    "total_pg_pg_out": "total_pgpgout",
    "total_pg_fault": "total_pgfault",
    "total_pg_maj_fault": "total_pgmajfault",
}
_V1_BLKIO = {
    "io_service_bytes_recursive": "ioServiceBytesRecursive",
    "io_serviced_recursive": "ioServicedRecursive",
    "io_queued_recursive": "ioQueueRecursive",
    "io_service_time_recursive": "ioServiceTimeRecursive",
    "io_wait_time_recursive": "ioWaitTimeRecursive",
    "io_merged_recursive": "ioMergedRecursive",
    "io_time_recursive": "ioTimeRecursive",
    "sectors_recursive": "sectorsRecursive",
}
_V2_IO = {("ioServiceBytesRecursive", "Read"): "rbytes", ("ioServiceBytesRecursive", "Write"): "wbytes"}
_V2_IO |= {("ioServicedRecursive", "Read"): "rios", ("ioServicedRecursive", "Write"): "wios"}


def unified() -> bool:
    """Say whether the host has only cgroups of version 2 (cgroups(7))."""
    return os.path.exists("/sys/fs/cgroup/cgroup.controllers")


def metrics(stats: Mapping[str, Any], *, version: int) -> Message:
    """Return io.containerd.cgroups.v1.Metrics or io.containerd.cgroups.v2.Metrics."""
    return _v2(stats) if version == 2 else _v1(stats)


def _named(kind: type[Message], raw: Mapping[str, int], names: Mapping[str, str] | None = None) -> dict[str, int]:
    """Return the numbers among a message's fields that the kernel tells, by its names."""
    fields = [field[1] for field in kind.FIELDS if field[2] == UINT64]
    found = {name: raw.get((names or {}).get(name, name)) for name in fields}
    return {name: value for name, value in found.items() if isinstance(value, int)}


def _v1(stats: Mapping[str, Any]) -> Message:
    from pysandbox.shim.messages import cgroups_v1 as v1

    cpu, memory, pids = stats["cpu"], stats["memory"], stats["pids"]
    usage, throttling = cpu["usage"], cpu["throttling"]
    return v1.Metrics(
        hugetlb=[
            v1.HugetlbStat(usage=each.get("usage", 0), max=each.get("max", 0), failcnt=each["failcnt"], pagesize=size)
            for size, each in stats["hugetlb"].items()
        ],
        pids=v1.PidsStat(current=pids.get("current", 0), limit=pids.get("limit", 0)),
        cpu=v1.CPUStat(
            usage=v1.CPUUsage(
                total=usage.get("total", 0), kernel=usage["kernel"], user=usage["user"], per_cpu=usage.get("percpu", [])
            ),
            throttling=v1.Throttle(
                periods=throttling.get("periods", 0),
                throttled_periods=throttling.get("throttledPeriods", 0),
                throttled_time=throttling.get("throttledTime", 0),
            ),
        ),
        memory=_v1_memory(memory),
        blkio=v1.BlkIOStat(**{name: _v1_entries(stats["blkio"].get(key, ())) for name, key in _V1_BLKIO.items()}),
    )


def _v1_memory(memory: Mapping[str, Any]) -> Any:
    from pysandbox.shim.messages import cgroups_v1 as v1

    def entry(name: str) -> v1.MemoryEntry:
        values = memory[name]
        return v1.MemoryEntry(**{key: values.get(key, 0) for key in ("limit", "usage", "max", "failcnt")})

    stat = v1.MemoryStat(
        usage=entry("usage"), swap=entry("swap"), kernel=entry("kernel"), kernel_tcp=entry("kernelTCP")
    )
    for name, value in _named(v1.MemoryStat, memory.get("raw", {}), _V1_NAMES).items():
        setattr(stat, name, value)
    return stat


def _v1_entries(entries: Any) -> list[Any]:
    from pysandbox.shim.messages import cgroups_v1 as v1

    return [
        v1.BlkIOEntry(
            op=each.get("op", ""), major=each.get("major", 0), minor=each.get("minor", 0), value=each.get("value", 0)
        )
        for each in entries
    ]


def _v2(stats: Mapping[str, Any]) -> Message:
    from pysandbox.shim.messages import cgroups_v2 as v2

    cpu, memory, pids = stats["cpu"], stats["memory"], stats["pids"]
    usage, throttling = cpu["usage"], cpu["throttling"]
    # In the document swap is memory and swap together, as version 1 counts it.
    used, both = memory["usage"], memory["swap"]
    stat = v2.MemoryStat(
        usage=used.get("usage", 0),
        usage_limit=used["limit"],
        max_usage=used.get("max", 0),
        swap_usage=max(0, both.get("usage", 0) - used.get("usage", 0)),
        swap_limit=max(0, both["limit"] - used["limit"]) if both["limit"] < 2**64 - 1 else both["limit"],
    )
    for name, value in _named(v2.MemoryStat, memory.get("raw", {})).items():
        setattr(stat, name, value)
    return v2.Metrics(
        pids=v2.PidsStat(current=pids.get("current", 0), limit=pids.get("limit", 0)),
        cpu=v2.CPUStat(
            usage_usec=usage.get("total", 0) // 1000,
            user_usec=usage["user"] // 1000,
            system_usec=usage["kernel"] // 1000,
            nr_periods=throttling.get("periods", 0),
            nr_throttled=throttling.get("throttledPeriods", 0),
            throttled_usec=throttling.get("throttledTime", 0) // 1000,
        ),
        memory=stat,
        io=v2.IOStat(usage=_v2_entries(stats["blkio"])),
        hugetlb=[
            v2.HugeTlbStat(current=each.get("usage", 0), pagesize=size) for size, each in stats["hugetlb"].items()
        ],
        memory_events=v2.MemoryEvents(**_named(v2.MemoryEvents, memory["event_count"])),
    )


def _v2_entries(blkio: Mapping[str, Any]) -> list[Any]:
    from pysandbox.shim.messages import cgroups_v2 as v2

    devices: dict[tuple[int, int], Any] = {}
    for (key, operation), name in _V2_IO.items():
        for each in blkio.get(key, ()):
            device = (each.get("major", 0), each.get("minor", 0))
            entry = devices.setdefault(device, v2.IOEntry(major=device[0], minor=device[1]))
            if each.get("op") == operation:
                setattr(entry, name, each.get("value", 0))
    return list(devices.values())
