"""What a contender really does for a container: only those that do the same are compared."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

NAMESPACES = ("pid", "net", "ipc", "uts", "mnt")
MASKED = ("/proc/acpi", "/proc/keys", "/proc/timer_list", "/sys/firmware")


def features(pid: int, container: str, record: Path, *, opens_fuse: bool) -> dict[str, Any]:
    """Return what can be seen from outside of a running container's init: the parity line of one contender."""
    status = _fields(Path(f"/proc/{pid}/status").read_text())
    mounts = [line.split() for line in Path(f"/proc/{pid}/mountinfo").read_text().splitlines()]
    cgroups = Path(f"/proc/{pid}/cgroup").read_text().splitlines()
    return {
        "seccomp": status["Seccomp"] == "2",
        "capabilities": status["CapEff"],
        "no_new_privileges": status["NoNewPrivs"] == "1",
        "masked": sum(any(mount[4] == path for mount in mounts) for path in MASKED if os.path.exists(path)),
        "read_only_root": any(mount[4] == "/" and "ro" in mount[5].split(",") for mount in mounts),
        "cgroup": any(container in line for line in cgroups),
        "devices": not opens_fuse,
        "namespaces": sum(
            os.readlink(f"/proc/{pid}/ns/{kind}") != os.readlink(f"/proc/self/ns/{kind}") for kind in NAMESPACES
        ),
        "open_files": _limit(pid, "Max open files"),
        "record": record.is_dir() and any(record.iterdir()),
    }


def unequal(found: dict[str, dict[str, Any]], reference: str) -> dict[str, list[str]]:
    """Return, for each contender that differs from the reference, the features in which it does."""
    want = found[reference]
    differing = {
        label: [f"{name}: {have[name]} (is {want[name]} for {reference})" for name in want if have[name] != want[name]]
        for label, have in found.items()
    }
    return {label: names for label, names in differing.items() if names}


def _fields(text: str) -> dict[str, str]:
    return {key: value.strip() for key, _, value in (line.partition(":") for line in text.splitlines())}


def _limit(pid: int, name: str) -> str:
    lines = Path(f"/proc/{pid}/limits").read_text().splitlines()
    return next((line[26:46].strip() for line in lines if line.startswith(name)), "")
