"""A directory for one bench, and its end: whatever contenders left mounted in it goes first."""

from __future__ import annotations

import ctypes
import os
import shutil
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from typing import Self

MNT_DETACH, UMOUNT_NOFOLLOW = 2, 8


class Workplace:
    """A new directory below TMPDIR, root's alone: what a view shows of a root was private where the root lies.

    `group` may pass through it and list nothing: root of a user namespace has to get to the container's root. gVisor,
    for one, leaves a namespace mounted in its state.
    """

    def __init__(self, group: int | None = None) -> None:
        self.path = Path()
        self._group = group
        #: What could not be removed.
        self.left: list[str] = []

    def __enter__(self) -> Self:
        """Make it."""
        self.path = Path(tempfile.mkdtemp(prefix="pysandbox-bench-"))
        if self._group is not None:
            os.chown(self.path, -1, self._group)
            self.path.chmod(0o710)
        return self

    def __exit__(self, *_: object) -> None:
        """Unmount and remove all of it; what stays is told in `left`, and keeps nobody from the figures."""
        libc = ctypes.CDLL(None, use_errno=True)
        for mount in reversed(mounts_below(Path("/proc/self/mountinfo").read_bytes(), os.fsencode(self.path))):
            if libc.umount2(mount, MNT_DETACH | UMOUNT_NOFOLLOW) != 0:
                self.left.append(f"{os.fsdecode(mount)}: {os.strerror(ctypes.get_errno())}")
        if not self.left:  # what is mounted here may be a view of somebody else's files
            shutil.rmtree(self.path, onerror=lambda _function, path, info: self.left.append(f"{path}: {info[1]}"))


def mounts_below(mountinfo: bytes, directory: bytes) -> list[bytes]:
    """Return mount points below a directory, in the order of their mounts (proc_pid_mountinfo(5): octal escapes)."""
    points = [line.split()[4] for line in mountinfo.splitlines()]
    plain = [point.decode("unicode_escape").encode("latin-1") for point in points]
    return [point for point in plain if point.startswith(directory + b"/")]
