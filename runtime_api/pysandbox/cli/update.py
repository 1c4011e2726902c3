"""`pysandbox update`: change the limits of a container while it runs."""

from __future__ import annotations

from pysandbox.cli.flags import Command, Flag, Parsed
from pysandbox.errors import InvalidArgument, Unimplemented

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

    from pysandbox.cli.invocation import Invocation

#: flag → (section and name in the resources, how to read it, what it is)
_LIMITS: dict[str, tuple[str, str, str, str]] = {
    "blkio-weight": ("blockIO", "weight", "number", "weight of block I/O, 10 to 1000"),
    "cpu-period": ("cpu", "period", "number", "CFS period in microseconds"),
    "cpu-quota": ("cpu", "quota", "number", "CFS quota: CPU time allowed in a period, in microseconds"),
    "cpu-burst": ("cpu", "burst", "number", "CFS burst: unused CPU time that may be saved up, in microseconds"),
    "cpu-share": ("cpu", "shares", "number", "CPU shares (weight relative to other containers)"),
    "cpu-rt-period": ("cpu", "realtimePeriod", "number", "realtime period in microseconds"),
    "cpu-rt-runtime": ("cpu", "realtimeRuntime", "number", "realtime runtime in microseconds"),
    "cpuset-cpus": ("cpu", "cpus", "text", "CPUs to use"),
    "cpuset-mems": ("cpu", "mems", "text", "memory nodes to use"),
    "cpu-idle": ("cpu", "idle", "number", "1: SCHED_IDLE for the whole cgroup, 0: not"),
    "memory": ("memory", "limit", "bytes", "memory limit in bytes, or with a unit: 512M"),
    "memory-reservation": ("memory", "reservation", "bytes", "memory reservation (soft limit) in bytes"),
    "memory-swap": ("memory", "swap", "bytes", "memory and swap together in bytes; -1 for no limit"),
    "pids-limit": ("pids", "limit", "number", "largest number of processes"),
}
#: A zero means "leave it as it is" for these, as under runc.
_ZERO_IS_UNSET = frozenset(
    {
        ("blockIO", "weight"), ("cpu", "period"), ("cpu", "quota"), ("cpu", "shares"), ("cpu", "realtimePeriod"),
        ("cpu", "realtimeRuntime"), ("cpu", "cpus"), ("cpu", "mems"), ("memory", "limit"), ("memory", "reservation"),
        ("memory", "swap"),
    }
)  # fmt: skip

COMMAND = Command(
    "update",
    "change the resource limits of a container",
    "<container-id>",
    (
        Flag("resources", "file with the resources in the spec's form, - for standard input", "string", "r"),
        *(Flag(flag, text, "string") for flag, (_, _, _, text) in _LIMITS.items()),
        Flag("kernel-memory", "obsolete, ignored", "string", hidden=True),
        Flag("kernel-memory-tcp", "obsolete, ignored", "string", hidden=True),
        Flag("l3-cache-schema", "Intel RDT: not supported", "string", hidden=True),
        Flag("mem-bw-schema", "Intel RDT: not supported", "string", hidden=True),
    ),
    details="With --resources all other options are ignored.",
)


def run(invocation: Invocation) -> int:
    """Apply the limits that are given; the others stay as they are."""
    from pysandbox import lifecycle
    from pysandbox.oci.bundle import load_resources
    from pysandbox.oci.validate import validate_resources

    flags = invocation.parsed
    for flag in ("l3-cache-schema", "mem-bw-schema"):
        if flags[flag]:
            raise Unimplemented(f"--{flag}: Intel RDT is not supported")
    for flag in ("kernel-memory", "kernel-memory-tcp"):
        if flags[flag]:
            invocation.journal.warning(f"--{flag} is ignored: the kernel has no such limit any more")
    resources: Any = load_resources(flags["resources"]) if flags["resources"] else from_flags(flags)
    resources = without_unset(resources)
    validate_resources(resources, "resources")
    lifecycle.update(invocation.runtime(), invocation.container_id, resources)
    return 0


def from_flags(flags: Parsed) -> dict[str, dict[str, Any]]:
    """Return the resources that the flags name, in the spec's form."""
    resources: dict[str, dict[str, Any]] = {}
    for flag, (section, key, kind, _) in _LIMITS.items():
        if text := flags[flag]:
            resources.setdefault(section, {})[key] = _value(flag, kind, text)
    return resources


def without_unset(resources: dict[str, Any]) -> dict[str, Any]:
    """Drop what says "unchanged", and devices, which no update changes (others may have set them since).

    A memory limit of -1 lifts the limit on swap as well unless that is given: on v1 one cannot be above the other.
    """
    kept: dict[str, Any] = {}
    for section, values in resources.items():
        if section in {"cpu", "memory", "blockIO", "pids"}:
            values = {key: value for key, value in values.items() if value or (section, key) not in _ZERO_IS_UNSET}  # noqa: PLW2901
        if values and section != "devices":
            kept[section] = values
    memory = kept.get("memory", {})
    if memory.get("limit") == -1:
        kept["memory"] = {"swap": -1, **memory}
    return kept


def _value(flag: str, kind: str, text: str) -> int | str:
    if kind == "text":
        return text
    try:
        return int(text) if kind == "number" or text == "-1" else byte_count(text)
    except ValueError:
        raise InvalidArgument(f"invalid value for {flag}: {text!r}") from None


def byte_count(text: str) -> int:
    """Return the number of bytes of 1024, 512k, 1.5GiB. Raises ValueError. Units are powers of 1024, of any case."""
    lower = text.strip().lower().removesuffix("b").removesuffix("i")
    unit = "kmgtp".find(lower[-1:]) + 1 if lower else 0
    digits = lower[:-1].strip() if unit else lower
    if not digits or not set(digits) <= set("0123456789."):
        raise ValueError(text)
    return int(float(digits) * 1024**unit) if "." in digits else int(digits) * 1024**unit
