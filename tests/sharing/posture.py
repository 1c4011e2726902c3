"""What /proc says of every thread of a process: who it is, what it may do, what it sees and holds."""

from __future__ import annotations

import os
import re
from dataclasses import dataclass
from pathlib import Path

NAMESPACES = ("mnt", "pid", "net", "ipc", "uts", "cgroup")
SETS = ("CapInh", "CapPrm", "CapEff", "CapBnd", "CapAmb")


@dataclass(frozen=True, kw_only=True)
class Expected:
    """`capabilities` is the most that any thread has in any set; the thread that serves the guest has `serving`.

    `root` are the names at the process's root; `descriptors` is what links in /proc/PID/fd may read; `writable` are the
    mount points that are not read-only.
    """

    uid: int
    capabilities: int
    serving: int
    root: frozenset[str]
    descriptors: re.Pattern[str]
    writable: re.Pattern[str]


def faults(pid: int, expected: Expected) -> list[str]:
    """Return what is not as it should be, a line each; nothing if all is well."""
    found = []
    threads = sorted(int(name) for name in os.listdir(f"/proc/{pid}/task"))
    for thread in threads:
        base = Path(f"/proc/{pid}/task/{thread}")
        found += [f"thread {thread}: {fault}" for fault in _of_thread(base, expected, first=thread == pid)]
    return found + _of_files(pid, expected)


def _of_thread(base: Path, expected: Expected, *, first: bool) -> list[str]:
    lines = (line.partition(":") for line in (base / "status").read_text().splitlines())
    status = {name: value.split() for name, _, value in lines}
    user = [str(expected.uid)] * 4
    found = [f"{field} {status[field]}" for field in ("Uid", "Gid") if status[field] != user]
    if status["Groups"]:
        found.append(f"Groups {status['Groups']}")
    most = expected.serving if first else expected.capabilities
    for name in SETS:
        extra = int(status[name][0], 16) & ~(expected.capabilities if name == "CapBnd" else most)
        if extra:
            found.append(f"{name} has {extra:#x} too much")
    if int(status["CapInh"][0], 16) or int(status["CapAmb"][0], 16):
        found.append("inheritable or ambient capabilities")
    if status["NoNewPrivs"] != ["1"]:
        found.append("may gain privileges")
    if status["Seccomp"] != ["2"]:
        found.append("has no system call filter")
    shared = [name for name in NAMESPACES if _namespace(base, name) == _namespace(Path("/proc/self"), name)]
    found += [f"is in the host's {name} namespace" for name in shared]
    limits = (base / "limits").read_text()
    if not re.search(r"Max core file size\s+0\s+0\s", limits):
        found.append("may dump core")
    return found


def _namespace(base: Path, name: str) -> str:
    return os.readlink(base / "ns" / name)


def _of_files(pid: int, expected: Expected) -> list[str]:
    found = []
    names = set(os.listdir(f"/proc/{pid}/root"))
    if names - expected.root:
        found.append(f"root shows {sorted(names - expected.root)}")
    for number in os.listdir(f"/proc/{pid}/fd"):
        target = os.readlink(f"/proc/{pid}/fd/{number}")
        if not expected.descriptors.fullmatch(target):
            found.append(f"descriptor {number} is {target}")
    for line in Path(f"/proc/{pid}/mountinfo").read_text().splitlines():
        fields = line.split()
        place, options = fields[4], fields[5].split(",")
        if "nosuid" not in options:
            found.append(f"{place} honours set-id bits")
        if "nodev" not in options and not place.startswith("/dev/"):
            found.append(f"{place} honours device nodes")
        if "ro" not in options and not expected.writable.fullmatch(place):
            found.append(f"{place} is writable")
    return found


def mask(*names: str) -> int:
    """Return capabilities as /proc shows them."""
    from pysandbox.oci.capabilities import CAPABILITIES

    return sum(1 << CAPABILITIES[name] for name in names)
