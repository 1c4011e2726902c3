"""Usage of a container in a machine: what the guest's kernel counts, in the shape of runc's `events --stats`."""

from __future__ import annotations

from pysandbox.cgroup.stats import v2_stats
from pysandbox.errors import Unknown

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Mapping
    from typing import Any

_HUGE_PAGES = tuple(
    f"hugetlb.{size}.{name}" for size in ("2MB", "1GB") for name in ("max", "current", "events", "rsvd.current")
)
#: The files of the guest's cgroup that it is made of.
FILES = (
    "cpu.stat", "cpu.pressure", "memory.stat", "memory.current", "memory.max", "memory.peak", "memory.swap.current",
    "memory.swap.max", "memory.events", "memory.pressure", "pids.current", "pids.max", "io.stat", "io.pressure",
    *_HUGE_PAGES,
)  # fmt: skip


def stats(contents: Mapping[str, str]) -> dict[str, Any]:
    """Return the document. Raises Unknown for files of a guest that are not what a kernel writes."""
    try:
        return v2_stats(contents)
    except (ValueError, IndexError, KeyError, TypeError) as error:
        raise Unknown(f"the guest's statistics are none: {error!r:.200}") from None
