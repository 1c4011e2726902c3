"""Usage of a cgroup in the shape of runc's `events --stats` (its types/events.go): names, nesting, what is left out.

Times are nanoseconds, sizes bytes. runc leaves most zeros out of its JSON; so does this.

Sources: the kernel's admin-guide/cgroup-v1/{cpuacct,memory,blkio-controller,cpusets}.rst, admin-guide/cgroup-v2.rst.
"""

from __future__ import annotations

import os

from pysandbox.cgroup import directory

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping
    from typing import Any

    #: A cgroup's directory, or the content of its files by their names.
    Files = str | Mapping[str, str]

#: What "no limit" is in the 64-bit numbers of the document.
_MAX = (1 << 64) - 1


def v1_stats(paths: Mapping[str, str]) -> dict[str, Any]:
    """Read every controller that is there. `paths` as in `Cgroup.paths`."""
    return {
        "cpu": _v1_cpu(paths.get("cpu"), paths.get("cpuacct")),
        "cpuset": _v1_cpuset(paths.get("cpuset")),
        "memory": _v1_memory(paths.get("memory")),
        "pids": _pids(paths.get("pids")),
        "blkio": _v1_blkio(paths.get("blkio")),
        "hugetlb": _v1_hugetlb(paths["hugetlb"]) if "hugetlb" in paths else _v2_hugetlb(paths.get("")),
        "intel_rdt": {},
        "network_interfaces": None,
    }


def v2_stats(path: str | Mapping[str, str]) -> dict[str, Any]:
    """Read every controller of a v2 cgroup: its directory, or what its files hold by their names (a guest's)."""
    return {
        "cpu": _v2_cpu(path),
        "cpuset": _cpuset_zeros(),
        "memory": _v2_memory(path),
        "pids": _pids(path),
        "blkio": _v2_io(path),
        "hugetlb": _v2_hugetlb(path),
        "intel_rdt": {},
        "network_interfaces": None,
    }


# --- v1 ---------------------------------------------------------------------------------------------------------------


def _v1_cpu(cpu: str | None, cpuacct: str | None) -> dict[str, Any]:
    throttled = keyed(cpu, "cpu.stat")
    usage: dict[str, Any] = {
        "kernel": number(cpuacct, "cpuacct.usage_sys"),
        "user": number(cpuacct, "cpuacct.usage_user"),
    }
    per_cpu = {
        "percpu": _numbers(cpuacct, "cpuacct.usage_percpu"),
        "percpu_kernel": _numbers(cpuacct, "cpuacct.usage_percpu_sys"),
        "percpu_user": _numbers(cpuacct, "cpuacct.usage_percpu_user"),
    }
    usage |= _present(total=number(cpuacct, "cpuacct.usage"), **per_cpu)
    return {
        "usage": usage,
        "throttling": _present(
            periods=throttled.get("nr_periods", 0),
            throttledPeriods=throttled.get("nr_throttled", 0),
            throttledTime=throttled.get("throttled_time", 0),
        ),
    }


_CPUSET_FILES = (
    "cpu_exclusive", "mem_hardwall", "mem_exclusive", "memory_migrate", "memory_spread_page", "memory_spread_slab",
    "memory_pressure", "sched_load_balance", "sched_relax_domain_level",
)  # fmt: skip


def _cpuset_zeros() -> dict[str, Any]:
    return dict.fromkeys(_CPUSET_FILES, 0)


def _v1_cpuset(path: str | None) -> dict[str, Any]:
    stats = {name: number(path, f"cpuset.{name}") for name in _CPUSET_FILES}
    return stats | _present(cpus=ranges(_text(path, "cpuset.cpus")), mems=ranges(_text(path, "cpuset.mems")))


def _v1_memory(path: str | None) -> dict[str, Any]:
    raw = keyed(path, "memory.stat")
    return {
        **_present(cache=raw.get("cache", 0), raw=raw),
        "usage": _v1_memory_entry(path, "memory"),
        "swap": _v1_memory_entry(path, "memory.memsw"),
        "kernel": _v1_memory_entry(path, "memory.kmem"),
        "kernelTCP": _v1_memory_entry(path, "memory.kmem.tcp"),
        "event_count": {},
    }


def _v1_memory_entry(path: str | None, prefix: str) -> dict[str, int]:
    entry = {"limit": number(path, f"{prefix}.limit_in_bytes"), "failcnt": number(path, f"{prefix}.failcnt")}
    used = number(path, f"{prefix}.usage_in_bytes")
    return entry | _present(usage=used, max=number(path, f"{prefix}.max_usage_in_bytes"))


_BLKIO = (
    ("ioServicedRecursive", "io_serviced_recursive"),
    ("ioServiceBytesRecursive", "io_service_bytes_recursive"),
    ("sectorsRecursive", "sectors_recursive"),
    ("ioServiceTimeRecursive", "io_service_time_recursive"),
    ("ioWaitTimeRecursive", "io_wait_time_recursive"),
    ("ioMergedRecursive", "io_merged_recursive"),
    ("ioQueueRecursive", "io_queued_recursive"),
    ("ioTimeRecursive", "time_recursive"),
)


def _v1_blkio(path: str | None) -> dict[str, Any]:
    """Take the first scheduler's files that say something: BFQ's, CFQ's, then those of throttling."""
    for prefix in ("blkio.bfq.", "blkio.", "blkio.throttle."):
        stats = {key: blkio_entries(_text(path, prefix + file)) for key, file in _BLKIO}
        if stats["ioServicedRecursive"]:
            return _present(**stats)
    return {}


def blkio_entries(text: str) -> list[dict[str, Any]]:
    """Parse lines `MAJOR:MINOR [OPERATION] VALUE`; the line with the sum of all devices is left out."""
    entries = []
    for line in text.splitlines():
        words = line.split()
        if len(words) < 2 or ":" not in words[0]:
            continue
        major, minor = map(int, words[0].split(":"))
        operation = words[1] if len(words) == 3 else ""
        entries.append(_present(major=major, minor=minor, op=operation, value=int(words[-1])))
    return entries


def _v1_hugetlb(path: str) -> dict[str, Any]:
    stats = {}
    for size in _page_sizes(path, ".limit_in_bytes"):
        prefix = _hugetlb_prefix(path, size, "usage_in_bytes")
        used, most = number(path, f"{prefix}.usage_in_bytes"), number(path, f"{prefix}.max_usage_in_bytes")
        stats[size] = {"failcnt": number(path, f"{prefix}.failcnt"), **_present(usage=used, max=most)}
    return stats


# --- v2 ---------------------------------------------------------------------------------------------------------------


def _v2_cpu(path: Files) -> dict[str, Any]:
    stat = keyed(path, "cpu.stat")
    usage = {"kernel": stat.get("system_usec", 0) * 1000, "user": stat.get("user_usec", 0) * 1000}
    return {
        "usage": usage | _present(total=stat.get("usage_usec", 0) * 1000),
        "throttling": _present(
            periods=stat.get("nr_periods", 0),
            throttledPeriods=stat.get("nr_throttled", 0),
            throttledTime=stat.get("throttled_usec", 0) * 1000,
        ),
        **_pressure(path, "cpu.pressure"),
    }


def _v2_memory(path: Files) -> dict[str, Any]:
    raw = keyed(path, "memory.stat")
    used, swapped = _v2_memory_entry(path, "memory"), _v2_memory_entry(path, "memory.swap")
    # v1 counts memory and swap together, and readers of this document expect that. Their peaks cannot be added.
    swapped.pop("max", None)
    both = swapped.get("usage", 0) + used.get("usage", 0)
    if swapped["limit"] != _MAX:
        swapped["limit"] += used["limit"]
    swapped["limit"] = min(swapped["limit"], _MAX)
    return {
        **_present(cache=raw.get("file", 0), raw=raw),
        "usage": used,
        "swap": swapped | _present(usage=both),
        "kernel": {"limit": 0, "failcnt": 0},
        "kernelTCP": {"limit": 0, "failcnt": 0},
        "event_count": _present(**keyed(path, "memory.events")),
        **_pressure(path, "memory.pressure"),
    }


def _v2_memory_entry(path: Files, prefix: str) -> dict[str, int]:
    entry = {"limit": number(path, f"{prefix}.max"), "failcnt": 0}
    return entry | _present(usage=number(path, f"{prefix}.current"), max=number(path, f"{prefix}.peak"))


def _v2_io(path: Files) -> dict[str, Any]:
    names = {"rbytes": ("ioServiceBytesRecursive", "Read"), "wbytes": ("ioServiceBytesRecursive", "Write")}
    names |= {"rios": ("ioServicedRecursive", "Read"), "wios": ("ioServicedRecursive", "Write")}
    stats: dict[str, Any] = {}
    for line in _text(path, "io.stat").splitlines():
        device, *pairs = line.split()
        major, minor = map(int, device.split(":"))
        for pair in pairs:
            word, _, value = pair.partition("=")
            if word in names:
                key, operation = names[word]
                entry = _present(major=major, minor=minor, op=operation, value=int(value))
                stats.setdefault(key, []).append(entry)
    return stats | _pressure(path, "io.pressure")


def _v2_hugetlb(path: Files | None) -> dict[str, Any]:
    stats = {}
    for size in _page_sizes(path, ".max") if path else ():
        prefix = _hugetlb_prefix(path or "", size, "current")
        refused = keyed(path, f"hugetlb.{size}.events").get("max", 0)
        stats[size] = {"failcnt": refused, **_present(usage=number(path, f"{prefix}.current"))}
    return stats


def _pressure(path: Files, file: str) -> dict[str, Any]:
    """Return {"psi": …} from a file of pressure stall information, or nothing where the kernel keeps none."""
    stall: dict[str, Any] = {}
    for line in _text(path, file).splitlines():
        kind, *pairs = line.split()
        values = dict(pair.split("=", 1) for pair in pairs)
        stall[kind] = {key: int(value) if key == "total" else float(value) for key, value in values.items()}
    return {"psi": stall} if stall else {}


# --- both -------------------------------------------------------------------------------------------------------------


def _pids(path: Files | None) -> dict[str, int]:
    limit = _text(path, "pids.max").strip()
    return _present(current=number(path, "pids.current"), limit=0 if limit == "max" else int(limit or 0))


def _page_sizes(path: Files | None, suffix: str) -> Iterable[str]:
    if path is None or (isinstance(path, str) and not directory.exists(path)):
        return ()
    files = os.listdir(path) if isinstance(path, str) else list(path)
    names = (name for name in files if name.startswith("hugetlb.") and name.endswith(suffix))
    return sorted(name.split(".")[1] for name in names if ".rsvd." not in name)


def _hugetlb_prefix(path: Files, size: str, file: str) -> str:
    """Prefer the counts of reserved pages (Linux 5.7), which the limits are about."""
    reserved = f"hugetlb.{size}.rsvd"
    name = f"{reserved}.{file}"
    there = directory.exists(path, name) if isinstance(path, str) else name in path
    return reserved if there else f"hugetlb.{size}"


def number(path: Files | None, file: str) -> int:
    """Return a file's number: 0 when it is not there, the largest one for `max`."""
    text = _text(path, file).strip()
    return _MAX if text == "max" else int(text or 0)


def keyed(path: Files | None, file: str) -> dict[str, int]:
    """Return a flat keyed file as a map."""
    pairs = (line.split() for line in _text(path, file).splitlines())
    return {pair[0]: int(pair[1]) for pair in pairs if len(pair) == 2 and pair[1].isdigit()}


def ranges(text: str) -> list[int]:
    """Expand `0-2,7`."""
    numbers: list[int] = []
    for part in text.strip().split(",") if text.strip() else ():
        first, _, last = part.partition("-")
        numbers.extend(range(int(first), int(last or first) + 1))
    return numbers


def _numbers(path: str | None, file: str) -> list[int]:
    return [int(word) for word in _text(path, file).split()]


def _text(path: Files | None, file: str) -> str:
    if isinstance(path, str):
        return directory.read_or(path, file, "")
    return path.get(file, "") if path else ""


def _present(**values: Any) -> dict[str, Any]:
    """Leave out what is zero or empty, as Go's `omitempty` does."""
    return {key: value for key, value in values.items() if value}
