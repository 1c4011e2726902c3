"""How big a machine is: virtual processors and memory, from a spec's limits or its `vm.hwConfig`.

A machine starts as its size class, for which there is a template, and grows to its size by hot-plug.
"""

from __future__ import annotations

import os

from pysandbox.errors import InvalidArgument
from pysandbox.record import dataclass

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Mapping
    from typing import Any

    from pysandbox.oci.types import Cpu, Spec

MIB = 1024 * 1024
#: A machine's memory where neither spec nor settings say more.
DEFAULT_MEMORY = 512 * MIB
#: The least that kernel, agent and a small program run in, and the smallest size class.
LEAST_MEMORY = 128 * MIB
#: Bytes beyond a container's limit: its program is to meet its own limit, not the end of the machine's memory.
GUEST_MEMORY = 128 * MIB
#: Memory grows and shrinks in such steps: the guest brings less than this into use only in part (virtio-mem, x86).
MEMORY_STEP = 4 * MIB
#: CONFIG_NR_CPUS of the guest's kernel; more could be plugged but never be used.
MOST_VCPUS = 64


@dataclass(frozen=True, slots=True)
class Size:
    """`vcpus` virtual processors and `memory` bytes."""

    vcpus: int
    memory: int


def size_of(spec: Spec, settings: Mapping[str, Any]) -> Size:
    """Return the size that a spec asks for.

    `vm.hwConfig` decides; else the cpu quota (rounded up) or the number of cpus in its set, and the memory limit with
    room for the guest's own; else the settings `vcpus` and `memory` (MiB), else 1 and 512 MiB. A limit beyond what
    this host allows limits nothing, so the machine gets what is allowed. Raises InvalidArgument for a `vm.hwConfig`
    or settings beyond it.
    """
    wanted = spec.get("vm", {}).get("hwConfig", {})
    resources = spec.get("linux", {}).get("resources", {})
    most = most_size(settings)
    vcpus = wanted.get("vcpus") or min(_vcpus_of(resources.get("cpu", {}), settings), most.vcpus)
    memory = wanted.get("memory") or min(_memory_of(resources.get("memory", {}).get("limit"), settings), most.memory)
    _check(vcpus, 1, most.vcpus, "vm.hwConfig.vcpus", "")
    _check(memory, LEAST_MEMORY, most.memory, "vm.hwConfig.memory", " bytes")
    return Size(vcpus, _stepped(memory))


def size_class(size: Size) -> Size:
    """Return the class that a machine of this size starts as: of each the next lower power of two."""
    return Size(_floor(size.vcpus), max(_floor(size.memory), LEAST_MEMORY))


def most_size(settings: Mapping[str, Any]) -> Size:
    """Return the most that a machine can have or grow to: `max_vcpus`, `max_memory` (MiB), else all of the host."""
    vcpus = setting(settings, "max_vcpus", min(os.cpu_count() or 1, MOST_VCPUS), MOST_VCPUS)
    memory = setting(settings, "max_memory", _host_memory() // MIB, 1 << 24) * MIB
    return Size(vcpus, max(memory - memory % (1024 * MIB), 1024 * MIB))


def check_size(size: Size, settings: Mapping[str, Any]) -> None:
    """Raise InvalidArgument for a size that no machine of this host can have."""
    most = most_size(settings)
    _check(size.vcpus, 1, most.vcpus, "vcpus", "")
    _check(size.memory, LEAST_MEMORY, most.memory, "memory", " bytes")


def setting(settings: Mapping[str, Any], name: str, default: int, most: int) -> int:
    """Return a setting that is a positive number. Raises InvalidArgument."""
    value = settings.get(name, default)
    if not isinstance(value, int) or isinstance(value, bool) or not 1 <= value <= most:
        raise InvalidArgument(f"backends.microvm.{name}: must be a number from 1 to {most}, not {value!r}")
    return value


def _vcpus_of(cpu: Cpu, settings: Mapping[str, Any]) -> int:
    quota, period = cpu.get("quota") or 0, cpu.get("period") or 100_000
    if quota > 0:
        return -(-quota // period)
    if cpus := cpu.get("cpus"):
        return _count(cpus)
    return setting(settings, "vcpus", 1, MOST_VCPUS)


def _memory_of(limit: int | None, settings: Mapping[str, Any]) -> int:
    default = setting(settings, "memory", DEFAULT_MEMORY // MIB, 1 << 24) * MIB
    return max(limit + GUEST_MEMORY, default) if limit is not None and limit > 0 else default


def _count(cpus: str) -> int:
    """Count a list such as 0-3,7 (cpuset(7)); 1 for what is none: the cgroup will refuse that."""
    total = 0
    for part in cpus.split(","):
        first, _, last = part.strip().partition("-")
        if not (first + last).isdecimal() or len(part) > 20:
            return 1
        total += int(last or first) - int(first) + 1
    return max(total, 1)


def _check(value: int, least: int, most: int, where: str, unit: str) -> None:
    if not least <= value <= most:
        raise InvalidArgument(f"{where}: must be from {least} to {most}{unit}, not {value}")


def _stepped(memory: int) -> int:
    return -(-memory // MEMORY_STEP) * MEMORY_STEP


def _floor(number: int) -> int:
    return 1 << (number.bit_length() - 1)


def _host_memory() -> int:
    return os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
