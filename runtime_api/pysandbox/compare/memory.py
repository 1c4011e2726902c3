"""Peak memory of a command and of all that it starts, from the memory controller.

wait4(2) would not do: it reports the largest process, and a child of ours starts with our own peak as its own.
"""

from __future__ import annotations

import contextlib
import os
import secrets
import time
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterator

V1, V2 = Path("/sys/fs/cgroup/memory"), Path("/sys/fs/cgroup")
#: Moves itself into the cgroup of its first argument and becomes the rest.
ENTER = 'echo 0 > "$0/cgroup.procs" && exec "$@"'


class Meter:
    """A cgroup with two below it: one for the runtime's own processes, one for the container."""

    def __init__(self) -> None:
        self._v1 = (V1 / "memory.max_usage_in_bytes").exists()
        self.name = f"bench-{secrets.token_hex(6)}"
        self.path = (V1 if self._v1 else V2) / self.name
        #: `linux.cgroupsPath` of a container that shall be counted.
        self.cgroups_path = f"/{self.name}/container"

    @contextlib.contextmanager
    def prefix(self) -> Iterator[list[str]]:
        """Make the cgroup and yield what to put before a command line; removes it afterwards."""
        inside = self.path / "runtime"
        self.path.mkdir()
        try:
            if not self._v1:
                (self.path / "cgroup.subtree_control").write_text("+memory")
            inside.mkdir()
            # By way of our own root: a contender's place may show another hierarchy, or none.
            yield ["/bin/sh", "-c", ENTER, f"/proc/{os.getpid()}/root{inside}"]
        finally:
            self._remove()

    def mebibytes(self) -> float:
        """Return the highest sum there was."""
        name = "memory.max_usage_in_bytes" if self._v1 else "memory.peak"
        return int((self.path / name).read_text()) / (1 << 20)

    def _remove(self) -> None:
        """Remove this cgroup in each hierarchy that a runtime made it in."""
        tops = [V2 / name for name in os.listdir(V2) if (V2 / name).is_dir()] if self._v1 else [V2]
        for top in tops:
            for path in (top / self.name / "container", top / self.name / "runtime", top / self.name):
                _rmdir(path)


def available() -> bool:
    """Tell whether the kernel counts memory here: cgroup v1, or v2 with memory.peak (Linux 5.19)."""
    if (V1 / "memory.max_usage_in_bytes").exists():
        return True
    controllers = V2 / "cgroup.controllers"
    return controllers.exists() and "memory" in controllers.read_text().split()


def _rmdir(path: Path, seconds: float = 2) -> None:
    """Remove a cgroup directory; the kernel may need a moment until the last process is gone."""
    deadline = time.monotonic() + seconds
    while path.exists():
        try:
            path.rmdir()
        except OSError:
            if time.monotonic() > deadline:
                raise
            time.sleep(0.005)
