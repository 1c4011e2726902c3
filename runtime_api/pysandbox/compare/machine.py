"""What the numbers were measured on."""

from __future__ import annotations

import os
import platform
import subprocess
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Iterable

    from pysandbox.compare.contender import Contender


def describe(contenders: Iterable[Contender]) -> dict[str, Any]:
    """Return kernel, processors, settings that move the figures, load, and the contenders' versions."""
    return {
        "kernel": platform.release(),
        "architecture": platform.machine(),
        "processors": os.cpu_count(),
        "governor": _read("/sys/devices/system/cpu/cpu0/cpufreq/scaling_governor"),
        "ksm": _read("/sys/kernel/mm/ksm/run"),
        "transparent_huge_pages": _read("/sys/kernel/mm/transparent_hugepage/enabled"),
        "cgroup": "v2" if os.path.exists("/sys/fs/cgroup/cgroup.controllers") else "hybrid or v1",
        "python": platform.python_version(),
        "load": os.getloadavg(),
        "versions": {each.name: version(each) for each in contenders},
    }


def stolen() -> tuple[int, int]:
    """Return ticks that the hypervisor took from us, and all ticks, since boot (proc_stat(5))."""
    ticks = [int(word) for word in Path("/proc/stat").read_text().splitlines()[0].split()[1:9]]
    return ticks[7], sum(ticks)


def share(before: tuple[int, int], after: tuple[int, int]) -> float:
    """Return the share of the time between two answers of `stolen` that the hypervisor took."""
    return (after[0] - before[0]) / max(1, after[1] - before[1])


def version(contender: Contender) -> str:
    """Return the first line of what a contender says of its version."""
    argv = [*contender.command, "--version"]
    answer = subprocess.run(argv, env=contender.environment, capture_output=True, text=True, timeout=30, check=False)
    return (answer.stdout or answer.stderr).partition("\n")[0].strip()


def processor() -> str:
    """Return the processor's name; empty where the kernel tells none."""
    lines = (_read("/proc/cpuinfo") or "").splitlines()
    return next((line.partition(":")[2].strip() for line in lines if line.startswith("model name")), "")


def file_system(directory: Path) -> str:
    """Return the type of the file system that a directory is on (proc_pid_mountinfo(5))."""
    device = os.stat(directory).st_dev
    number = f"{os.major(device)}:{os.minor(device)}"
    lines = [line.split() for line in (_read("/proc/self/mountinfo") or "").splitlines()]
    return next((words[words.index("-") + 1] for words in lines if words[2] == number), "")


def _read(path: str) -> str | None:
    try:
        return Path(path).read_text().strip()
    except OSError:
        return None
