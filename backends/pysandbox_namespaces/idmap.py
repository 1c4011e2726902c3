"""Id maps that have to be set from outside: of a user namespace, and of mounts that its init has opened."""

from __future__ import annotations

import os

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Sequence

    from pysandbox.oci.types import IdMapping

#: Where the executor waits for `set_id_map`: see `request_id_map` in pysandbox.plan.operation.
ID_MAP_STOPS = frozenset(("id_map_mount", "id_map_tree"))

# linux/mount.h, linux/fcntl.h; the number of the call is the same on every architecture.
_SYS_MOUNT_SETATTR = 442
_MOUNT_ATTR_IDMAP = 0x100000
_AT_EMPTY_PATH = 0x1000
_AT_RECURSIVE = 0x8000


def write_id_maps(pid: int, uid_mappings: Sequence[IdMapping], gid_mappings: Sequence[IdMapping]) -> None:
    """Write /proc/PID/uid_map and gid_map, each in the single write(2) that the kernel accepts."""
    write_process_file(pid, "uid_map", _lines(uid_mappings))
    write_process_file(pid, "gid_map", _lines(gid_mappings))


def _lines(mappings: Sequence[IdMapping]) -> bytes:
    return b"".join(b"%d %d %d\n" % (m["containerID"], m["hostID"], m["size"]) for m in mappings)


def write_process_file(pid: int, name: str, content: bytes) -> None:
    """Write a file of /proc/PID in one call; nothing to write is no call."""
    if not content:
        return
    path = f"/proc/{pid}/{name}"
    descriptor = os.open(path, os.O_WRONLY | os.O_CLOEXEC)
    try:
        os.write(descriptor, content)
    except OSError as error:
        error.filename = path
        raise
    finally:
        os.close(descriptor)


def set_id_map(mount: int, namespace: int, *, recursive: bool) -> None:
    """Give a detached mount the id map of a user namespace: mount_setattr(2). Closes both descriptors."""
    import ctypes
    import struct

    attributes = struct.pack("4Q", _MOUNT_ATTR_IDMAP, 0, 0, namespace)
    flags = _AT_EMPTY_PATH | (_AT_RECURSIVE if recursive else 0)
    call = ctypes.CDLL(None, use_errno=True).syscall
    try:
        result = call(
            ctypes.c_long(_SYS_MOUNT_SETATTR), mount, b"", flags, attributes, ctypes.c_size_t(len(attributes))
        )
        if result != 0:
            number = ctypes.get_errno()
            raise OSError(number, f"mount_setattr: set id map: {os.strerror(number)}")
    finally:
        os.close(mount)
        os.close(namespace)
