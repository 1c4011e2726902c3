"""Messages of containerd.v1.types. Made by pysandbox.ttrpc.generate from proto/process.proto: do not edit."""

from __future__ import annotations

from pysandbox.ttrpc.message import MESSAGE, SINGLE, UINT32, Message
from pysandbox.ttrpc.messages.wellknown import Any

TYPE_CHECKING = False

class Status:
    """containerd.v1.types.Status."""

    UNKNOWN = 0
    CREATED = 1
    RUNNING = 2
    STOPPED = 3
    PAUSED = 4
    PAUSING = 5


class ProcessInfo(Message):
    """containerd.v1.types.ProcessInfo."""

    __slots__ = ("pid", "info",)
    NAME = "containerd.v1.types.ProcessInfo"
    FIELDS = (
        (1, "pid", UINT32, SINGLE, None),
        (2, "info", MESSAGE, SINGLE, Any),
    )
    if TYPE_CHECKING:
        pid: int
        info: Any | None
        def __init__(self, *, pid: int = 0, info: Any | None = None) -> None: ...
