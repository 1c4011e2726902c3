"""What a service offers: its name on the wire, its methods, their messages. `generate.py` writes it."""

from __future__ import annotations

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Mapping

    from pysandbox.ttrpc.message import Message


class Method:
    """One method: the messages it takes and gives, and which side sends many."""

    __slots__ = ("client_streams", "name", "request", "response", "server_streams")

    def __init__(
        self,
        name: str,
        request: type[Message],
        response: type[Message],
        *,
        client_streams: bool = False,
        server_streams: bool = False,
    ) -> None:
        self.name, self.request, self.response = name, request, response
        self.client_streams, self.server_streams = client_streams, server_streams

    @property
    def unary(self) -> bool:
        """Whether it is one message each way."""
        return not (self.client_streams or self.server_streams)


class Service:
    """A named set of methods, such as `containerd.task.v2.Task`."""

    __slots__ = ("methods", "name")

    def __init__(self, name: str, methods: tuple[Method, ...]) -> None:
        self.name = name
        self.methods: Mapping[str, Method] = {method.name: method for method in methods}
