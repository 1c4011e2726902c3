"""Messages of runtimeoptions.v1. Made by pysandbox.ttrpc.generate from proto/runtimeoptions.proto: do not edit."""

from __future__ import annotations

from pysandbox.ttrpc.message import BYTES, SINGLE, STRING, Message

TYPE_CHECKING = False

class Options(Message):
    """runtimeoptions.v1.Options."""

    __slots__ = ("type_url", "config_path", "config_body",)
    NAME = "runtimeoptions.v1.Options"
    FIELDS = (
        (1, "type_url", STRING, SINGLE, None),
        (2, "config_path", STRING, SINGLE, None),
        (3, "config_body", BYTES, SINGLE, None),
    )
    if TYPE_CHECKING:
        type_url: str
        config_path: str
        config_body: bytes
        def __init__(self, *, type_url: str = "", config_path: str = "", config_body: bytes = b"") -> None: ...
