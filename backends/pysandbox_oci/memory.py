"""The memory cgroup that a runtime has put a container's init into: the kernel tells, whatever the runtime's layout."""

from __future__ import annotations

from pysandbox.cgroup.layout import parse_own, read_layout
from pysandbox.cgroup.oom import v1_oom_watch, v2_oom_watch
from pysandbox.errors import Unimplemented

TYPE_CHECKING = False
if TYPE_CHECKING:
    from pysandbox.cgroup.layout import Hierarchy
    from pysandbox.cgroup.oom import OomWatch


def watch_memory(pid: int) -> OomWatch | None:
    """Watch the memory cgroup of a process, None if it has ended. Raises Unimplemented where it has none of its own."""
    layout = read_layout()
    try:
        with open(f"/proc/{pid}/cgroup", "rb", buffering=0) as file:
            where = parse_own(file.readall().decode("utf-8", "surrogateescape"))
    except (FileNotFoundError, ProcessLookupError):
        return None
    for hierarchy, controller in _candidates(layout.legacy, layout.unified):
        if controller not in where:
            continue
        if where[controller] == layout.own.get(controller):
            break  # it was left in ours
        directory = hierarchy.directory(where[controller])
        return v2_oom_watch(directory) if not controller else v1_oom_watch(directory)
    raise Unimplemented("oom events: the runtime has given the container no memory cgroup of its own")


def _candidates(legacy: tuple[Hierarchy, ...], unified: Hierarchy | None) -> list[tuple[Hierarchy, str]]:
    """Return the hierarchy that has the memory controller, with the name by which /proc/PID/cgroup lists it."""
    found = [(hierarchy, "memory") for hierarchy in legacy if "memory" in hierarchy.controllers]
    return found or ([(unified, "")] if unified is not None else [])
