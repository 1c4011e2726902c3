"""The container's root file system, where containerd leaves mounting it to the shim.

The mounts go onto the bundle's `rootfs`, in containerd's own directory, where no container can put a link.
"""

from __future__ import annotations

import errno
import os

from pysandbox.errors import InvalidArgument, Unimplemented

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Sequence

    from pysandbox.shim.messages.types import Mount

_MNT_DETACH, _UMOUNT_NOFOLLOW = 2, 8  # umount2(2)
#: More mounts than this on one directory are not ours.
_DEPTH_LIMIT = 64
_ID_MAPS = ("uidmap=", "gidmap=")


def mount_all(mounts: Sequence[Mount], bundle: str) -> None:
    """Mount them on the bundle's rootfs, in order; undo all if one fails. Raises InvalidArgument, OSError."""
    if not mounts:
        return
    target = os.path.join(bundle, "rootfs")
    os.makedirs(target, mode=0o711, exist_ok=True)
    try:
        for each in mounts:
            _mount(each, bundle, target)
    except BaseException:
        unmount_all(bundle)
        raise


def _mount(mount: Mount, bundle: str, target: str) -> None:
    if mount.target:
        raise InvalidArgument(f"rootfs mount of type {mount.type}: a target {mount.target!r} is not supported")
    if any(option.startswith(_ID_MAPS) for option in mount.options):
        _mount_shifted(mount, bundle, target)
    else:
        _mount_plain(mount, mount.options, target)


def _mount_shifted(mount: Mount, bundle: str, target: str) -> None:
    """Mount with the ids of a pod's user namespace."""
    from pysandbox.shim.idmapped import lower_directories, mount_shifted, split_maps, user_namespace

    options, maps = split_maps(mount.options)
    with user_namespace(maps) as namespace:
        if mount.type == "overlay":
            with lower_directories(options, bundle, namespace) as shifted:
                _mount_plain(mount, shifted, target)
        elif "bind" in options or "rbind" in options:
            mount_shifted(mount.source, target, namespace)
            _restrict(options, target)
        else:
            raise Unimplemented(f"rootfs mount of type {mount.type}: its ids cannot be shifted")


def _mount_plain(mount: Mount, options: Sequence[str], target: str) -> None:
    from pysandbox.oci.mountoptions import MS_BIND, parse_mount_options

    parsed = parse_mount_options(options)
    _call_mount(mount.source, target, mount.type, parsed.set_flags, ",".join(parsed.data))
    if parsed.set_flags & MS_BIND:
        _restrict(options, target)


def _restrict(options: Sequence[str], target: str) -> None:
    """Give a bind mount the flags that mount(2) does not take at once."""
    from pysandbox.oci.mountoptions import MS_BIND, MS_REC, MS_REMOUNT, parse_mount_options

    flags = parse_mount_options(options).set_flags
    if flags & ~(MS_BIND | MS_REC):
        _call_mount("", target, "", flags & ~MS_REC | MS_BIND | MS_REMOUNT, "")


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

    from pysandbox.shim.idmapped import remove_lower_directories

    remove_lower_directories(bundle)

    libc = ctypes.CDLL(None, use_errno=True)
    target = os.path.join(bundle, "rootfs")
    for _ in range(_DEPTH_LIMIT):
        if libc.umount2(os.fsencode(target), _MNT_DETACH | _UMOUNT_NOFOLLOW) < 0:
            number = ctypes.get_errno()
            if number in (errno.EINVAL, errno.ENOENT):  # not a mount point, or not there
                return
            raise OSError(number, os.strerror(number), target)
