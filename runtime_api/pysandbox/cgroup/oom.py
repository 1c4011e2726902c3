"""Being told that the kernel ran out of a cgroup's memory.

Sources: the kernel's admin-guide/cgroup-v1/memory.rst section 10 (OOM control), admin-guide/cgroup-v2.rst
`memory.events` and `cgroup.events`.
"""

from __future__ import annotations

import os

from pysandbox.cgroup import directory
from pysandbox.cgroup.directory import GONE, CgroupError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator


def v1_oom_events(path: str) -> Iterator[int]:
    """Yield how many there were since the last time, blocking between; end when the cgroup is gone."""
    event = os.eventfd(0, os.EFD_CLOEXEC)
    try:
        control = os.open(os.path.join(path, "memory.oom_control"), os.O_RDONLY | os.O_CLOEXEC)
        try:
            directory.write(path, "cgroup.event_control", f"{event} {control}")
        except CgroupError as error:
            if error.errno in GONE:
                return
            raise
        finally:
            os.close(control)
        while True:
            count = os.eventfd_read(event)
            if not directory.exists(path, "memory.oom_control"):
                return  # the kernel signals the removal of the cgroup in the same way
            yield count
    except FileNotFoundError:
        return
    finally:
        os.close(event)


def v2_oom_events(path: str) -> Iterator[int]:
    """Yield how many kills there were since the last time, blocking between; end when nobody is left in the cgroup."""
    import select

    poll = select.poll()
    files: list[int] = []
    try:
        for name in ("memory.events", "cgroup.events"):
            files.append(os.open(os.path.join(path, name), os.O_RDONLY | os.O_CLOEXEC))
            poll.register(files[-1], select.POLLPRI)
        before = _read_key(files[0], "oom_kill")
        while True:
            kills = _read_key(files[0], "oom_kill")
            if kills > before:
                yield kills - before
                before = kills
            if not _read_key(files[1], "populated"):
                return
            poll.poll()
    except OSError as error:
        if error.errno not in GONE:
            raise
    finally:
        for file in files:
            os.close(file)


def _read_key(file: int, key: str) -> int:
    """Return one number of a flat keyed file; reading also arms poll(2) for the next change."""
    for line in os.pread(file, 4096, 0).decode().splitlines():
        name, _, value = line.partition(" ")
        if name == key:
            return int(value)
    return 0
