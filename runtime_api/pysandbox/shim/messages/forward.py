"""Messages of containerd.services.events.ttrpc.v1. Made by pysandbox.ttrpc.generate from proto/forward.proto: do not edit."""

from __future__ import annotations

from pysandbox.shim.messages.types import Envelope
from pysandbox.ttrpc.message import MESSAGE, SINGLE, Message
from pysandbox.ttrpc.messages.wellknown import Empty
from pysandbox.ttrpc.service import Method, Service

TYPE_CHECKING = False

class ForwardRequest(Message):
    """containerd.services.events.ttrpc.v1.ForwardRequest."""

    __slots__ = ("envelope",)
    NAME = "containerd.services.events.ttrpc.v1.ForwardRequest"
    FIELDS = (
        (1, "envelope", MESSAGE, SINGLE, Envelope),
    )
    if TYPE_CHECKING:
        envelope: Envelope | None
        def __init__(self, *, envelope: Envelope | None = None) -> None: ...


Events = Service(
    "containerd.services.events.ttrpc.v1.Events",
    (
        Method("Forward", ForwardRequest, Empty),
    ),
)
