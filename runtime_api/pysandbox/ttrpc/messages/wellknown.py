"""Messages of google.protobuf. Made by pysandbox.ttrpc.generate from proto/wellknown.proto: do not edit."""

from __future__ import annotations

from pysandbox.ttrpc.message import BYTES, INT32, INT64, SINGLE, STRING, Message

TYPE_CHECKING = False

class Any(Message):
    """google.protobuf.Any."""

    __slots__ = ("type_url", "value",)
    NAME = "google.protobuf.Any"
    FIELDS = (
        (1, "type_url", STRING, SINGLE, None),
        (2, "value", BYTES, SINGLE, None),
    )
    if TYPE_CHECKING:
        type_url: str
        value: bytes
        def __init__(self, *, type_url: str = "", value: bytes = b"") -> None: ...


class Empty(Message):
    """google.protobuf.Empty."""

    __slots__ = ()
    NAME = "google.protobuf.Empty"


class Timestamp(Message):
    """google.protobuf.Timestamp."""

    __slots__ = ("seconds", "nanos",)
    NAME = "google.protobuf.Timestamp"
    FIELDS = (
        (1, "seconds", INT64, SINGLE, None),
        (2, "nanos", INT32, SINGLE, None),
    )
    if TYPE_CHECKING:
        seconds: int
        nanos: int
        def __init__(self, *, seconds: int = 0, nanos: int = 0) -> None: ...
