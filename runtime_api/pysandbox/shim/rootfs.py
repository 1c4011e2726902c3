"""The container's root file system, where containerd leaves mounting it to the shim.

The mounts go onto the bundle's `rootfs`, in containerd's own directory, where no container can put a link.
"""

from __future__ import annotations

import errno
import os

from pysandbox.errors import InvalidArgument

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Sequence

    from pysandbox.shim.messages.types import Mount

_MNT_DETACH, _UMOUNT_NOFOLLOW = 2, 8  # umount2(2)
#: More mounts than this on one directory are not ours.
_DEPTH_LIMIT = 64


def mount_all(mounts: Sequence[Mount], bundle: str) -> None:
    """Mount them on the bundle's rootfs, in order; undo all if one fails. Raises InvalidArgument, OSError."""
    if not mounts:
        return
    target = os.path.join(bundle, "rootfs")
    os.makedirs(target, mode=0o711, exist_ok=True)
    try:
        for each in mounts:
            _mount(each, target)
    except BaseException:
        unmount_all(bundle)
        raise


def _mount(mount: Mount, target: str) -> None:
    from pysandbox.oci.mountoptions import MS_BIND, MS_REC, MS_REMOUNT, parse_mount_options

    if mount.target:
        raise InvalidArgument(f"rootfs mount of type {mount.type}: a target {mount.target!r} is not supported")
    parsed = parse_mount_options(mount.options)
    flags, data = parsed.set_flags, ",".join(parsed.data)
    _call_mount(mount.source, target, mount.type, flags, data)
    if flags & MS_BIND and flags & ~(MS_BIND | MS_REC):
        _call_mount(mount.source, target, mount.type, flags & ~MS_REC | MS_REMOUNT, data)


def _call_mount(source: str, target: str, kind: str, flags: int, data: str) -> None:
    """Call mount(2), which reads at most one page of data."""
    import ctypes

    text = os.fsencode(data)
    if len(text) >= os.sysconf("SC_PAGE_SIZE"):
        raise InvalidArgument(f"rootfs mount of type {kind}: options of {len(text)} bytes are too long for mount(2)")
    libc = ctypes.CDLL(None, use_errno=True)
    words = [os.fsencode(source), os.fsencode(target), os.fsencode(kind)]
    if libc.mount(*words, ctypes.c_ulong(flags), text) < 0:
        number = ctypes.get_errno()
        raise OSError(number, f"mount {kind} ({data}): {os.strerror(number)}", target)


def unmount_all(bundle: str) -> None:
    """Take away all that is mounted on the bundle's rootfs, any number of times. Raises OSError."""
    import ctypes

    libc = ctypes.CDLL(None, use_errno=True)
    target = os.path.join(bundle, "rootfs")
    for _ in range(_DEPTH_LIMIT):
        if libc.umount2(os.fsencode(target), _MNT_DETACH | _UMOUNT_NOFOLLOW) < 0:
            number = ctypes.get_errno()
            if number in (errno.EINVAL, errno.ENOENT):  # not a mount point, or not there
                return
            raise OSError(number, os.strerror(number), target)
