"""Messages of containerd.task.v2. Made by pysandbox.ttrpc.generate from proto/task.proto: do not edit."""

from __future__ import annotations

from pysandbox.shim.messages.process import ProcessInfo
from pysandbox.shim.messages.types import Mount
from pysandbox.ttrpc.message import BOOL, INT32, MAP, MESSAGE, REPEATED, SINGLE, STRING, UINT32, Message
from pysandbox.ttrpc.messages.wellknown import Any, Empty, Timestamp
from pysandbox.ttrpc.service import Method, Service

TYPE_CHECKING = False

class StateRequest(Message):
    """containerd.task.v2.StateRequest."""

    __slots__ = ("id", "exec_id",)
    NAME = "containerd.task.v2.StateRequest"
    FIELDS = (
        (1, "id", STRING, SINGLE, None),
        (2, "exec_id", STRING, SINGLE, None),
    )
    if TYPE_CHECKING:
        id: str
        exec_id: str
        def __init__(self, *, id: str = "", exec_id: str = "") -> None: ...


class StateResponse(Message):
    """containerd.task.v2.StateResponse."""

    __slots__ = ("id", "bundle", "pid", "status", "stdin", "stdout", "stderr", "terminal", "exit_status", "exited_at", "exec_id",)
    NAME = "containerd.task.v2.StateResponse"
    FIELDS = (
        (1, "id", STRING, SINGLE, None),
        (2, "bundle", STRING, SINGLE, None),
        (3, "pid", UINT32, SINGLE, None),
        (4, "status", INT32, SINGLE, None),
        (5, "stdin", STRING, SINGLE, None),
        (6, "stdout", STRING, SINGLE, None),
        (7, "stderr", STRING, SINGLE, None),
        (8, "terminal", BOOL, SINGLE, None),
        (9, "exit_status", UINT32, SINGLE, None),
        (10, "exited_at", MESSAGE, SINGLE, Timestamp),
        (11, "exec_id", STRING, SINGLE, None),
    )
    if TYPE_CHECKING:
        id: str
        bundle: str
        pid: int
        status: int
        stdin: str
        stdout: str
        stderr: str
        terminal: bool
        exit_status: int
        exited_at: Timestamp | None
        exec_id: str
        def __init__(self, *, id: str = "", bundle: str = "", pid: int = 0, status: int = 0, stdin: str = "", stdout: str = "", stderr: str = "", terminal: bool = False, exit_status: int = 0, exited_at: Timestamp | None = None, exec_id: str = "") -> None: ...


class CreateTaskRequest(Message):
    """containerd.task.v2.CreateTaskRequest."""

    __slots__ = ("id", "bundle", "rootfs", "terminal", "stdin", "stdout", "stderr", "checkpoint", "parent_checkpoint", "options",)
    NAME = "containerd.task.v2.CreateTaskRequest"
    FIELDS = (
        (1, "id", STRING, SINGLE, None),
        (2, "bundle", STRING, SINGLE, None),
        (3, "rootfs", MESSAGE, REPEATED, Mount),
        (4, "terminal", BOOL, SINGLE, None),
        (5, "stdin", STRING, SINGLE, None),
        (6, "stdout", STRING, SINGLE, None),
        (7, "stderr", STRING, SINGLE, None),
        (8, "checkpoint", STRING, SINGLE, None),
        (9, "parent_checkpoint", STRING, SINGLE, None),
        (10, "options", MESSAGE, SINGLE, Any),
    )
    if TYPE_CHECKING:
        id: str
        bundle: str
        rootfs: list[Mount]
        terminal: bool
        stdin: str
        stdout: str
        stderr: str
        checkpoint: str
        parent_checkpoint: str
        options: Any | None
        def __init__(self, *, id: str = "", bundle: str = "", rootfs: list[Mount] = ..., terminal: bool = False, stdin: str = "", stdout: str = "", stderr: str = "", checkpoint: str = "", parent_checkpoint: str = "", options: Any | None = None) -> None: ...


class CreateTaskResponse(Message):
    """containerd.task.v2.CreateTaskResponse."""

    __slots__ = ("pid",)
    NAME = "containerd.task.v2.CreateTaskResponse"
    FIELDS = (
        (1, "pid", UINT32, SINGLE, None),
    )
    if TYPE_CHECKING:
        pid: int
        def __init__(self, *, pid: int = 0) -> None: ...


class StartRequest(Message):
    """containerd.task.v2.StartRequest."""

    __slots__ = ("id", "exec_id",)
    NAME = "containerd.task.v2.StartRequest"
    FIELDS = (
        (1, "id", STRING, SINGLE, None),
        (2, "exec_id", STRING, SINGLE, None),
    )
    if TYPE_CHECKING:
        id: str
        exec_id: str
        def __init__(self, *, id: str = "", exec_id: str = "") -> None: ...


class StartResponse(Message):
    """containerd.task.v2.StartResponse."""

    __slots__ = ("pid",)
    NAME = "containerd.task.v2.StartResponse"
    FIELDS = (
        (1, "pid", UINT32, SINGLE, None),
    )
    if TYPE_CHECKING:
        pid: int
        def __init__(self, *, pid: int = 0) -> None: ...


class DeleteRequest(Message):
    """containerd.task.v2.DeleteRequest."""

    __slots__ = ("id", "exec_id",)
    NAME = "containerd.task.v2.DeleteRequest"
    FIELDS = (
        (1, "id", STRING, SINGLE, None),
        (2, "exec_id", STRING, SINGLE, None),
    )
    if TYPE_CHECKING:
        id: str
        exec_id: str
        def __init__(self, *, id: str = "", exec_id: str = "") -> None: ...


class DeleteResponse(Message):
    """containerd.task.v2.DeleteResponse."""

    __slots__ = ("pid", "exit_status", "exited_at",)
    NAME = "containerd.task.v2.DeleteResponse"
    FIELDS = (
        (1, "pid", UINT32, SINGLE, None),
        (2, "exit_status", UINT32, SINGLE, None),
        (3, "exited_at", MESSAGE, SINGLE, Timestamp),
    )
    if TYPE_CHECKING:
        pid: int
        exit_status: int
        exited_at: Timestamp | None
        def __init__(self, *, pid: int = 0, exit_status: int = 0, exited_at: Timestamp | None = None) -> None: ...


class PidsRequest(Message):
    """containerd.task.v2.PidsRequest."""

    __slots__ = ("id",)
    NAME = "containerd.task.v2.PidsRequest"
    FIELDS = (
        (1, "id", STRING, SINGLE, None),
    )
    if TYPE_CHECKING:
        id: str
        def __init__(self, *, id: str = "") -> None: ...


class PidsResponse(Message):
    """containerd.task.v2.PidsResponse."""

    __slots__ = ("processes",)
    NAME = "containerd.task.v2.PidsResponse"
    FIELDS = (
        (1, "processes", MESSAGE, REPEATED, ProcessInfo),
    )
    if TYPE_CHECKING:
        processes: list[ProcessInfo]
        def __init__(self, *, processes: list[ProcessInfo] = ...) -> None: ...


class PauseRequest(Message):
    """containerd.task.v2.PauseRequest."""

    __slots__ = ("id",)
    NAME = "containerd.task.v2.PauseRequest"
    FIELDS = (
        (1, "id", STRING, SINGLE, None),
    )
    if TYPE_CHECKING:
        id: str
        def __init__(self, *, id: str = "") -> None: ...


class ResumeRequest(Message):
    """containerd.task.v2.ResumeRequest."""

    __slots__ = ("id",)
    NAME = "containerd.task.v2.ResumeRequest"
    FIELDS = (
        (1, "id", STRING, SINGLE, None),
    )
    if TYPE_CHECKING:
        id: str
        def __init__(self, *, id: str = "") -> None: ...


class CheckpointTaskRequest(Message):
    """containerd.task.v2.CheckpointTaskRequest."""

    __slots__ = ("id", "path", "options",)
    NAME = "containerd.task.v2.CheckpointTaskRequest"
    FIELDS = (
        (1, "id", STRING, SINGLE, None),
        (2, "path", STRING, SINGLE, None),
        (3, "options", MESSAGE, SINGLE, Any),
    )
    if TYPE_CHECKING:
        id: str
        path: str
        options: Any | None
        def __init__(self, *, id: str = "", path: str = "", options: Any | None = None) -> None: ...


class KillRequest(Message):
    """containerd.task.v2.KillRequest."""

    __slots__ = ("id", "exec_id", "signal", "all",)
    NAME = "containerd.task.v2.KillRequest"
    FIELDS = (
        (1, "id", STRING, SINGLE, None),
        (2, "exec_id", STRING, SINGLE, None),
        (3, "signal", UINT32, SINGLE, None),
        (4, "all", BOOL, SINGLE, None),
    )
    if TYPE_CHECKING:
        id: str
        exec_id: str
        signal: int
        all: bool
        def __init__(self, *, id: str = "", exec_id: str = "", signal: int = 0, all: bool = False) -> None: ...


class ExecProcessRequest(Message):
    """containerd.task.v2.ExecProcessRequest."""

    __slots__ = ("id", "exec_id", "terminal", "stdin", "stdout", "stderr", "spec",)
    NAME = "containerd.task.v2.ExecProcessRequest"
    FIELDS = (
        (1, "id", STRING, SINGLE, None),
        (2, "exec_id", STRING, SINGLE, None),
        (3, "terminal", BOOL, SINGLE, None),
        (4, "stdin", STRING, SINGLE, None),
        (5, "stdout", STRING, SINGLE, None),
        (6, "stderr", STRING, SINGLE, None),
        (7, "spec", MESSAGE, SINGLE, Any),
    )
    if TYPE_CHECKING:
        id: str
        exec_id: str
        terminal: bool
        stdin: str
        stdout: str
        stderr: str
        spec: Any | None
        def __init__(self, *, id: str = "", exec_id: str = "", terminal: bool = False, stdin: str = "", stdout: str = "", stderr: str = "", spec: Any | None = None) -> None: ...


class ResizePtyRequest(Message):
    """containerd.task.v2.ResizePtyRequest."""

    __slots__ = ("id", "exec_id", "width", "height",)
    NAME = "containerd.task.v2.ResizePtyRequest"
    FIELDS = (
        (1, "id", STRING, SINGLE, None),
        (2, "exec_id", STRING, SINGLE, None),
        (3, "width", UINT32, SINGLE, None),
        (4, "height", UINT32, SINGLE, None),
    )
    if TYPE_CHECKING:
        id: str
        exec_id: str
        width: int
        height: int
        def __init__(self, *, id: str = "", exec_id: str = "", width: int = 0, height: int = 0) -> None: ...


class CloseIORequest(Message):
    """containerd.task.v2.CloseIORequest."""

    __slots__ = ("id", "exec_id", "stdin",)
    NAME = "containerd.task.v2.CloseIORequest"
    FIELDS = (
        (1, "id", STRING, SINGLE, None),
        (2, "exec_id", STRING, SINGLE, None),
        (3, "stdin", BOOL, SINGLE, None),
    )
    if TYPE_CHECKING:
        id: str
        exec_id: str
        stdin: bool
        def __init__(self, *, id: str = "", exec_id: str = "", stdin: bool = False) -> None: ...


class UpdateTaskRequest(Message):
    """containerd.task.v2.UpdateTaskRequest."""

    __slots__ = ("id", "resources", "annotations",)
    NAME = "containerd.task.v2.UpdateTaskRequest"
    FIELDS = (
        (1, "id", STRING, SINGLE, None),
        (2, "resources", MESSAGE, SINGLE, Any),
        (3, "annotations", MESSAGE, MAP, (STRING, STRING)),
    )
    if TYPE_CHECKING:
        id: str
        resources: Any | None
        annotations: dict[str, str]
        def __init__(self, *, id: str = "", resources: Any | None = None, annotations: dict[str, str] = ...) -> None: ...


class WaitRequest(Message):
    """containerd.task.v2.WaitRequest."""

    __slots__ = ("id", "exec_id",)
    NAME = "containerd.task.v2.WaitRequest"
    FIELDS = (
        (1, "id", STRING, SINGLE, None),
        (2, "exec_id", STRING, SINGLE, None),
    )
    if TYPE_CHECKING:
        id: str
        exec_id: str
        def __init__(self, *, id: str = "", exec_id: str = "") -> None: ...


class WaitResponse(Message):
    """containerd.task.v2.WaitResponse."""

    __slots__ = ("exit_status", "exited_at",)
    NAME = "containerd.task.v2.WaitResponse"
    FIELDS = (
        (1, "exit_status", UINT32, SINGLE, None),
        (2, "exited_at", MESSAGE, SINGLE, Timestamp),
    )
    if TYPE_CHECKING:
        exit_status: int
        exited_at: Timestamp | None
        def __init__(self, *, exit_status: int = 0, exited_at: Timestamp | None = None) -> None: ...


class StatsRequest(Message):
    """containerd.task.v2.StatsRequest."""

    __slots__ = ("id",)
    NAME = "containerd.task.v2.StatsRequest"
    FIELDS = (
        (1, "id", STRING, SINGLE, None),
    )
    if TYPE_CHECKING:
        id: str
        def __init__(self, *, id: str = "") -> None: ...


class StatsResponse(Message):
    """containerd.task.v2.StatsResponse."""

    __slots__ = ("stats",)
    NAME = "containerd.task.v2.StatsResponse"
    FIELDS = (
        (1, "stats", MESSAGE, SINGLE, Any),
    )
    if TYPE_CHECKING:
        stats: Any | None
        def __init__(self, *, stats: Any | None = None) -> None: ...


class ConnectRequest(Message):
    """containerd.task.v2.ConnectRequest."""

    __slots__ = ("id",)
    NAME = "containerd.task.v2.ConnectRequest"
    FIELDS = (
        (1, "id", STRING, SINGLE, None),
    )
    if TYPE_CHECKING:
        id: str
        def __init__(self, *, id: str = "") -> None: ...


class ConnectResponse(Message):
    """containerd.task.v2.ConnectResponse."""

    __slots__ = ("shim_pid", "task_pid", "version",)
    NAME = "containerd.task.v2.ConnectResponse"
    FIELDS = (
        (1, "shim_pid", UINT32, SINGLE, None),
        (2, "task_pid", UINT32, SINGLE, None),
        (3, "version", STRING, SINGLE, None),
    )
    if TYPE_CHECKING:
        shim_pid: int
        task_pid: int
        version: str
        def __init__(self, *, shim_pid: int = 0, task_pid: int = 0, version: str = "") -> None: ...


class ShutdownRequest(Message):
    """containerd.task.v2.ShutdownRequest."""

    __slots__ = ("id", "now",)
    NAME = "containerd.task.v2.ShutdownRequest"
    FIELDS = (
        (1, "id", STRING, SINGLE, None),
        (2, "now", BOOL, SINGLE, None),
    )
    if TYPE_CHECKING:
        id: str
        now: bool
        def __init__(self, *, id: str = "", now: bool = False) -> None: ...


Task = Service(
    "containerd.task.v2.Task",
    (
        Method("State", StateRequest, StateResponse),
        Method("Create", CreateTaskRequest, CreateTaskResponse),
        Method("Start", StartRequest, StartResponse),
        Method("Delete", DeleteRequest, DeleteResponse),
        Method("Pids", PidsRequest, PidsResponse),
        Method("Pause", PauseRequest, Empty),
        Method("Resume", ResumeRequest, Empty),
        Method("Checkpoint", CheckpointTaskRequest, Empty),
        Method("Kill", KillRequest, Empty),
        Method("Exec", ExecProcessRequest, Empty),
        Method("ResizePty", ResizePtyRequest, Empty),
        Method("CloseIO", CloseIORequest, Empty),
        Method("Update", UpdateTaskRequest, Empty),
        Method("Wait", WaitRequest, WaitResponse),
        Method("Stats", StatsRequest, StatsResponse),
        Method("Connect", ConnectRequest, ConnectResponse),
        Method("Shutdown", ShutdownRequest, Empty),
    ),
)
