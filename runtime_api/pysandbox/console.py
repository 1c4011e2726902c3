"""A process in the foreground: forward signals, relay its terminal, wait for its end. And hand a console over.

Signals arrive through a pipe (`signal.set_wakeup_fd`), so that one poll waits for them, the process and the terminal
alike, and nothing is lost between two system calls.
"""

from __future__ import annotations

import _signal
import contextlib
import fcntl
import os
import select
import signal

from pysandbox.caller import current
from pysandbox.errors import FailedPrecondition, InvalidArgument

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from types import FrameType, TracebackType
    from typing import Self

    from pysandbox.backend import Container, Process
    from pysandbox.oci.types import ConsoleSize

#: Not forwarded: those that tell about ourselves, that a fault of our own causes, or that nobody can catch.
NOT_FORWARDED = frozenset(
    {
        signal.SIGCHLD, signal.SIGURG, signal.SIGPIPE, signal.SIGKILL, signal.SIGSTOP,
        signal.SIGSEGV, signal.SIGBUS, signal.SIGFPE, signal.SIGILL, signal.SIGTRAP, signal.SIGSYS,
    }
)  # fmt: skip
_CHUNK = 65536
_TIOCGWINSZ, _TIOCSWINSZ = 0x5413, 0x5414  # asm-generic/ioctls.h


class Signals:
    """Catches all signals that are to be forwarded, from before the process is made until it has ended."""

    def __enter__(self) -> Self:
        self.descriptor, self._writer = os.pipe2(os.O_NONBLOCK | os.O_CLOEXEC)
        self._wakeup = signal.set_wakeup_fd(self._writer, warn_on_full_buffer=False)
        # The C half: its Python half makes an enum of every number and every handler, which doubles what this costs.
        caught = (_signal.valid_signals() - NOT_FORWARDED) | {signal.SIGCHLD}
        self._handlers = {number: _signal.signal(number, _ignore) for number in caught}
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for number, handler in self._handlers.items():
            _signal.signal(number, handler if handler is not None else signal.SIG_DFL)
        signal.set_wakeup_fd(self._wakeup)
        os.close(self.descriptor)
        os.close(self._writer)

    def take(self) -> bytes:
        """Return the numbers that have come, one byte each."""
        with contextlib.suppress(BlockingIOError):
            return os.read(self.descriptor, 4096)
        return b""


def _ignore(number: int, frame: FrameType | None) -> None:
    """Catch a signal: that it came is written to the pipe."""


class Terminal:
    """The caller's terminal, in raw mode from `__enter__` to `__exit__`. Raises InvalidArgument if there is none."""

    def __init__(self) -> None:
        current().require_cold("its terminal is for its own process to read and to set")
        self.descriptor = _host_terminal()

    def __enter__(self) -> Self:
        import termios
        import tty

        self._before = termios.tcgetattr(self.descriptor)
        tty.setraw(self.descriptor, termios.TCSANOW)
        raw = termios.tcgetattr(self.descriptor)
        raw[1] |= termios.OPOST  # as runc: the caller's terminal, not the container's, makes \r\n of \n
        termios.tcsetattr(self.descriptor, termios.TCSANOW, raw)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        import termios

        termios.tcsetattr(self.descriptor, termios.TCSANOW, self._before)

    def size(self) -> ConsoleSize:
        """Return this terminal's size as a spec's consoleSize."""
        height, width = os.get_terminal_size(self.descriptor)[::-1]
        return {"height": height, "width": width}

    def resize(self, master: int) -> None:
        """Give a pty this terminal's size."""
        with contextlib.suppress(OSError):
            fcntl.ioctl(master, _TIOCSWINSZ, fcntl.ioctl(self.descriptor, _TIOCGWINSZ, b"\0" * 8))


def _host_terminal() -> int:
    for descriptor in (0, 1, 2):
        if os.isatty(descriptor):
            return descriptor
    try:
        return os.open("/dev/tty", os.O_RDWR | os.O_CLOEXEC)
    except OSError as error:
        raise InvalidArgument(
            f"process.terminal: needs a terminal and there is none here: open /dev/tty: {error.strerror}"
        ) from error


class _Relay:
    """What flows between the caller's standard input and output and a pty's master."""

    def __init__(self, master: int) -> None:
        self.master = master
        self._to_master = b""
        self._stdin_open = True
        os.set_blocking(master, False)

    def interests(self) -> list[tuple[int, int]]:
        """Return what to poll for: (descriptor, events)."""
        wanted = [(self.master, select.POLLIN | (select.POLLOUT if self._to_master else 0))] if self.master >= 0 else []
        if self._stdin_open and not self._to_master and self.master >= 0:
            wanted.append((0, select.POLLIN))
        return wanted

    def step(self, ready: dict[int, int]) -> None:
        """Move what can be moved."""
        if 0 in ready:
            text = os.read(0, _CHUNK)
            self._stdin_open = bool(text)
            self._to_master += text
        if self._to_master:
            with contextlib.suppress(BlockingIOError):
                self._to_master = self._to_master[os.write(self.master, self._to_master) :]
        if self.master in ready:
            self._output()

    def _output(self) -> bool:
        """Pass one piece of output on; False when there is none (now, or for good)."""
        try:
            text = os.read(self.master, _CHUNK)
        except BlockingIOError:
            return False
        except OSError:
            text = b""  # EIO: the last process has closed the terminal
        if not text:
            self.close()
            return False
        _write_all(1, text)
        return True

    def drain(self) -> None:
        """Pass on what the process had written before it ended."""
        while self.master >= 0 and self._output():
            pass

    def close(self) -> None:
        if self.master >= 0:
            os.close(self.master)
            self.master = -1


def clear_newline_translation(master: int) -> None:
    """Let a pty pass newlines on as they are: `Options.plain_newlines`, for backends that open the pty here."""
    import termios

    attributes = termios.tcgetattr(master)
    attributes[1] &= ~termios.ONLCR
    termios.tcsetattr(master, termios.TCSANOW, attributes)


def _write_all(descriptor: int, text: bytes) -> None:
    while text:
        text = text[os.write(descriptor, text) :]


def attend(
    container: Container,
    process: Process,
    signals: Signals,
    terminal: Terminal | None = None,
    exec_id: str | None = None,
) -> int:
    """Stay with a process until it ends and return its exit code, 128+N after signal N."""
    with contextlib.ExitStack() as stack:
        pidfd = _open_pidfd(process.pid)
        if pidfd is None:
            return container.wait(exec_id).code
        stack.callback(os.close, pidfd)
        current().attend(process.pid)
        relay = None
        if terminal is not None and process.console is not None:
            relay = _Relay(process.console)
            stack.callback(relay.close)
            terminal.resize(relay.master)
            stack.enter_context(terminal)
        _loop(container, process, pidfd, signals, terminal, relay, exec_id)
        if relay is not None:
            relay.drain()
    return container.wait(exec_id).code


def _open_pidfd(pid: int) -> int | None:
    try:
        return os.pidfd_open(pid)
    except ProcessLookupError:
        return None


def _loop(
    container: Container,
    process: Process,
    pidfd: int,
    signals: Signals,
    terminal: Terminal | None,
    relay: _Relay | None,
    exec_id: str | None,
) -> None:
    while True:
        poll = select.poll()
        for descriptor in (pidfd, signals.descriptor):
            poll.register(descriptor, select.POLLIN)
        for descriptor, events in relay.interests() if relay is not None else ():
            poll.register(descriptor, events)
        ready = dict(poll.poll())
        for number in signals.take():
            if number == signal.SIGCHLD:
                current().attend(process.pid)
            elif number == signal.SIGWINCH and relay is not None and terminal is not None:
                terminal.resize(relay.master)
            else:
                _forward(container, number, exec_id)
        if relay is not None:
            relay.step(ready)
        if pidfd in ready:
            return


def _forward(container: Container, number: int, exec_id: str | None) -> None:
    with contextlib.suppress(FailedPrecondition, ProcessLookupError):
        container.kill(number, exec_id=exec_id)


# -- handing over ------------------------------------------------------------------------------------------------------


def check_console(*, terminal: bool, detach: bool, console_socket: str | None) -> None:
    """Refuse combinations of terminal and `--console-socket` that runc refuses, in its words."""
    if detach and terminal and not console_socket:
        raise InvalidArgument("cannot allocate tty if runc will detach without setting console socket")
    if (not detach or not terminal) and console_socket:
        raise InvalidArgument("cannot use console socket if runc will not detach or allocate tty")


def connect(path: str) -> Callable[[int, str], None]:
    """Connect to a listening AF_UNIX socket; return a function that sends a descriptor and its name, then closes.

    Connecting comes first, before anything is made: a wrong path costs nothing. `_socket` is the C part of `socket`,
    whose import takes 13 ms.
    """
    import _socket

    connection = _socket.socket(_socket.AF_UNIX, _socket.SOCK_STREAM | _socket.SOCK_CLOEXEC)
    try:
        connection.connect(path)
    except OSError as error:
        connection.close()
        raise InvalidArgument(f"socket {path}: {error.strerror or error}") from error

    def send(descriptor: int, name: str) -> None:
        rights = (_socket.SOL_SOCKET, _socket.SCM_RIGHTS, descriptor.to_bytes(4, "little"))
        try:
            connection.sendmsg([name.encode()], [rights])
        finally:
            connection.close()

    return send
