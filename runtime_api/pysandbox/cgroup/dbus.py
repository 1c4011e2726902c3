"""systemd's manager on the system bus, as far as scopes need it: start, change, stop; each call has a time limit.

Sources: org.freedesktop.systemd1(5), systemd's docs/CONTROL_GROUP_INTERFACE.md.
"""

from __future__ import annotations

import time
from collections import deque

from jeepney import DBusAddress, HeaderFields, MatchRule, Properties, message_bus, new_method_call
from jeepney.io.blocking import Proxy, open_dbus_connection
from jeepney.wrappers import DBusErrorResponse, unwrap_msg

from pysandbox.errors import DeadlineExceeded, Unavailable

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Sequence
    from typing import Any, Self

    from jeepney import Message

    #: A property of a unit: its name, and its value with the D-Bus signature.
    Property = tuple[str, tuple[str, Any]]

NAME = "org.freedesktop.systemd1"
_MANAGER = DBusAddress("/org/freedesktop/systemd1", bus_name=NAME, interface=f"{NAME}.Manager")

#: How long systemd may take over a call or a job, in seconds, as under runc.
LIMIT = 30.0

_NO_UNIT = f"{NAME}.NoSuchUnit"
_UNIT_EXISTS = f"{NAME}.UnitExists"


class Systemd:
    """One connection. A context manager; raises Unavailable when there is no bus or no systemd on it."""

    def __init__(self, bus: str = "SYSTEM", limit: float = LIMIT) -> None:
        self._limit = limit
        try:
            self._connection = open_dbus_connection(bus)
        except (OSError, KeyError, ValueError) as error:
            raise Unavailable(f"unable to reach systemd over D-Bus: {error}") from None

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._connection.close()

    def version(self) -> int:
        """Return systemd's version: 252 of `252.39-1~deb12u1`; 0 when it cannot be told."""
        manager = DBusAddress("/org/freedesktop/systemd1", bus_name=NAME, interface=f"{NAME}.Manager")
        text = self._ask(Properties(manager).get("Version"))[0][1].lstrip("v")
        digits = text[: next((i for i, letter in enumerate(text) if not letter.isdigit()), len(text))]
        return int(digits or 0)

    def start_scope(self, unit: str, properties: Sequence[Property]) -> None:
        """Start a transient scope and wait until it stands. A failed one of the same name is cleared away first."""
        body: tuple[Any, ...] = (unit, "replace", list(properties), [])
        try:
            result = self._job("StartTransientUnit", "ssa(sv)a(sa(sv))", body)
        except DBusErrorResponse as error:
            if error.name != _UNIT_EXISTS:
                raise Unavailable(_text(f"unable to start unit {unit}", error)) from None
            self.reset_failed(unit)
            result = self._again("StartTransientUnit", unit, body)
        if result != "done":
            self.reset_failed(unit)
            raise Unavailable(f'error creating systemd unit {unit}: got "{result}"')

    def _again(self, method: str, unit: str, body: tuple[Any, ...]) -> str:
        try:
            return self._job(method, "ssa(sv)a(sa(sv))", body)
        except DBusErrorResponse as error:
            raise Unavailable(_text(f"unable to start unit {unit}", error)) from None

    def set_properties(self, unit: str, properties: Sequence[Property]) -> None:
        """Change properties of a unit until it ends."""
        try:
            self._ask(new_method_call(_MANAGER, "SetUnitProperties", "sba(sv)", (unit, True, list(properties))))
        except DBusErrorResponse as error:
            raise Unavailable(_text(f"unable to set properties of unit {unit}", error)) from None

    def stop(self, unit: str) -> None:
        """Stop a unit, which ends its processes, and wait; one that is not there is no error."""
        try:
            self._job("StopUnit", "ss", (unit, "replace"))
        except DBusErrorResponse as error:
            if error.name != _NO_UNIT:
                raise Unavailable(_text(f"unable to stop unit {unit}", error)) from None
        self.reset_failed(unit)

    def reset_failed(self, unit: str) -> None:
        """Let systemd forget a unit that failed."""
        try:
            self._ask(new_method_call(_MANAGER, "ResetFailedUnit", "s", (unit,)))
        except DBusErrorResponse:
            pass  # it did not fail, or is gone

    def _job(self, method: str, signature: str, body: tuple[Any, ...]) -> str:
        """Call a method that queues a job; return how the job ended: done, failed, canceled, timeout, …"""
        sender = self._ask(message_bus.GetNameOwner(NAME))[0]
        rule = MatchRule(type="signal", interface=_MANAGER.interface, member="JobRemoved", path=_MANAGER.object_path)
        asked = MatchRule(
            type="signal", sender=NAME, interface=_MANAGER.interface, member="JobRemoved", path=_MANAGER.object_path
        )
        Proxy(message_bus, self._connection, timeout=self._limit).AddMatch(asked)
        self._ask(new_method_call(_MANAGER, "Subscribe"))
        queue: deque[Message] = deque()
        with self._connection.filter(rule, queue=queue):
            (job,) = self._ask(new_method_call(_MANAGER, method, signature, body))
            return self._wait(queue, sender, job, str(body[0]))

    def _wait(self, queue: deque[Message], sender: str, job: str, unit: str) -> str:
        deadline = time.monotonic() + self._limit
        while (left := deadline - time.monotonic()) > 0:
            try:
                message = self._connection.recv_until_filtered(queue, timeout=left)
            except TimeoutError:
                break
            # Anybody on the bus may send us a signal of this name: only systemd's own counts.
            if message.header.fields.get(HeaderFields.sender) == sender and message.body[1] == job:
                result: str = message.body[3]
                return result
        raise DeadlineExceeded(f"timed out after {self._limit:.0f} s waiting for systemd's job for {unit}")

    def _ask(self, message: Message) -> Any:
        try:
            return unwrap_msg(self._connection.send_and_get_reply(message, timeout=self._limit))
        except TimeoutError:
            raise DeadlineExceeded(f"systemd did not answer in {self._limit:.0f} s") from None
        except OSError as error:
            raise Unavailable(f"lost the connection to systemd: {error}") from None


def _text(what: str, error: DBusErrorResponse) -> str:
    reason = error.data[0] if error.data and isinstance(error.data[0], str) else error.name
    return f"{what}: {reason}"
