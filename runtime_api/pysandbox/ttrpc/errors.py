"""How calls fail: gRPC's status codes, and one exception that carries them with their details."""

from __future__ import annotations

from pysandbox.ttrpc.messages.status import Status

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Sequence

    from pysandbox.ttrpc.messages.wellknown import Any as AnyMessage


class Code:
    """google.rpc.Code, numbers and names."""

    OK = 0
    CANCELED = 1
    UNKNOWN = 2
    INVALID_ARGUMENT = 3
    DEADLINE_EXCEEDED = 4
    NOT_FOUND = 5
    ALREADY_EXISTS = 6
    PERMISSION_DENIED = 7
    RESOURCE_EXHAUSTED = 8
    FAILED_PRECONDITION = 9
    ABORTED = 10
    OUT_OF_RANGE = 11
    UNIMPLEMENTED = 12
    INTERNAL = 13
    UNAVAILABLE = 14
    DATA_LOSS = 15
    UNAUTHENTICATED = 16


class RpcError(Exception):
    """A call that failed, with a code, a line of text, and details for programs."""

    def __init__(self, code: int, message: str, details: Sequence[AnyMessage] = ()) -> None:
        super().__init__(message)
        self.code = code
        self.message = message
        self.details = list(details)

    def status(self) -> Status:
        """Return it as it goes over the wire."""
        # What stands in a path need not be UTF-8; a string of protocol buffers must.
        text = self.message.encode("utf-8", "surrogateescape").decode("utf-8", "replace")
        return Status(code=self.code, message=text, details=self.details)


def from_status(status: Status) -> RpcError:
    """Return the error that came over the wire."""
    return RpcError(status.code, status.message, status.details)


class Closed(Exception):
    """The connection is closed."""
