"""Write a user namespace's id maps from outside, as user_namespaces(7) demands."""

from __future__ import annotations

import os

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Sequence

    from pysandbox.oci.types import IdMapping


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
