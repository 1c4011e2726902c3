"""OCI resources to properties of a systemd unit: pure functions.

Sources: systemd.resource-control(5), org.freedesktop.systemd1(5). `CPUQuotaPeriodUSec` is systemd 242, `AllowedCPUs`
244, a `CPUWeight` of zero for idle 252.
"""

from __future__ import annotations

from pysandbox.cgroup.devices import ANY, device_policy
from pysandbox.cgroup.resources import DEFAULT_PERIOD, cpu_weight, swap_limit
from pysandbox.cgroup.stats import ranges
from pysandbox.errors import InvalidArgument

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping
    from typing import Any

    from pysandbox.cgroup.devices import Device
    from pysandbox.oci.types import Resources

    Property = tuple[str, tuple[str, Any]]

#: No limit, in every property that is a number.
INFINITY = (1 << 64) - 1

_UNIFIED = {
    "memory.high": "MemoryHigh",
    "memory.low": "MemoryLow",
    "memory.min": "MemoryMin",
    "memory.max": "MemoryMax",
    "memory.swap.max": "MemorySwapMax",
    "pids.max": "TasksMax",
    "cpu.weight": "CPUWeight",
}


def scope_properties(slice_: str, container_id: str, pid: int, version: int) -> list[Property]:
    """Return what every container's scope has. `version` is that of cgroups."""
    io = "IOAccounting" if version == 2 else "BlockIOAccounting"
    return [
        ("Description", ("s", f"pysandbox container {container_id}")),
        ("Slice", ("s", slice_)),
        ("Delegate", ("b", True)),
        ("PIDs", ("au", [pid])),
        ("MemoryAccounting", ("b", True)),
        ("CPUAccounting", ("b", True)),
        (io, ("b", True)),
        ("TasksAccounting", ("b", True)),
        ("DefaultDependencies", ("b", False)),
    ]


def resource_properties(resources: Resources, version: int, *, systemd: int) -> list[Property]:
    """Return the limits that systemd should know. What its version cannot do, the cgroup's files do alone."""
    properties = list(_memory(resources.get("memory") or {}, version))
    properties += _cpu(resources.get("cpu") or {}, version, systemd)
    limit = (resources.get("pids") or {}).get("limit")
    if limit is not None:
        properties.append(("TasksMax", ("t", _number(limit or 1))))  # systemd refuses 0
    weight = (resources.get("blockIO") or {}).get("weight")
    if weight and version == 1:
        properties.append(("BlockIOWeight", ("t", weight)))
    if version == 2:
        properties += _unified(resources.get("unified") or {}, systemd)
    if resources.get("devices") is not None:
        properties += _devices(resources["devices"])
    return properties


def _memory(memory: Mapping[str, Any], version: int) -> Iterator[Property]:
    limit = memory.get("limit") or 0
    if limit:
        yield "MemoryLimit" if version == 1 else "MemoryMax", ("t", _number(limit))
    if version == 1:
        return
    if memory.get("reservation"):
        yield "MemoryLow", ("t", _number(memory["reservation"]))
    swap = swap_limit(limit, memory.get("swap") or 0)
    if swap is not None:
        yield "MemorySwapMax", ("t", INFINITY if swap == "max" else int(swap))


def _cpu(cpu: Mapping[str, Any], version: int, systemd: int) -> Iterator[Property]:
    idle = version == 2 and cpu.get("idle") == 1 and systemd >= 252
    if idle:
        yield "CPUWeight", ("t", 0)
    if cpu.get("shares") and version == 1:
        yield "CPUShares", ("t", cpu["shares"])
    elif cpu.get("shares") and not idle:
        yield "CPUWeight", ("t", cpu_weight(cpu["shares"]))
    yield from quota_properties(cpu.get("quota") or 0, cpu.get("period") or 0, systemd)
    for key, name in (("cpus", "AllowedCPUs"), ("mems", "AllowedMemoryNodes")):
        if cpu.get(key):
            bits = bit_mask(cpu[key], f"linux.resources.cpu.{key}")
            if systemd >= 244:
                yield name, ("ay", bits)


def quota_properties(quota: int, period: int, systemd: int) -> Iterator[Property]:
    """Return quota and period, both in microseconds. systemd counts in hundredths of a CPU: rounded up."""
    if period and systemd >= 242:
        yield "CPUQuotaPeriodUSec", ("t", period)
    if quota or period:
        per_second = INFINITY
        if quota > 0:
            per_second = -(-(quota * 1_000_000 // (period or DEFAULT_PERIOD)) // 10_000) * 10_000
        yield "CPUQuotaPerSecUSec", ("t", per_second)


def bit_mask(text: str, path: str) -> bytes:
    """Turn `0-2,7` into bytes, lowest first, as systemd wants a set of CPUs."""
    try:
        numbers = ranges(text)
    except ValueError:
        raise InvalidArgument(f'{path}: "{text}" is not a list of numbers and ranges') from None
    mask = bytearray(max(numbers, default=0) // 8 + 1)
    for number in numbers:
        mask[number // 8] |= 1 << number % 8
    return bytes(mask)


def _unified(unified: Mapping[str, str], systemd: int) -> Iterator[Property]:
    for key, text in unified.items():
        path, value = f'linux.resources.unified["{key}"]', text.strip()
        if key == "cpu.max":
            quota, _, period = value.partition(" ")
            yield from quota_properties(
                0 if quota == "max" else _parse(quota, path), _parse(period or str(DEFAULT_PERIOD), path), systemd
            )
        elif key in ("cpuset.cpus", "cpuset.mems") and systemd >= 244:
            yield "AllowedCPUs" if key == "cpuset.cpus" else "AllowedMemoryNodes", ("ay", bit_mask(value, path))
        elif key == "memory.oom.group" and value in ("0", "1"):
            yield "OOMPolicy", ("s", "kill" if value == "1" else "continue")
        elif key in _UNIFIED:
            yield _UNIFIED[key], ("t", INFINITY if value == "max" else _parse(value, path))


def _parse(value: str, path: str) -> int:
    if not (value.isascii() and value.isdigit()):
        raise InvalidArgument(f'{path}: "{value}" is not a number')
    return int(value)


def _devices(rules: Any) -> list[Property]:
    """Let systemd agree with the device rules: otherwise it resets them on v1 with every daemon-reload."""
    policy = device_policy(rules)
    if policy.allow:
        return [("DevicePolicy", ("s", "auto")), ("DeviceAllow", ("a(ss)", []))]  # an empty list clears it
    names = {device: _device_name(device) for device in policy.exceptions}
    allowed = [(names[device], access) for device, access in policy.exceptions.items() if names[device]]
    return [
        ("DevicePolicy", ("s", "strict")),
        ("DeviceAllow", ("a(ss)", [])),  # clears it: any other list is appended
        ("DeviceAllow", ("a(ss)", allowed)),
    ]


def _device_name(device: Device) -> str:
    """Return how systemd calls a device or a group of them; empty for what it cannot name."""
    kind, major, minor = device
    word = "char" if kind == "c" else "block"
    if major == ANY:
        return f"{word}-*" if minor == ANY else ""
    if minor != ANY:
        return f"/dev/{word}/{major}:{minor}"
    group = _groups(kind).get(major)
    return f"{word}-{group}" if group else ""


def _groups(kind: str) -> dict[int, str]:
    """Return the names of the majors, from /proc/devices (proc(5))."""
    with open("/proc/devices", encoding="utf-8") as file:
        text = file.read()
    characters, _, blocks = text.partition("Block devices:")
    lines = (characters if kind == "c" else blocks).splitlines()
    pairs = (line.split() for line in lines)
    return {int(pair[0]): pair[1] for pair in pairs if len(pair) == 2 and pair[0].isdigit()}


def _number(value: int) -> int:
    return INFINITY if value < 0 else value
