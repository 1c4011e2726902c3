"""Messages of google.rpc. Made by pysandbox.ttrpc.generate from proto/status.proto: do not edit."""

from __future__ import annotations

from pysandbox.ttrpc.message import INT32, MESSAGE, REPEATED, SINGLE, STRING, Message
from pysandbox.ttrpc.messages.wellknown import Any

TYPE_CHECKING = False

class Status(Message):
    """google.rpc.Status."""

    __slots__ = ("code", "message", "details",)
    NAME = "google.rpc.Status"
    FIELDS = (
        (1, "code", INT32, SINGLE, None),
        (2, "message", STRING, SINGLE, None),
        (3, "details", MESSAGE, REPEATED, Any),
    )
    if TYPE_CHECKING:
        code: int
        message: str
        details: list[Any]
        def __init__(self, *, code: int = 0, message: str = "", details: list[Any] = ...) -> None: ...
