"""Messages of containerd.types. Made by pysandbox.ttrpc.generate from proto/types.proto: do not edit."""

from __future__ import annotations

from pysandbox.ttrpc.message import MAP, MESSAGE, REPEATED, SINGLE, STRING, Message
from pysandbox.ttrpc.messages.wellknown import Any, Timestamp

TYPE_CHECKING = False

class Mount(Message):
    """containerd.types.Mount."""

    __slots__ = ("type", "source", "target", "options",)
    NAME = "containerd.types.Mount"
    FIELDS = (
        (1, "type", STRING, SINGLE, None),
        (2, "source", STRING, SINGLE, None),
        (3, "target", STRING, SINGLE, None),
        (4, "options", STRING, REPEATED, None),
    )
    if TYPE_CHECKING:
        type: str
        source: str
        target: str
        options: list[str]
        def __init__(self, *, type: str = "", source: str = "", target: str = "", options: list[str] = ...) -> None: ...


class Envelope(Message):
    """containerd.types.Envelope."""

    __slots__ = ("timestamp", "namespace", "topic", "event",)
    NAME = "containerd.types.Envelope"
    FIELDS = (
        (1, "timestamp", MESSAGE, SINGLE, Timestamp),
        (2, "namespace", STRING, SINGLE, None),
        (3, "topic", STRING, SINGLE, None),
        (4, "event", MESSAGE, SINGLE, Any),
    )
    if TYPE_CHECKING:
        timestamp: Timestamp | None
        namespace: str
        topic: str
        event: Any | None
        def __init__(self, *, timestamp: Timestamp | None = None, namespace: str = "", topic: str = "", event: Any | None = None) -> None: ...


class RuntimeVersion(Message):
    """containerd.types.RuntimeVersion."""

    __slots__ = ("version", "revision",)
    NAME = "containerd.types.RuntimeVersion"
    FIELDS = (
        (1, "version", STRING, SINGLE, None),
        (2, "revision", STRING, SINGLE, None),
    )
    if TYPE_CHECKING:
        version: str
        revision: str
        def __init__(self, *, version: str = "", revision: str = "") -> None: ...


class RuntimeInfo(Message):
    """containerd.types.RuntimeInfo."""

    __slots__ = ("name", "version", "options", "features", "annotations",)
    NAME = "containerd.types.RuntimeInfo"
    FIELDS = (
        (1, "name", STRING, SINGLE, None),
        (2, "version", MESSAGE, SINGLE, RuntimeVersion),
        (3, "options", MESSAGE, SINGLE, Any),
        (4, "features", MESSAGE, SINGLE, Any),
        (5, "annotations", MESSAGE, MAP, (STRING, STRING)),
    )
    if TYPE_CHECKING:
        name: str
        version: RuntimeVersion | None
        options: Any | None
        features: Any | None
        annotations: dict[str, str]
        def __init__(self, *, name: str = "", version: RuntimeVersion | None = None, options: Any | None = None, features: Any | None = None, annotations: dict[str, str] = ...) -> None: ...
