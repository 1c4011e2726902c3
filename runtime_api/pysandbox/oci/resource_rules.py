"""What a cgroup's limits may say: config.json's `linux.resources`, and the file of `update --resources`."""

from __future__ import annotations

from pysandbox.oci.document import quote
from pysandbox.oci.schema import (
    INT64,
    UINT32,
    UINT64,
    Array,
    Bad,
    Choice,
    Integer,
    Object,
    Table,
    boolean,
    filled,
    int64,
    string,
    uint32,
    uint64,
)

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

    from pysandbox.oci.schema import Shape
    from pysandbox.oci.types import Cpu, Memory, Rdma, WeightDevice

_limit = Integer(-1, INT64)
_node = Integer(0, UINT32)


def interface_name(value: Any) -> None:
    """A network device's name as dev_valid_name() of the kernel takes it: at most 15 bytes, no '/', ':' or space."""
    filled(value)
    if len(value.encode(errors="surrogateescape")) > 15:
        raise Bad(f"network device name {quote(value)} is longer than 15 bytes")
    if value in {".", ".."} or "/" in value or ":" in value or any(c.isspace() or c < " " for c in value):
        raise Bad(f"invalid network device name {quote(value)}")


def _access(value: Any) -> None:
    """Letters without a meaning are passed over, as in runc; where no other is left, there is no rule."""
    filled(value)
    if not set(value) & set("rwm"):
        raise Bad(f"must consist of r, w and m, not {quote(value)}")


def _swappiness(value: Any) -> None:
    # 2**64-1: -1 as Go's uint64, which old clients write for "unset"
    if value != UINT64 or type(value) is not int:
        Integer(0, 100)(value)


def _memory(memory: Memory) -> None:
    limit, swap = memory.get("limit", 0), memory.get("swap", 0)
    if limit > 0 and 0 < swap < limit:
        raise Bad(f"memory+swap limit {swap} should be >= memory limit {limit}", "swap")


def _set_of_numbers(value: Any) -> None:
    """A list as cpuset takes it, which the kernel parses. Here only what could be more than one line is refused."""
    string(value)
    if value.strip("0123456789,-:/ "):
        raise Bad(f"invalid list {quote(value)}")


def _cpu(cpu: Cpu) -> None:
    if 0 < cpu.get("quota", 0) < cpu.get("burst", 0):
        raise Bad(f"must not exceed the quota {cpu['quota']}, but is {cpu['burst']}", "burst")


def _weight(value: Any) -> None:
    if value != 0 or type(value) is not int:  # 0 is unset
        Integer(10, 1000)(value)


def _weight_device(device: WeightDevice) -> None:
    if "weight" not in device and "leafWeight" not in device:
        raise Bad("needs weight or leafWeight")


def _page_size(value: Any) -> None:
    """Refuse anything but "64KB", "2MB", "1GB": it becomes part of a file's name."""
    string(value)
    digits = value[:-2]
    if value[-2:] not in {"KB", "MB", "GB"} or not (digits.isascii() and digits.isdigit()) or digits[0] == "0":
        raise Bad(f"must be like 64KB, 2MB or 1GB, not {quote(value)}")


def _device_name(value: Any) -> None:
    filled(value)
    if any(c.isspace() or c in "/=" for c in value):
        raise Bad("invalid rdma device name")


def _rdma(rdma: Rdma) -> None:
    if "hcaHandles" not in rdma and "hcaObjects" not in rdma:
        raise Bad("needs hcaHandles or hcaObjects")


def _unified_key(value: Any) -> None:
    string(value)
    if "/" in value:
        raise Bad(f"unified resource {quote(value)} must be a file name (no slashes)")
    controller, dot, parameter = value.partition(".")
    if not (controller and dot and parameter) or not value.isprintable() or ".." in value:
        raise Bad(f"unified resource {quote(value)} must be in the form CONTROLLER.PARAMETER")


def _throttle() -> Shape:
    return Array(Object({"major": _node, "minor": _node, "rate": uint64}, ("major", "minor", "rate")))


_MEMORY = Object(
    {
        "limit": _limit,
        "reservation": _limit,
        "swap": _limit,
        "kernel": _limit,
        "kernelTCP": _limit,
        "swappiness": _swappiness,
        "disableOOMKiller": boolean,
        "useHierarchy": boolean,
        "checkBeforeUpdate": boolean,
    },
    rule=_memory,
)

_CPU = Object(
    {
        "shares": uint64,
        "quota": int64,
        "burst": uint64,
        "period": uint64,
        "realtimeRuntime": int64,
        "realtimePeriod": uint64,
        "cpus": _set_of_numbers,
        "mems": _set_of_numbers,
        "idle": Integer(0, 1),
    },
    rule=_cpu,
)

_BLOCK_IO = Object(
    {
        "weight": _weight,
        "leafWeight": _weight,
        "weightDevice": Array(
            Object(
                {"major": _node, "minor": _node, "weight": _weight, "leafWeight": _weight},
                ("major", "minor"),
                rule=_weight_device,
            )
        ),
        "throttleReadBpsDevice": _throttle(),
        "throttleWriteBpsDevice": _throttle(),
        "throttleReadIOPSDevice": _throttle(),
        "throttleWriteIOPSDevice": _throttle(),
    }
)

#: The shape of a resources object.
RESOURCES = Object(
    {
        "devices": Array(
            Object(
                {
                    "allow": boolean,
                    "type": Choice("cgroup device type", ("", "a", "b", "c")),
                    "major": Integer(-1, UINT32),
                    "minor": Integer(-1, UINT32),
                    "access": _access,
                },
                ("allow", "access"),
            )
        ),
        "memory": _MEMORY,
        "cpu": _CPU,
        "pids": Object({"limit": int64}),
        "blockIO": _BLOCK_IO,
        "hugepageLimits": Array(Object({"pageSize": _page_size, "limit": uint64}, ("pageSize", "limit"))),
        "network": Object(
            {
                "classID": uint32,
                "priorities": Array(Object({"name": interface_name, "priority": uint32}, ("name", "priority"))),
            }
        ),
        "rdma": Table(_device_name, Object({"hcaHandles": uint32, "hcaObjects": uint32}, rule=_rdma)),
        "unified": Table(_unified_key, string),
    }
)
