"""The root of a container without a mount namespace: a mount of the host's, which goes with the container.

What such a container mounts would stay behind. So its rootfs is bound to itself first, privately: all its mounts are
made in that one, and detaching it takes them all away.
"""

from __future__ import annotations

import ctypes
import os

from pysandbox.errors import InvalidArgument

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Mapping
    from typing import Any

# sys/mount.h
_MS_BIND, _MS_REC, _MS_PRIVATE = 0x1000, 0x4000, 1 << 18
_MNT_DETACH = 2


class RootMount:
    """A rootfs, the id of the mount that it lay on before it became one itself, and its own id once it has one."""

    def __init__(self, path: str, below: int, own: int = 0) -> None:
        self._path = path
        self._below = below
        self._own = own

    @classmethod
    def plan(cls, rootfs: str) -> RootMount:
        """Look where a rootfs is. Raises InvalidArgument for the host's own root."""
        path = os.path.realpath(rootfs)
        if path == "/":
            raise InvalidArgument("mounts: without a mount namespace they would be mounts of the host")
        descriptor = _open(path)
        try:
            return cls(path, _mount_id(descriptor))
        finally:
            os.close(descriptor)

    @classmethod
    def load(cls, saved: Mapping[str, Any]) -> RootMount:
        """Take hold of one again: `saved` is what `saved()` returned."""
        return cls(saved["path"], saved["below"], saved["own"])

    def saved(self) -> dict[str, Any]:
        """Return a JSON object for `load`."""
        return {"path": self._path, "below": self._below, "own": self._own}

    def attach(self) -> None:
        """Make the rootfs a mount, and private: nothing mounted in it reaches another namespace.

        `saved` is another afterwards: a mount that somebody makes there later is told from ours by its id.
        """
        path = os.fsencode(self._path)
        _call("mount", path, path, None, _MS_BIND | _MS_REC, None)
        _call("mount", None, path, None, _MS_PRIVATE | _MS_REC, None)
        descriptor = _open(self._path)
        try:
            self._own = _mount_id(descriptor)
        finally:
            os.close(descriptor)

    def detach(self) -> None:
        """Take the mount away, with all that is in it. Safe to call when that has been done, or was never attached."""
        try:
            descriptor = _open(self._path)
        except (FileNotFoundError, NotADirectoryError):
            return
        try:
            number = _mount_id(descriptor)
            ours = number == self._own if self._own else number != self._below
            if ours and _is_mounted_at(number, self._path):
                _call("umount2", f"/proc/self/fd/{descriptor}".encode(), _MNT_DETACH)
        finally:
            os.close(descriptor)


def _open(path: str) -> int:
    return os.open(path, os.O_PATH | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC)


def _mount_id(descriptor: int) -> int:
    """Read the id of a descriptor's mount: proc_pid_fdinfo(5)."""
    with open(f"/proc/self/fdinfo/{descriptor}", encoding="ascii") as file:
        return next(int(line.split()[1]) for line in file if line.startswith("mnt_id:"))


def _is_mounted_at(number: int, path: str) -> bool:
    """Say whether a mount's root is at that very path: proc_pid_mountinfo(5) escapes space, tab, newline, backslash."""
    escaped = os.fsencode(path)
    for character in (b"\\", b" ", b"\t", b"\n"):
        escaped = escaped.replace(character, b"\\%03o" % ord(character))
    with open("/proc/self/mountinfo", "rb") as file:
        return any(fields[0] == b"%d" % number and fields[4] == escaped for fields in map(bytes.split, file))


def _call(name: str, *arguments: bytes | int | None) -> None:
    if getattr(ctypes.CDLL(None, use_errno=True), name)(*arguments):
        number = ctypes.get_errno()
        raise OSError(number, f"{name}: {os.strerror(number)}", os.fsdecode(arguments[0] or arguments[1] or b""))  # type: ignore[arg-type]
