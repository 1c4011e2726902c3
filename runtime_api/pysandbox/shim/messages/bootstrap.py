"""Messages of containerd.runtime.bootstrap.v1. Made by pysandbox.ttrpc.generate from proto/bootstrap.proto: do not edit."""

from __future__ import annotations

from pysandbox.ttrpc.message import INT32, MAP, MESSAGE, OPTIONAL, REPEATED, SINGLE, STRING, Message
from pysandbox.ttrpc.messages.wellknown import Any

TYPE_CHECKING = False

class Extension(Message):
    """containerd.runtime.bootstrap.v1.Extension."""

    __slots__ = ("value",)
    NAME = "containerd.runtime.bootstrap.v1.Extension"
    FIELDS = (
        (1, "value", MESSAGE, SINGLE, Any),
    )
    if TYPE_CHECKING:
        value: Any | None
        def __init__(self, *, value: Any | None = None) -> None: ...


class BootstrapResult(Message):
    """containerd.runtime.bootstrap.v1.BootstrapResult."""

    __slots__ = ("version", "address", "protocol", "capabilities", "metadata",)
    NAME = "containerd.runtime.bootstrap.v1.BootstrapResult"
    FIELDS = (
        (1, "version", INT32, SINGLE, None),
        (2, "address", STRING, SINGLE, None),
        (3, "protocol", STRING, SINGLE, None),
        (4, "capabilities", INT32, REPEATED, None),
        (5, "metadata", MESSAGE, MAP, (STRING, STRING)),
    )
    if TYPE_CHECKING:
        version: int
        address: str
        protocol: str
        capabilities: list[int]
        metadata: dict[str, str]
        def __init__(self, *, version: int = 0, address: str = "", protocol: str = "", capabilities: list[int] = ..., metadata: dict[str, str] = ...) -> None: ...


class BootstrapParams(Message):
    """containerd.runtime.bootstrap.v1.BootstrapParams."""

    __slots__ = ("instance_id", "namespace", "log_level", "containerd_version", "containerd_ttrpc_address", "containerd_grpc_address", "containerd_binary", "extensions", "socket_dir",)
    NAME = "containerd.runtime.bootstrap.v1.BootstrapParams"
    FIELDS = (
        (1, "instance_id", STRING, SINGLE, None),
        (2, "namespace", STRING, SINGLE, None),
        (3, "log_level", INT32, SINGLE, None),
        (4, "containerd_version", STRING, SINGLE, None),
        (5, "containerd_ttrpc_address", STRING, SINGLE, None),
        (6, "containerd_grpc_address", STRING, SINGLE, None),
        (7, "containerd_binary", STRING, SINGLE, None),
        (8, "extensions", MESSAGE, REPEATED, Extension),
        (9, "socket_dir", STRING, OPTIONAL, None),
    )
    if TYPE_CHECKING:
        instance_id: str
        namespace: str
        log_level: int
        containerd_version: str
        containerd_ttrpc_address: str
        containerd_grpc_address: str
        containerd_binary: str
        extensions: list[Extension]
        socket_dir: str | None
        def __init__(self, *, instance_id: str = "", namespace: str = "", log_level: int = 0, containerd_version: str = "", containerd_ttrpc_address: str = "", containerd_grpc_address: str = "", containerd_binary: str = "", extensions: list[Extension] = ..., socket_dir: str | None = None) -> None: ...
