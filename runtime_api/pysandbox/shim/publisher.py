"""Tells containerd what happens to tasks: one ordered queue, one thread, and patience while containerd is away.

An event is sent until containerd has taken it: docker takes a container for running for ever whose exit it never heard
of. Only what containerd refuses is given up, and the oldest when 2,048 wait.
"""

from __future__ import annotations

import time
from collections import deque
from threading import Condition, Lock, Thread

from pysandbox.shim.messages.forward import Events, ForwardRequest
from pysandbox.shim.messages.types import Envelope
from pysandbox.ttrpc.client import Client
from pysandbox.ttrpc.errors import Code, RpcError
from pysandbox.ttrpc.messages.wellknown import Any as AnyMessage
from pysandbox.ttrpc.messages.wellknown import Timestamp

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable

    from pysandbox.ttrpc.message import Message

QUEUE_LIMIT = 2048
#: Seconds that containerd has for one event.
CALL_LIMIT = 5.0
#: Seconds between two attempts, growing.
FIRST_PAUSE, LONGEST_PAUSE = 0.05, 2.0
#: How often an event that containerd answers with an error of its own is sent.
ATTEMPTS = 5
#: What says that containerd is not there, rather than that it does not want the event.
_AWAY = {Code.UNAVAILABLE, Code.DEADLINE_EXCEEDED, Code.CANCELED}


def timestamp(seconds: float) -> Timestamp:
    """Return a time since the epoch as it goes over the wire."""
    nanoseconds = int(seconds * 1e9)
    return Timestamp(seconds=nanoseconds // 10**9, nanos=nanoseconds % 10**9)


def packed(message: Message) -> AnyMessage:
    """Return a message under its bare name: containerd compares names without a host before them."""
    return AnyMessage(type_url=message.NAME, value=message.encode())


class Publisher:
    """Sends events to containerd's ttrpc socket. Without an address there is nobody to tell."""

    def __init__(self, address: str, namespace: str, warn: Callable[[str], None]) -> None:
        self._address, self._namespace, self._warn = address.removeprefix("unix://"), namespace, warn
        self._changed = Condition(Lock())
        self._queue: deque[ForwardRequest] = deque()
        self._client: Client | None = None
        self._closing = False
        self._thread = Thread(target=self._run, name="events", daemon=True)
        if self._address:
            self._thread.start()

    def publish(self, topic: str, event: Message) -> None:
        """Queue an event; never waits. `topic` is the word after /tasks/."""
        if not self._address:
            return
        envelope = Envelope(
            timestamp=timestamp(time.time()), namespace=self._namespace, topic=f"/tasks/{topic}", event=packed(event)
        )
        with self._changed:
            if len(self._queue) >= QUEUE_LIMIT:
                lost = self._queue.popleft().envelope
                self._warn(f"event {lost.topic if lost else ''} is lost: {QUEUE_LIMIT} others wait for containerd")
            self._queue.append(ForwardRequest(envelope=envelope))
            self._changed.notify_all()

    @property
    def busy(self) -> bool:
        """Say whether there is something to tell."""
        return bool(self._queue)

    def close(self, patience: float) -> None:
        """Wait at most so long for the queue to become empty, and send no more."""
        with self._changed:
            self._changed.wait_for(lambda: not self._queue or not self._address, patience)
            self._closing = True
            self._changed.notify_all()

    def _run(self) -> None:
        while (request := self._first()) is not None:
            self._send(request)
            with self._changed:
                if self._queue and self._queue[0] is request:
                    self._queue.popleft()
                self._changed.notify_all()

    def _first(self) -> ForwardRequest | None:
        with self._changed:
            self._changed.wait_for(lambda: self._queue or self._closing)
            return None if self._closing else self._queue[0]

    def _send(self, request: ForwardRequest) -> None:
        """Send one event until it is taken, refused, or the shim ends."""
        pause, refused = FIRST_PAUSE, 0
        while not self._closing:
            try:
                self._connected().call(Events, "Forward", request, timeout=CALL_LIMIT)
                return
            except (OSError, RpcError) as error:
                if isinstance(error, RpcError) and error.code not in _AWAY:
                    refused += 1
                    if refused >= ATTEMPTS:
                        self._warn(f"containerd refuses an event: {error}")
                        return
                else:
                    self._disconnect()
            with self._changed:
                self._changed.wait_for(lambda: self._closing, pause)
            pause = min(2 * pause, LONGEST_PAUSE)

    def _connected(self) -> Client:
        if self._client is None:
            self._client = Client.connect(self._address, CALL_LIMIT)
        return self._client

    def _disconnect(self) -> None:
        client, self._client = self._client, None
        if client is not None:
            client.close()
