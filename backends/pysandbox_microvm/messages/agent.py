"""Messages of pysandbox.agent.v1. Made by pysandbox.ttrpc.generate from proto/agent.proto: do not edit."""

from __future__ import annotations

from pysandbox.ttrpc.message import BOOL, BYTES, MAP, MESSAGE, REPEATED, SINGLE, STRING, UINT32, UINT64, Message
from pysandbox.ttrpc.service import Method, Service

TYPE_CHECKING = False

class Empty(Message):
    """pysandbox.agent.v1.Empty."""

    __slots__ = ()
    NAME = "pysandbox.agent.v1.Empty"


class CheckRequest(Message):
    """pysandbox.agent.v1.CheckRequest."""

    __slots__ = ("version",)
    NAME = "pysandbox.agent.v1.CheckRequest"
    FIELDS = (
        (1, "version", UINT32, SINGLE, None),
    )
    if TYPE_CHECKING:
        version: int
        def __init__(self, *, version: int = 0) -> None: ...


class CheckResponse(Message):
    """pysandbox.agent.v1.CheckResponse."""

    __slots__ = ("version", "kernel", "processors", "memory", "agent",)
    NAME = "pysandbox.agent.v1.CheckResponse"
    FIELDS = (
        (1, "version", UINT32, SINGLE, None),
        (2, "kernel", STRING, SINGLE, None),
        (3, "processors", UINT32, SINGLE, None),
        (4, "memory", UINT64, SINGLE, None),
        (5, "agent", STRING, SINGLE, None),
    )
    if TYPE_CHECKING:
        version: int
        kernel: str
        processors: int
        memory: int
        agent: str
        def __init__(self, *, version: int = 0, kernel: str = "", processors: int = 0, memory: int = 0, agent: str = "") -> None: ...


class PrepareRequest(Message):
    """pysandbox.agent.v1.PrepareRequest."""

    __slots__ = ("seed", "realtime_ns", "hostname",)
    NAME = "pysandbox.agent.v1.PrepareRequest"
    FIELDS = (
        (1, "seed", BYTES, SINGLE, None),
        (2, "realtime_ns", UINT64, SINGLE, None),
        (3, "hostname", STRING, SINGLE, None),
    )
    if TYPE_CHECKING:
        seed: bytes
        realtime_ns: int
        hostname: str
        def __init__(self, *, seed: bytes = b"", realtime_ns: int = 0, hostname: str = "") -> None: ...


class RehearseRequest(Message):
    """pysandbox.agent.v1.RehearseRequest."""

    __slots__ = ("device_program",)
    NAME = "pysandbox.agent.v1.RehearseRequest"
    FIELDS = (
        (1, "device_program", BYTES, SINGLE, None),
    )
    if TYPE_CHECKING:
        device_program: bytes
        def __init__(self, *, device_program: bytes = b"") -> None: ...


class GrowRequest(Message):
    """pysandbox.agent.v1.GrowRequest."""

    __slots__ = ("processors", "memory", "timeout_ms",)
    NAME = "pysandbox.agent.v1.GrowRequest"
    FIELDS = (
        (1, "processors", UINT32, SINGLE, None),
        (2, "memory", UINT64, SINGLE, None),
        (3, "timeout_ms", UINT32, SINGLE, None),
    )
    if TYPE_CHECKING:
        processors: int
        memory: int
        timeout_ms: int
        def __init__(self, *, processors: int = 0, memory: int = 0, timeout_ms: int = 0) -> None: ...


class AttachRequest(Message):
    """pysandbox.agent.v1.AttachRequest."""

    __slots__ = ("name", "kind", "source", "read_only", "timeout_ms",)
    NAME = "pysandbox.agent.v1.AttachRequest"
    FIELDS = (
        (1, "name", STRING, SINGLE, None),
        (2, "kind", STRING, SINGLE, None),
        (3, "source", STRING, SINGLE, None),
        (4, "read_only", BOOL, SINGLE, None),
        (5, "timeout_ms", UINT32, SINGLE, None),
    )
    if TYPE_CHECKING:
        name: str
        kind: str
        source: str
        read_only: bool
        timeout_ms: int
        def __init__(self, *, name: str = "", kind: str = "", source: str = "", read_only: bool = False, timeout_ms: int = 0) -> None: ...


class AttachResponse(Message):
    """pysandbox.agent.v1.AttachResponse."""

    __slots__ = ("path", "major", "minor",)
    NAME = "pysandbox.agent.v1.AttachResponse"
    FIELDS = (
        (1, "path", STRING, SINGLE, None),
        (2, "major", UINT32, SINGLE, None),
        (3, "minor", UINT32, SINGLE, None),
    )
    if TYPE_CHECKING:
        path: str
        major: int
        minor: int
        def __init__(self, *, path: str = "", major: int = 0, minor: int = 0) -> None: ...


class DetachRequest(Message):
    """pysandbox.agent.v1.DetachRequest."""

    __slots__ = ("name",)
    NAME = "pysandbox.agent.v1.DetachRequest"
    FIELDS = (
        (1, "name", STRING, SINGLE, None),
    )
    if TYPE_CHECKING:
        name: str
        def __init__(self, *, name: str = "") -> None: ...


class Interface(Message):
    """pysandbox.agent.v1.Interface."""

    __slots__ = ("mac", "name", "mtu", "addresses",)
    NAME = "pysandbox.agent.v1.Interface"
    FIELDS = (
        (1, "mac", STRING, SINGLE, None),
        (2, "name", STRING, SINGLE, None),
        (3, "mtu", UINT32, SINGLE, None),
        (4, "addresses", STRING, REPEATED, None),
    )
    if TYPE_CHECKING:
        mac: str
        name: str
        mtu: int
        addresses: list[str]
        def __init__(self, *, mac: str = "", name: str = "", mtu: int = 0, addresses: list[str] = ...) -> None: ...


class Route(Message):
    """pysandbox.agent.v1.Route."""

    __slots__ = ("destination", "gateway", "source", "device", "scope", "metric", "onlink", "ipv6",)
    NAME = "pysandbox.agent.v1.Route"
    FIELDS = (
        (1, "destination", STRING, SINGLE, None),
        (2, "gateway", STRING, SINGLE, None),
        (3, "source", STRING, SINGLE, None),
        (4, "device", STRING, SINGLE, None),
        (5, "scope", UINT32, SINGLE, None),
        (6, "metric", UINT32, SINGLE, None),
        (7, "onlink", BOOL, SINGLE, None),
        (8, "ipv6", BOOL, SINGLE, None),
    )
    if TYPE_CHECKING:
        destination: str
        gateway: str
        source: str
        device: str
        scope: int
        metric: int
        onlink: bool
        ipv6: bool
        def __init__(self, *, destination: str = "", gateway: str = "", source: str = "", device: str = "", scope: int = 0, metric: int = 0, onlink: bool = False, ipv6: bool = False) -> None: ...


class Neighbour(Message):
    """pysandbox.agent.v1.Neighbour."""

    __slots__ = ("address", "mac", "device",)
    NAME = "pysandbox.agent.v1.Neighbour"
    FIELDS = (
        (1, "address", STRING, SINGLE, None),
        (2, "mac", STRING, SINGLE, None),
        (3, "device", STRING, SINGLE, None),
    )
    if TYPE_CHECKING:
        address: str
        mac: str
        device: str
        def __init__(self, *, address: str = "", mac: str = "", device: str = "") -> None: ...


class Stdio(Message):
    """pysandbox.agent.v1.Stdio."""

    __slots__ = ("terminal", "width", "height", "stdin",)
    NAME = "pysandbox.agent.v1.Stdio"
    FIELDS = (
        (1, "terminal", BOOL, SINGLE, None),
        (2, "width", UINT32, SINGLE, None),
        (3, "height", UINT32, SINGLE, None),
        (4, "stdin", BOOL, SINGLE, None),
    )
    if TYPE_CHECKING:
        terminal: bool
        width: int
        height: int
        stdin: bool
        def __init__(self, *, terminal: bool = False, width: int = 0, height: int = 0, stdin: bool = False) -> None: ...


class FileWrite(Message):
    """pysandbox.agent.v1.FileWrite."""

    __slots__ = ("file", "value",)
    NAME = "pysandbox.agent.v1.FileWrite"
    FIELDS = (
        (1, "file", STRING, SINGLE, None),
        (2, "value", STRING, SINGLE, None),
    )
    if TYPE_CHECKING:
        file: str
        value: str
        def __init__(self, *, file: str = "", value: str = "") -> None: ...


class ProcessResponse(Message):
    """pysandbox.agent.v1.ProcessResponse."""

    __slots__ = ("pid",)
    NAME = "pysandbox.agent.v1.ProcessResponse"
    FIELDS = (
        (1, "pid", UINT32, SINGLE, None),
    )
    if TYPE_CHECKING:
        pid: int
        def __init__(self, *, pid: int = 0) -> None: ...


class StartRequest(Message):
    """pysandbox.agent.v1.StartRequest."""

    __slots__ = ("container",)
    NAME = "pysandbox.agent.v1.StartRequest"
    FIELDS = (
        (1, "container", STRING, SINGLE, None),
    )
    if TYPE_CHECKING:
        container: str
        def __init__(self, *, container: str = "") -> None: ...


class SignalRequest(Message):
    """pysandbox.agent.v1.SignalRequest."""

    __slots__ = ("container", "exec_id", "signal", "everyone",)
    NAME = "pysandbox.agent.v1.SignalRequest"
    FIELDS = (
        (1, "container", STRING, SINGLE, None),
        (2, "exec_id", STRING, SINGLE, None),
        (3, "signal", UINT32, SINGLE, None),
        (4, "everyone", BOOL, SINGLE, None),
    )
    if TYPE_CHECKING:
        container: str
        exec_id: str
        signal: int
        everyone: bool
        def __init__(self, *, container: str = "", exec_id: str = "", signal: int = 0, everyone: bool = False) -> None: ...


class ResizeRequest(Message):
    """pysandbox.agent.v1.ResizeRequest."""

    __slots__ = ("container", "exec_id", "width", "height",)
    NAME = "pysandbox.agent.v1.ResizeRequest"
    FIELDS = (
        (1, "container", STRING, SINGLE, None),
        (2, "exec_id", STRING, SINGLE, None),
        (3, "width", UINT32, SINGLE, None),
        (4, "height", UINT32, SINGLE, None),
    )
    if TYPE_CHECKING:
        container: str
        exec_id: str
        width: int
        height: int
        def __init__(self, *, container: str = "", exec_id: str = "", width: int = 0, height: int = 0) -> None: ...


class ContainerRequest(Message):
    """pysandbox.agent.v1.ContainerRequest."""

    __slots__ = ("container",)
    NAME = "pysandbox.agent.v1.ContainerRequest"
    FIELDS = (
        (1, "container", STRING, SINGLE, None),
    )
    if TYPE_CHECKING:
        container: str
        def __init__(self, *, container: str = "") -> None: ...


class PidsResponse(Message):
    """pysandbox.agent.v1.PidsResponse."""

    __slots__ = ("pids",)
    NAME = "pysandbox.agent.v1.PidsResponse"
    FIELDS = (
        (1, "pids", UINT32, REPEATED, None),
    )
    if TYPE_CHECKING:
        pids: list[int]
        def __init__(self, *, pids: list[int] = ...) -> None: ...


class ReadRequest(Message):
    """pysandbox.agent.v1.ReadRequest."""

    __slots__ = ("container", "files",)
    NAME = "pysandbox.agent.v1.ReadRequest"
    FIELDS = (
        (1, "container", STRING, SINGLE, None),
        (2, "files", STRING, REPEATED, None),
    )
    if TYPE_CHECKING:
        container: str
        files: list[str]
        def __init__(self, *, container: str = "", files: list[str] = ...) -> None: ...


class ReadResponse(Message):
    """pysandbox.agent.v1.ReadResponse."""

    __slots__ = ("contents",)
    NAME = "pysandbox.agent.v1.ReadResponse"
    FIELDS = (
        (1, "contents", MESSAGE, MAP, (STRING, STRING)),
    )
    if TYPE_CHECKING:
        contents: dict[str, str]
        def __init__(self, *, contents: dict[str, str] = ...) -> None: ...


class Chunk(Message):
    """pysandbox.agent.v1.Chunk."""

    __slots__ = ("container", "exec_id", "stream", "data", "end", "credit", "drained",)
    NAME = "pysandbox.agent.v1.Chunk"
    FIELDS = (
        (1, "container", STRING, SINGLE, None),
        (2, "exec_id", STRING, SINGLE, None),
        (3, "stream", UINT32, SINGLE, None),
        (4, "data", BYTES, SINGLE, None),
        (5, "end", BOOL, SINGLE, None),
        (6, "credit", UINT32, SINGLE, None),
        (7, "drained", BOOL, SINGLE, None),
    )
    if TYPE_CHECKING:
        container: str
        exec_id: str
        stream: int
        data: bytes
        end: bool
        credit: int
        drained: bool
        def __init__(self, *, container: str = "", exec_id: str = "", stream: int = 0, data: bytes = b"", end: bool = False, credit: int = 0, drained: bool = False) -> None: ...


class Event(Message):
    """pysandbox.agent.v1.Event."""

    __slots__ = ("container", "exec_id", "oom", "code", "realtime_ns", "sequence",)
    NAME = "pysandbox.agent.v1.Event"
    FIELDS = (
        (1, "container", STRING, SINGLE, None),
        (2, "exec_id", STRING, SINGLE, None),
        (3, "oom", BOOL, SINGLE, None),
        (4, "code", UINT32, SINGLE, None),
        (5, "realtime_ns", UINT64, SINGLE, None),
        (6, "sequence", UINT64, SINGLE, None),
    )
    if TYPE_CHECKING:
        container: str
        exec_id: str
        oom: bool
        code: int
        realtime_ns: int
        sequence: int
        def __init__(self, *, container: str = "", exec_id: str = "", oom: bool = False, code: int = 0, realtime_ns: int = 0, sequence: int = 0) -> None: ...


class ConnectRequest(Message):
    """pysandbox.agent.v1.ConnectRequest."""

    __slots__ = ("interfaces", "routes", "neighbours", "timeout_ms",)
    NAME = "pysandbox.agent.v1.ConnectRequest"
    FIELDS = (
        (1, "interfaces", MESSAGE, REPEATED, Interface),
        (2, "routes", MESSAGE, REPEATED, Route),
        (3, "neighbours", MESSAGE, REPEATED, Neighbour),
        (4, "timeout_ms", UINT32, SINGLE, None),
    )
    if TYPE_CHECKING:
        interfaces: list[Interface]
        routes: list[Route]
        neighbours: list[Neighbour]
        timeout_ms: int
        def __init__(self, *, interfaces: list[Interface] = ..., routes: list[Route] = ..., neighbours: list[Neighbour] = ..., timeout_ms: int = 0) -> None: ...


class CreateRequest(Message):
    """pysandbox.agent.v1.CreateRequest."""

    __slots__ = ("container", "plan", "cgroup", "limits", "device_program", "stdio", "uid_map", "gid_map", "time_offsets", "timeout_ms",)
    NAME = "pysandbox.agent.v1.CreateRequest"
    FIELDS = (
        (1, "container", STRING, SINGLE, None),
        (2, "plan", BYTES, SINGLE, None),
        (3, "cgroup", STRING, SINGLE, None),
        (4, "limits", MESSAGE, REPEATED, FileWrite),
        (5, "device_program", BYTES, SINGLE, None),
        (6, "stdio", MESSAGE, SINGLE, Stdio),
        (7, "uid_map", STRING, SINGLE, None),
        (8, "gid_map", STRING, SINGLE, None),
        (9, "time_offsets", STRING, SINGLE, None),
        (10, "timeout_ms", UINT32, SINGLE, None),
    )
    if TYPE_CHECKING:
        container: str
        plan: bytes
        cgroup: str
        limits: list[FileWrite]
        device_program: bytes
        stdio: Stdio | None
        uid_map: str
        gid_map: str
        time_offsets: str
        timeout_ms: int
        def __init__(self, *, container: str = "", plan: bytes = b"", cgroup: str = "", limits: list[FileWrite] = ..., device_program: bytes = b"", stdio: Stdio | None = None, uid_map: str = "", gid_map: str = "", time_offsets: str = "", timeout_ms: int = 0) -> None: ...


class ExecRequest(Message):
    """pysandbox.agent.v1.ExecRequest."""

    __slots__ = ("container", "exec_id", "plan", "stdio", "cgroup",)
    NAME = "pysandbox.agent.v1.ExecRequest"
    FIELDS = (
        (1, "container", STRING, SINGLE, None),
        (2, "exec_id", STRING, SINGLE, None),
        (3, "plan", BYTES, SINGLE, None),
        (4, "stdio", MESSAGE, SINGLE, Stdio),
        (5, "cgroup", STRING, SINGLE, None),
    )
    if TYPE_CHECKING:
        container: str
        exec_id: str
        plan: bytes
        stdio: Stdio | None
        cgroup: str
        def __init__(self, *, container: str = "", exec_id: str = "", plan: bytes = b"", stdio: Stdio | None = None, cgroup: str = "") -> None: ...


class WriteRequest(Message):
    """pysandbox.agent.v1.WriteRequest."""

    __slots__ = ("container", "writes", "device_program",)
    NAME = "pysandbox.agent.v1.WriteRequest"
    FIELDS = (
        (1, "container", STRING, SINGLE, None),
        (2, "writes", MESSAGE, REPEATED, FileWrite),
        (3, "device_program", BYTES, SINGLE, None),
    )
    if TYPE_CHECKING:
        container: str
        writes: list[FileWrite]
        device_program: bytes
        def __init__(self, *, container: str = "", writes: list[FileWrite] = ..., device_program: bytes = b"") -> None: ...


Agent = Service(
    "pysandbox.agent.v1.Agent",
    (
        Method("Check", CheckRequest, CheckResponse),
        Method("Prepare", PrepareRequest, Empty),
        Method("Rehearse", RehearseRequest, Empty),
        Method("Grow", GrowRequest, CheckResponse),
        Method("Attach", AttachRequest, AttachResponse),
        Method("Detach", DetachRequest, Empty),
        Method("Connect", ConnectRequest, Empty),
        Method("Create", CreateRequest, ProcessResponse),
        Method("Start", StartRequest, Empty),
        Method("Exec", ExecRequest, ProcessResponse),
        Method("Signal", SignalRequest, Empty),
        Method("Resize", ResizeRequest, Empty),
        Method("Pids", ContainerRequest, PidsResponse),
        Method("Read", ReadRequest, ReadResponse),
        Method("Write", WriteRequest, Empty),
        Method("Delete", ContainerRequest, Empty),
        Method("Stream", Chunk, Chunk, client_streams=True, server_streams=True),
        Method("Events", Empty, Event, server_streams=True),
    ),
)
