"""What a verdict may look at beside its own probe: the other probes, the bundle's spec, the host."""

from __future__ import annotations

import os
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Mapping

    from pysandbox.audit.finding import Facts

#: Facts of the host that are compared with a container's: probe → file, read as the probe reads it.
HOST_FILES = {
    "host.release": "/proc/sys/kernel/osrelease",
    "host.version": "/proc/sys/kernel/version",
    "host.boot_id": "/proc/sys/kernel/random/boot_id",
    "host.name": "/proc/sys/kernel/hostname",
    "host.uptime": "/proc/uptime",
    "host.load": "/proc/loadavg",
    "host.command_line": "/proc/cmdline",
    "host.memory": "/proc/meminfo",
    "host.processor": "/proc/cpuinfo",
}
#: Bytes of a host's file that are read, characters of a line that are compared: as many as the probe reports.
_SIZE, _TEXT = 64 * 1024, 1024


@dataclass(frozen=True, slots=True, kw_only=True)
class Context:
    """The facts of all probes, the spec that the container was made from, and the host's own lines."""

    facts: Mapping[str, Facts] = field(default_factory=dict)
    spec: Mapping[str, Any] = field(default_factory=dict)
    host: Mapping[str, str] = field(default_factory=dict)

    def text(self, probe: str) -> str | None:
        """Return the text that a probe reported, None if it reported none."""
        text = self.facts.get(probe, {}).get("text")
        return text if isinstance(text, str) else None

    @property
    def own_kernel(self) -> bool:
        """Say whether the container has a kernel of its own: another boot and another build than the host's.

        Both are asked for: the first is a file, over which a bundle may mount another.
        """
        names = ("host.boot_id", "host.version")
        seen = [(self.text(name), self.host.get(name)) for name in names]
        boot, version = ((theirs is not None and ours is not None and theirs != ours) for theirs, ours in seen)
        return version and (boot or self.text("host.boot_id") is None)


def read_host() -> dict[str, str]:
    """Return the host's lines; what cannot be read is left out."""
    found = {}
    for probe, path in HOST_FILES.items():
        try:
            descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
        except OSError:
            continue
        with open(descriptor, "rb") as file:
            found[probe] = _telling(file.read(_SIZE).decode("utf-8", "replace"))
    return found


def _telling(whole: str) -> str:
    lines = whole.splitlines() or [""]
    return next((line for line in lines if line.startswith("model name")), lines[0]).strip()[:_TEXT]
