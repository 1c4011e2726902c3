"""Facts of this host and this installation, for a person who asks why something does not work, and for bug reports."""

from __future__ import annotations

import contextlib
import os
import sys

from pysandbox.errors import SandboxError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Mapping

    from pysandbox.cgroup.layout import Layout

MIB = 1024 * 1024


def installation() -> Mapping[str, str]:
    """Return what runs: versions and where the parts are."""
    from pysandbox import VERSION
    from pysandbox.executor import executor_path
    from pysandbox.oci.default import OCI_VERSION

    try:
        executor = executor_path()
    except SandboxError as error:
        executor = str(error)
    return {
        "pysandbox": VERSION,
        "runtime-spec": OCI_VERSION,
        "python": f"{sys.version.split()[0]} ({os.path.realpath(sys.executable)})",
        "package": os.path.dirname(os.path.abspath(__file__)),
        "executor": executor,
    }


def host() -> Mapping[str, str]:
    """Return what it runs on."""
    machine = os.uname()
    return {
        "kernel": f"{machine.sysname} {machine.release} {machine.machine}",
        "system": _system_name(),
        "processors": str(os.cpu_count() or 1),
        "memory": f"{memory('MemTotal') // MIB} MiB, {memory('MemAvailable') // MIB} MiB available",
        "cgroups": cgroups(),
    }


def memory(name: str, path: str = "/proc/meminfo") -> int:
    """Return a line of /proc/meminfo (proc(5)) in bytes; 0 where there is none of that name."""
    with contextlib.suppress(OSError, ValueError, IndexError), open(path, encoding="ascii", errors="replace") as file:
        for line in file:
            if line.startswith(f"{name}:"):
                return int(line.split()[1]) * 1024
    return 0


def cgroups() -> str:
    """Say which versions of cgroups there are, and the controllers of each."""
    from pysandbox.cgroup.layout import read_layout

    try:
        return _described(read_layout())
    except (SandboxError, OSError) as error:
        return f"unusable: {error}"


def _described(layout: Layout) -> str:
    legacy = [name for hierarchy in layout.legacy for name in hierarchy.controllers]
    parts = [f"version 1 ({', '.join(sorted(legacy))})"] if legacy else []
    if layout.unified is not None:
        parts.append(f"version 2 ({_unified_controllers(layout.unified.mount_point)})")
    return " and ".join(parts) or "none"


def _unified_controllers(mount_point: str) -> str:
    try:
        with open(os.path.join(mount_point, "cgroup.controllers"), encoding="ascii") as file:
            return ", ".join(sorted(file.read().split())) or "no controller"
    except OSError as error:
        return str(error.strerror)


def _system_name(path: str = "/etc/os-release") -> str:
    """Return PRETTY_NAME of os-release(5)."""
    with contextlib.suppress(OSError), open(path, encoding="utf-8", errors="replace") as file:
        for line in file:
            name, _, value = line.strip().partition("=")
            if name == "PRETTY_NAME":
                return value.strip("\"'")
    return "unknown"
