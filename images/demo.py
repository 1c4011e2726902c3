"""Fit the default config.json of a bundle to the demo: `demo.py BUNDLE [PROGRAM ARGUMENT...]`."""

from __future__ import annotations

import json
import sys
from pathlib import Path

MEMORY_LIMIT = 64 << 20

#: What the container tells about itself. Every line is read from its own kernel interfaces.
LOOK = r"""
echo "host name     $(hostname)"
echo "user          $(id)"
echo "kernel        $(uname -r)"
echo "processes     $(ps -o pid,comm | sed 1d | tr -s ' ' | tr '\n' ';') none of the host's"
echo "root          $(ls / | tr '\n' ' ')"
echo "writable      $(touch /x 2>&1 || true)"
echo "mounts        $(wc -l </proc/self/mountinfo):"
while read -r what where type options; do echo "                $where ($type)"; done </proc/mounts
echo "interfaces    $(ls /sys/class/net | tr '\n' ' ')"
echo "capabilities  $(grep CapEff /proc/self/status | tr -d '\t')"
echo "seccomp       $(grep -w Seccomp /proc/self/status | tr -d '\t') (2: a filter decides on every system call)"
echo "no new privs  $(grep NoNewPrivs /proc/self/status | tr -d '\t')"
echo "cgroup        $(head -n 1 /proc/self/cgroup)"
echo "memory limit  $(cat /sys/fs/cgroup/memory/memory.limit_in_bytes /sys/fs/cgroup/memory.max 2>/dev/null || true)"
test ! -e /proc/keys || echo "masked        /proc/keys, $(wc -c </proc/keys) bytes"
""".strip()

#: Refuses what no program in this container has to do. Everything else is decided by capabilities.
REFUSED = ["keyctl", "add_key", "request_key", "bpf", "perf_event_open"]
SECCOMP = {
    "defaultAction": "SCMP_ACT_ALLOW",
    "syscalls": [{"names": REFUSED, "action": "SCMP_ACT_ERRNO", "errnoRet": 1}],
}

CGROUP_MOUNT = {
    "destination": "/sys/fs/cgroup",
    "type": "cgroup",
    "source": "cgroup",
    "options": ["nosuid", "noexec", "nodev", "relatime", "ro"],
}


def fit(spec: dict, program: list[str]) -> None:
    """Change a default spec: this program, no terminal, 64 MiB of memory, a system call filter."""
    spec["process"]["args"] = program
    spec["process"]["terminal"] = False
    spec["hostname"] = "demo"
    spec["linux"]["seccomp"] = SECCOMP
    spec["linux"].setdefault("resources", {})["memory"] = {"limit": MEMORY_LIMIT}


def main(bundle: Path, program: list[str]) -> None:
    """Rewrite the bundle's config.json."""
    path = bundle / "config.json"
    spec = json.loads(path.read_text())
    if not any(mount["destination"] == "/sys/fs/cgroup" for mount in spec["mounts"]):
        spec["mounts"].append(CGROUP_MOUNT)
    fit(spec, program or ["sh", "-c", LOOK])
    path.write_text(json.dumps(spec, indent=4) + "\n")


if __name__ == "__main__":
    main(Path(sys.argv[1]), sys.argv[2:])
