"""Messages of containerd.events. Made by pysandbox.ttrpc.generate from proto/events.proto: do not edit."""

from __future__ import annotations

from pysandbox.shim.messages.types import Mount
from pysandbox.ttrpc.message import BOOL, MESSAGE, REPEATED, SINGLE, STRING, UINT32, Message
from pysandbox.ttrpc.messages.wellknown import Timestamp

TYPE_CHECKING = False

class TaskIO(Message):
    """containerd.events.TaskIO."""

    __slots__ = ("stdin", "stdout", "stderr", "terminal",)
    NAME = "containerd.events.TaskIO"
    FIELDS = (
        (1, "stdin", STRING, SINGLE, None),
        (2, "stdout", STRING, SINGLE, None),
        (3, "stderr", STRING, SINGLE, None),
        (4, "terminal", BOOL, SINGLE, None),
    )
    if TYPE_CHECKING:
        stdin: str
        stdout: str
        stderr: str
        terminal: bool
        def __init__(self, *, stdin: str = "", stdout: str = "", stderr: str = "", terminal: bool = False) -> None: ...


class TaskStart(Message):
    """containerd.events.TaskStart."""

    __slots__ = ("container_id", "pid",)
    NAME = "containerd.events.TaskStart"
    FIELDS = (
        (1, "container_id", STRING, SINGLE, None),
        (2, "pid", UINT32, SINGLE, None),
    )
    if TYPE_CHECKING:
        container_id: str
        pid: int
        def __init__(self, *, container_id: str = "", pid: int = 0) -> None: ...


class TaskExit(Message):
    """containerd.events.TaskExit."""

    __slots__ = ("container_id", "id", "pid", "exit_status", "exited_at",)
    NAME = "containerd.events.TaskExit"
    FIELDS = (
        (1, "container_id", STRING, SINGLE, None),
        (2, "id", STRING, SINGLE, None),
        (3, "pid", UINT32, SINGLE, None),
        (4, "exit_status", UINT32, SINGLE, None),
        (5, "exited_at", MESSAGE, SINGLE, Timestamp),
    )
    if TYPE_CHECKING:
        container_id: str
        id: str
        pid: int
        exit_status: int
        exited_at: Timestamp | None
        def __init__(self, *, container_id: str = "", id: str = "", pid: int = 0, exit_status: int = 0, exited_at: Timestamp | None = None) -> None: ...


class TaskDelete(Message):
    """containerd.events.TaskDelete."""

    __slots__ = ("container_id", "pid", "exit_status", "exited_at", "id",)
    NAME = "containerd.events.TaskDelete"
    FIELDS = (
        (1, "container_id", STRING, SINGLE, None),
        (2, "pid", UINT32, SINGLE, None),
        (3, "exit_status", UINT32, SINGLE, None),
        (4, "exited_at", MESSAGE, SINGLE, Timestamp),
        (5, "id", STRING, SINGLE, None),
    )
    if TYPE_CHECKING:
        container_id: str
        pid: int
        exit_status: int
        exited_at: Timestamp | None
        id: str
        def __init__(self, *, container_id: str = "", pid: int = 0, exit_status: int = 0, exited_at: Timestamp | None = None, id: str = "") -> None: ...


class TaskExecAdded(Message):
    """containerd.events.TaskExecAdded."""

    __slots__ = ("container_id", "exec_id",)
    NAME = "containerd.events.TaskExecAdded"
    FIELDS = (
        (1, "container_id", STRING, SINGLE, None),
        (2, "exec_id", STRING, SINGLE, None),
    )
    if TYPE_CHECKING:
        container_id: str
        exec_id: str
        def __init__(self, *, container_id: str = "", exec_id: str = "") -> None: ...


class TaskExecStarted(Message):
    """containerd.events.TaskExecStarted."""

    __slots__ = ("container_id", "exec_id", "pid",)
    NAME = "containerd.events.TaskExecStarted"
    FIELDS = (
        (1, "container_id", STRING, SINGLE, None),
        (2, "exec_id", STRING, SINGLE, None),
        (3, "pid", UINT32, SINGLE, None),
    )
    if TYPE_CHECKING:
        container_id: str
        exec_id: str
        pid: int
        def __init__(self, *, container_id: str = "", exec_id: str = "", pid: int = 0) -> None: ...


class TaskOOM(Message):
    """containerd.events.TaskOOM."""

    __slots__ = ("container_id",)
    NAME = "containerd.events.TaskOOM"
    FIELDS = (
        (1, "container_id", STRING, SINGLE, None),
    )
    if TYPE_CHECKING:
        container_id: str
        def __init__(self, *, container_id: str = "") -> None: ...


class TaskPaused(Message):
    """containerd.events.TaskPaused."""

    __slots__ = ("container_id",)
    NAME = "containerd.events.TaskPaused"
    FIELDS = (
        (1, "container_id", STRING, SINGLE, None),
    )
    if TYPE_CHECKING:
        container_id: str
        def __init__(self, *, container_id: str = "") -> None: ...


class TaskResumed(Message):
    """containerd.events.TaskResumed."""

    __slots__ = ("container_id",)
    NAME = "containerd.events.TaskResumed"
    FIELDS = (
        (1, "container_id", STRING, SINGLE, None),
    )
    if TYPE_CHECKING:
        container_id: str
        def __init__(self, *, container_id: str = "") -> None: ...


class TaskCheckpointed(Message):
    """containerd.events.TaskCheckpointed."""

    __slots__ = ("container_id", "checkpoint",)
    NAME = "containerd.events.TaskCheckpointed"
    FIELDS = (
        (1, "container_id", STRING, SINGLE, None),
        (2, "checkpoint", STRING, SINGLE, None),
    )
    if TYPE_CHECKING:
        container_id: str
        checkpoint: str
        def __init__(self, *, container_id: str = "", checkpoint: str = "") -> None: ...


class TaskCreate(Message):
    """containerd.events.TaskCreate."""

    __slots__ = ("container_id", "bundle", "rootfs", "io", "checkpoint", "pid",)
    NAME = "containerd.events.TaskCreate"
    FIELDS = (
        (1, "container_id", STRING, SINGLE, None),
        (2, "bundle", STRING, SINGLE, None),
        (3, "rootfs", MESSAGE, REPEATED, Mount),
        (4, "io", MESSAGE, SINGLE, TaskIO),
        (5, "checkpoint", STRING, SINGLE, None),
        (6, "pid", UINT32, SINGLE, None),
    )
    if TYPE_CHECKING:
        container_id: str
        bundle: str
        rootfs: list[Mount]
        io: TaskIO | None
        checkpoint: str
        pid: int
        def __init__(self, *, container_id: str = "", bundle: str = "", rootfs: list[Mount] = ..., io: TaskIO | None = None, checkpoint: str = "", pid: int = 0) -> None: ...
