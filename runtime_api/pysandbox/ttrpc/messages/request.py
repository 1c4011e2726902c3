"""Messages of ttrpc. Made by pysandbox.ttrpc.generate from proto/request.proto: do not edit."""

from __future__ import annotations

from pysandbox.ttrpc.message import BYTES, INT64, MESSAGE, REPEATED, SINGLE, STRING, Message
from pysandbox.ttrpc.messages.status import Status

TYPE_CHECKING = False

class KeyValue(Message):
    """ttrpc.KeyValue."""

    __slots__ = ("key", "value",)
    NAME = "ttrpc.KeyValue"
    FIELDS = (
        (1, "key", STRING, SINGLE, None),
        (2, "value", STRING, SINGLE, None),
    )
    if TYPE_CHECKING:
        key: str
        value: str
        def __init__(self, *, key: str = "", value: str = "") -> None: ...


class Response(Message):
    """ttrpc.Response."""

    __slots__ = ("status", "payload",)
    NAME = "ttrpc.Response"
    FIELDS = (
        (1, "status", MESSAGE, SINGLE, Status),
        (2, "payload", BYTES, SINGLE, None),
    )
    if TYPE_CHECKING:
        status: Status | None
        payload: bytes
        def __init__(self, *, status: Status | None = None, payload: bytes = b"") -> None: ...


class Request(Message):
    """ttrpc.Request."""

    __slots__ = ("service", "method", "payload", "timeout_nano", "metadata",)
    NAME = "ttrpc.Request"
    FIELDS = (
        (1, "service", STRING, SINGLE, None),
        (2, "method", STRING, SINGLE, None),
        (3, "payload", BYTES, SINGLE, None),
        (4, "timeout_nano", INT64, SINGLE, None),
        (5, "metadata", MESSAGE, REPEATED, KeyValue),
    )
    if TYPE_CHECKING:
        service: str
        method: str
        payload: bytes
        timeout_nano: int
        metadata: list[KeyValue]
        def __init__(self, *, service: str = "", method: str = "", payload: bytes = b"", timeout_nano: int = 0, metadata: list[KeyValue] = ...) -> None: ...
