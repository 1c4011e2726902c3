"""Operations by where they stand in a plan."""

from __future__ import annotations

from pysandbox.record import dataclass, field

TYPE_CHECKING = False
if TYPE_CHECKING:
    from pysandbox.plan.operation import Operation


@dataclass(slots=True)
class Steps:
    """Operations in the outer process, in the container before its root changes, and after."""

    outer: list[Operation] = field(default_factory=list)
    inner: list[Operation] = field(default_factory=list)
    late: list[Operation] = field(default_factory=list)
