"""QMP, QEMU's control protocol, for threads that wait: `qemu.qmp` on a loop and thread of its own.

asyncio and `qemu.qmp` take longer to import than QEMU to start, and 6 MB of every machine's memory. So what every start
needs is said without them, by `first` and `direct`, and the library comes with the first command that no start needs.

QEMU is no friend: a guest may have taken it over. Its messages are limited in length and kept in a limited number,
every command has a deadline, and what it says is text for an error at most.
<https://www.qemu.org/docs/master/interop/qmp-spec.html>
"""

from __future__ import annotations

import contextlib
import json
import os
import select
import struct
import threading
import time
from collections import deque

from pysandbox.errors import DeadlineExceeded, SandboxError, Unavailable
from pysandbox_microvm.console import shown

TYPE_CHECKING = False
if TYPE_CHECKING:
    import _socket
    import asyncio
    from collections.abc import Callable, Mapping
    from typing import Any

    from qemu.qmp import QMPClient
    from qemu.qmp.message import Message

#: Bytes of one message.
LONGEST_MESSAGE = 1024 * 1024
#: Events that are kept for `wait`.
_EVENTS_KEPT = 256
#: Seconds that a command may take.
COMMAND_TIMEOUT = 10.0
#: Seconds for the library and for QEMU to be there, on a machine that has much else to do.
CONNECT_TIMEOUT = 30.0
#: Bytes of one message that comes before the library does. A socket holds that much.
LONGEST_LINE = 64 * 1024
_LONGEST_TEXT = 300
_SHUT_RDWR = 2
_SOL_SOCKET, _SCM_RIGHTS, _MSG_NOSIGNAL, _MSG_PEEK = 1, 1, 0x4000, 2
#: How long QEMU's end is waited for after it has closed its monitor: so often, so many seconds.
_MOMENTS, _MOMENT = 25, 0.02


class QmpError(Unavailable):
    """QEMU refuses a command. `kind` is the protocol's class of the error."""

    def __init__(self, command: str, kind: str, text: str) -> None:
        super().__init__(f"qemu: {command}: {shown(text.encode(errors='replace'))[:_LONGEST_TEXT]}")
        self.kind = kind


class Client:
    """A connection to QEMU's monitor over a connected socket, which is the client's from now on.

    `first` are commands to be carried out before all others, without waiting for anybody. Their answers are looked at
    as soon as there is someone to look: one that fails ends the connection.
    """

    def __init__(self, connection: _socket.socket) -> None:
        self._connection = connection
        self._changed = threading.Condition()
        self._events: deque[Mapping[str, Any]] = deque(maxlen=_EVENTS_KEPT)
        self._unanswered: dict[str, str] = {}  # the command, by the id that it was sent with
        self._answers: dict[str, Mapping[str, Any]] = {}  # to `direct`
        self._ahead = 0
        self._turn = threading.Lock()  # to talk without the library
        self._is_greeted = False
        self._is_over = False  # QEMU has hung up before the library came
        self._failed: SandboxError | None = None
        self._ready = False
        self._loop: asyncio.AbstractEventLoop | None = None
        self._library: QMPClient | None = None
        self._rights: asyncio.Lock | None = None
        self._told: Callable[[], None] = lambda: None
        self.first("qmp_capabilities")
        self._thread = threading.Thread(target=self._run, name="qmp", daemon=True)

    def start(self) -> None:
        """Begin to import the library and to talk, unless that is in vain. Safe to call twice."""
        with self._turn:
            if not self._is_started() and self._failed is None:
                self._thread.start()

    def _is_started(self) -> bool:
        return self._thread.ident is not None

    def first(self, command: str, **arguments: Any) -> None:
        """Send a command ahead, to be answered later: QEMU takes up to eight without an answer being read."""
        self._send(command, arguments, None)

    def _send(self, command: str, arguments: Mapping[str, object], descriptor: int | None) -> str:
        """Write a command with an id of our own; return the id."""
        with self._changed:
            self._ahead += 1
            name = f"ahead{self._ahead}"
            self._unanswered[name] = command
        line = json.dumps({"execute": command, "arguments": arguments, "id": name}).encode() + b"\n"
        try:
            if descriptor is not None:  # with the first byte of the line
                line = line[self._connection.sendmsg([line], _rights(descriptor), _MSG_NOSIGNAL) :]
            self._connection.sendall(line)
        except OSError as error:
            self._fail(Unavailable(f"qemu: {command}: {error.strerror}"))
        return name

    def direct(
        self, command: str, arguments: Mapping[str, object] | None = None, *, descriptor: int | None = None
    ) -> Any:
        """Carry a command out as `execute` does, but without the library as long as that is not there."""
        with self._turn:
            if not self._is_started():
                return self._ask(command, arguments or {}, descriptor)
        return self.execute(command, arguments, descriptor=descriptor)

    def execute(
        self,
        command: str,
        arguments: Mapping[str, object] | None = None,
        *,
        descriptor: int | None = None,
        timeout: float = COMMAND_TIMEOUT,
    ) -> Any:
        """Carry a command out and return its answer; `descriptor` goes with it, for `getfd` and `add-fd`.

        Raises QmpError where QEMU refuses it, Unavailable where QEMU is gone, DeadlineExceeded.
        """
        import asyncio
        from concurrent.futures import CancelledError

        self.start()
        self.wait_ready(time.monotonic() + CONNECT_TIMEOUT)
        assert self._loop is not None
        work = self._execute(command, arguments, descriptor)
        try:
            future = asyncio.run_coroutine_threadsafe(work, self._loop)
        except RuntimeError:  # the loop has been closed meanwhile
            work.close()
            raise self._failed or Unavailable(f"qemu: {command}: the connection was closed") from None
        future.add_done_callback(lambda _: self._notify())
        deadline = time.monotonic() + timeout
        try:
            self._wait(lambda: future.done() or None, deadline, f"qemu has not answered {command} for {timeout:g} s")
            return future.result()
        except (CancelledError, asyncio.CancelledError):
            raise self._failed or Unavailable(f"qemu: {command}: the connection was closed") from None
        finally:
            future.cancel()

    def wait_ready(self, deadline: float) -> None:
        """Wait until commands can be given. Raises DeadlineExceeded, Unavailable."""
        self._wait(lambda: (self._ready and self._failed is None) or None, deadline, "qemu has not opened its monitor")

    def wait_event(self, wanted: Callable[[Mapping[str, Any]], bool], deadline: float, what: str) -> Mapping[str, Any]:
        """Return the first event kept that `wanted` takes, and forget it; `what` has not happened by the deadline."""
        event: Mapping[str, Any]
        with self._turn:
            if not self._is_started():
                event = self._read(lambda: self._take(wanted), deadline, what)
                return event
        event = self._wait(lambda: self._take(wanted), deadline, what)
        return event

    def events(self, name: str) -> list[Mapping[str, Any]]:
        """Return the events of that name that are kept."""
        if self._take_turn():
            with contextlib.suppress(SandboxError):
                while not self._is_started() and self._has_message(0) and self._take_messages():
                    pass
            self._turn.release()
        with self._changed:
            return [event for event in self._events if event.get("event") == name]

    def interrupt(self, error: SandboxError) -> None:
        """Fail every wait, now and later: QEMU is known to have ended."""
        self._fail(error)

    def close(self) -> None:
        """Hang up; whoever waits gets Unavailable."""
        self._fail(Unavailable("qemu: the connection was closed"))
        with self._changed:
            loop = self._loop
        with contextlib.suppress(OSError):
            self._connection.shutdown(_SHUT_RDWR)  # the library waits for a greeting for as long as it takes
        if loop is not None:
            with contextlib.suppress(RuntimeError):  # the loop has ended by itself
                loop.call_soon_threadsafe(self._stopped.set)
        if self._thread.ident is not None:
            self._thread.join(CONNECT_TIMEOUT)
        self._connection.close()

    # -- waiting -------------------------------------------------------------------------------------------------------

    def _wait(self, look: Callable[[], Any], deadline: float, what: str) -> Any:
        with self._changed:
            while (found := look()) is None:
                if self._failed is not None:
                    raise self._failed
                left = deadline - time.monotonic()
                if left <= 0:
                    raise DeadlineExceeded(what)
                self._changed.wait(left)
            return found

    def _take(self, wanted: Callable[[Mapping[str, Any]], bool]) -> Mapping[str, Any] | None:
        for event in self._events:
            if wanted(event):
                self._events.remove(event)
                return event
        return None

    def _notify(self) -> None:
        with self._changed:
            self._changed.notify_all()

    def _fail(self, error: SandboxError) -> None:
        with self._changed:
            self._failed = self._failed or error
            self._changed.notify_all()

    # -- without the library -------------------------------------------------------------------------------------------

    def _ask(self, command: str, arguments: Mapping[str, object], descriptor: int | None) -> Any:
        name = self._send(command, arguments, descriptor)
        self._answers[name] = {}
        try:
            what = f"qemu has not answered {command} for {COMMAND_TIMEOUT:g} s"
            answer = self._read(lambda: self._answers[name] or None, time.monotonic() + COMMAND_TIMEOUT, what)
        finally:
            del self._answers[name]
        if isinstance(error := answer.get("error"), dict):
            raise QmpError(command, str(error.get("class")), str(error.get("desc")))
        return answer.get("return")

    def _read(self, look: Callable[[], Any], deadline: float, what: str) -> Any:
        """Take messages until `look` finds what it looks for."""
        while (found := look()) is None:
            if self._failed is not None:
                raise self._failed
            left = deadline - time.monotonic()
            if left <= 0:
                raise DeadlineExceeded(what)
            if self._has_message(left) and not self._take_messages():
                raise self._why_hung_up()
        return found

    def _why_hung_up(self) -> SandboxError:
        """Return why QEMU has hung up: who sees its end knows better, and a moment later (`interrupt`)."""
        with self._changed:
            self._changed.wait_for(lambda: self._failed is not None, _MOMENTS * _MOMENT)
        return self._failed or Unavailable("qemu has closed its monitor")

    def _take_turn(self) -> bool:
        """Take the turn, unless nothing comes any more: then whoever has it waits to hear why."""
        while not self._is_over:
            if self._turn.acquire(timeout=_MOMENT):
                return True
        return False

    def _has_message(self, seconds: float) -> bool:
        poll = select.poll()
        poll.register(self._connection, select.POLLIN)
        return bool(poll.poll(max(seconds, 0) * 1000))

    def _take_messages(self) -> bool:
        """Take the whole lines that are there: what follows them stays in the socket, for whoever reads next.

        False where nothing comes any more.
        """
        try:
            there = self._connection.recv(LONGEST_LINE, _MSG_PEEK)
        except OSError:
            there = b""
        self._is_over = not there
        end = there.rfind(b"\n") + 1
        if len(there) >= LONGEST_LINE and not end:
            raise Unavailable(f"qemu: a message of more than {LONGEST_LINE} bytes")
        for line in self._connection.recv(end).splitlines() if end else ():
            self._received(_message(line))
        if there and not end:
            time.sleep(_MOMENT)  # the rest is under way
        return not self._is_over

    # -- on the thread of the loop -------------------------------------------------------------------------------------

    def _run(self) -> None:
        try:
            import asyncio
            import logging

            for name in ("qemu.qmp", "asyncio"):  # what matters is raised; standard error is not ours
                logging.getLogger(name).addHandler(logging.NullHandler())
                logging.getLogger(name).propagate = False
            asyncio.run(self._converse())
        except SandboxError as error:
            self._fail(error)
        except ImportError as error:
            self._fail(Unavailable(f"{error}: install qemu.qmp (pip install 'pysandbox[microvm]')"))
        except BaseException as error:  # noqa: BLE001 (the library raises what it likes; whoever waits must hear of it)
            self._fail(Unavailable(f"qemu: {type(error).__name__}: {error}"))

    async def _converse(self) -> None:
        import asyncio
        import socket

        loop = asyncio.get_running_loop()
        library = _library(self._received)
        # What the library would say first has been said already.
        library.negotiate = False
        library.await_greeting = not self._is_greeted
        connection = socket.socket(fileno=os.dup(self._connection.fileno()))
        connection.setblocking(False)
        try:
            await library.connect(connection)
        except BaseException:
            connection.close()
            raise
        with self._changed:
            self._loop, self._library, self._rights = loop, library, asyncio.Lock()
            self._stopped = asyncio.Event()
            self._ready = True
            self._changed.notify_all()
        if self._failed is None:
            closed = loop.create_task(_closed(library))
            stopped = loop.create_task(self._stopped.wait())
            await asyncio.wait({closed, stopped}, return_when=asyncio.FIRST_COMPLETED)
        self._fail(await self._why_closed())
        try:
            await asyncio.wait_for(library.disconnect(), 1.0)
        except Exception:  # noqa: BLE001, S110 (how the connection ended is of no interest any more)
            pass

    async def _execute(self, command: str, arguments: Mapping[str, object] | None, descriptor: int | None) -> Any:
        from qemu.qmp import ExecuteError, QMPError

        assert self._library is not None
        assert self._rights is not None
        try:
            if descriptor is None:
                return await self._library.execute(command, arguments)
            async with self._rights:  # of two descriptors under way QEMU keeps one
                self._library.send_fd_scm(descriptor)
                return await self._library.execute(command, arguments)
        except ExecuteError as error:
            raise QmpError(command, error.error_class, error.error.error.desc) from None
        except QMPError:
            raise await self._why_closed() from None

    async def _why_closed(self) -> SandboxError:
        """Return why the monitor is closed: who sees QEMU's end knows better, and a moment later (`interrupt`)."""
        import asyncio

        for _ in range(_MOMENTS):
            if self._failed is not None:
                return self._failed
            await asyncio.sleep(_MOMENT)
        return Unavailable("qemu has closed its monitor")

    def _received(self, message: Message | dict[str, Any]) -> None:
        """Keep events and the answers to what was sent ahead; the library does the rest."""
        if "event" in message:
            with self._changed:
                self._events.append(dict(message))
                self._changed.notify_all()
        elif "QMP" in message:
            self._is_greeted = True
        elif isinstance(name := message.get("id"), str) and name in self._unanswered:
            with self._changed:
                command = self._unanswered.pop(name)
                self._changed.notify_all()
            if name in self._answers:
                self._answers[name] = message
            elif isinstance(error := message.get("error"), dict):
                self._fail(QmpError(command, str(error.get("class")), str(error.get("desc"))))


def _message(line: bytes) -> dict[str, Any]:
    try:
        message = json.loads(line)
    except (ValueError, RecursionError):
        message = None
    if not isinstance(message, dict):
        raise Unavailable("qemu: says what is no message")
    return message


def _rights(descriptor: int) -> list[tuple[int, int, bytes]]:
    return [(_SOL_SOCKET, _SCM_RIGHTS, struct.pack("i", descriptor))]


def _library(received: Callable[[Message], None]) -> QMPClient:
    from qemu.qmp import QMPClient

    class Listening(QMPClient):
        """The library's client; every message is shown to us first."""

        def _cb_inbound(self, msg: Message) -> Message:
            received(msg)
            return msg

    return Listening(readbuflen=LONGEST_MESSAGE)


async def _closed(library: QMPClient) -> None:
    """Wait until the library's connection has ended, whoever ended it."""
    from qemu.qmp import Runstate

    while library.runstate is Runstate.RUNNING:
        await library.runstate_changed()
