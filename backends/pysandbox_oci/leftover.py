"""What a runtime leaves in its state directory when it has deleted a container: files, and mounts."""

from __future__ import annotations

import contextlib
import os

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Sequence

    from pysandbox_oci.runtime import OciRuntime

_MNT_DETACH, _UMOUNT_NOFOLLOW = 2, 8  # umount2(2)
#: What stands in a mount point of /proc/PID/mountinfo in the place of another character (proc_pid_mountinfo(5)).
_ESCAPES = {rb"\040": b" ", rb"\011": b"\t", rb"\012": b"\n", rb"\134": b"\\"}


def remove_root(runtime: OciRuntime, state_dir: str) -> None:
    """Unmount what is left in the runtime's state directory, and remove that, if the container's is not above it.

    gVisor mounts a network namespace there, and keeps it for further containers: of which there are none.
    """
    for path in mounts_below(os.path.realpath(runtime.root)):
        _unmount(path)
    if os.path.dirname(runtime.root) != state_dir:
        import shutil

        with contextlib.suppress(FileNotFoundError):
            shutil.rmtree(runtime.root)


def mounts_below(path: str) -> Sequence[str]:
    """Return the places below a directory where something is mounted, the last mount first."""
    with open("/proc/self/mountinfo", "rb") as file:
        points = [_unescaped(line.split(b" ", 5)[4]) for line in file]
    return [os.fsdecode(point) for point in reversed(points) if point.startswith(os.fsencode(path) + b"/")]


def _unescaped(point: bytes) -> bytes:
    for escape, character in _ESCAPES.items():  # the backslash last: what it makes is no escape
        point = point.replace(escape, character)
    return point


def _unmount(path: str) -> None:
    import ctypes

    libc = ctypes.CDLL(None, use_errno=True)
    if libc.umount2(os.fsencode(path), _MNT_DETACH | _UMOUNT_NOFOLLOW) < 0:
        number = ctypes.get_errno()
        raise OSError(number, f"umount2: {os.strerror(number)}", path)
