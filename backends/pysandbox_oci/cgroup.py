"""The cgroups that a runtime has put a container's init into: the kernel tells, whatever the runtime's layout."""

from __future__ import annotations

from pysandbox.cgroup.layout import parse_own, read_layout
from pysandbox.errors import Unimplemented

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Mapping
    from typing import Any

    from pysandbox.cgroup.layout import Layout
    from pysandbox.cgroup.oom import OomWatch


def watch_memory(pid: int) -> OomWatch | None:
    """Watch the memory cgroup of a process, None if it has ended. Raises Unimplemented where it has none of its own."""
    from pysandbox.cgroup.oom import v1_oom_watch, v2_oom_watch

    layout = read_layout()
    places = _places(pid, layout)
    if places is None:
        return None
    legacy = any("memory" in hierarchy.controllers for hierarchy in layout.legacy)
    if (path := places.get("memory" if legacy else "")) is None:
        raise Unimplemented("oom events: the runtime has given the container no memory cgroup of its own")
    return v1_oom_watch(path) if legacy else v2_oom_watch(path)


def read_stats(pid: int) -> Mapping[str, Any]:
    """Read the usage of a process's cgroups, as runc's `events --stats` has it. Raises Unimplemented as above."""
    from pysandbox.cgroup.stats import v1_stats, v2_stats

    layout = read_layout()
    places = _places(pid, layout)
    if not places:
        raise Unimplemented("stats: the runtime has given the container no cgroup of its own")
    return v2_stats(places[""]) if layout.unified_only else v1_stats(places)


def _places(pid: int, layout: Layout) -> dict[str, str] | None:
    """Return the directory of each cgroup that is not our own as well, by controller; None if the process has ended."""
    try:
        with open(f"/proc/{pid}/cgroup", "rb", buffering=0) as file:
            where = parse_own(file.readall().decode("utf-8", "surrogateescape"))
    except (FileNotFoundError, ProcessLookupError):
        return None
    hierarchies = [(hierarchy, hierarchy.controllers) for hierarchy in layout.legacy]
    if layout.unified is not None:
        hierarchies.append((layout.unified, ("",)))
    return {
        controller: hierarchy.directory(where[controller])
        for hierarchy, controllers in hierarchies
        for controller in controllers
        if controller in where and where[controller] != layout.own.get(controller)
    }
