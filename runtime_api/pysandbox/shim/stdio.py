"""A process's standard streams, as containerd names them: FIFOs, files, or nothing.

The process gets the FIFO itself, so that nothing is copied and nothing is lost when the shim dies. The shim holds it
open both ways until the process has ended: a client may then go and come back, and the process sees neither an end of
file nor SIGPIPE. Its input ends when a client closes its end, or by CloseIO, whichever is first: `ctr` relies on one,
CRI on the other. Only a terminal has to be copied, by a thread of its own, and what an exec says, which may leave
programs behind (`outlet`).
"""

from __future__ import annotations

import contextlib
import os
import select
import stat
import time
from functools import partial
from threading import Event, Thread

from pysandbox.backend import Stdio
from pysandbox.errors import InvalidArgument
from pysandbox.record import dataclass, replace
from pysandbox.shim.logger import is_logger
from pysandbox.shim.outlet import Outlet
from pysandbox.shim.unread import Unread, hold_for_writing

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping
    from typing import Self

    from pysandbox.shim.logger import Logger

_CHUNK = 64 * 1024
_IN_CLOSE_WRITE = 0x8


@dataclass(frozen=True, slots=True, kw_only=True)
class Names:
    """What containerd calls the streams; empty is none. `owner`, uid and gid, are to own the FIFOs."""

    stdin: str = ""
    stdout: str = ""
    stderr: str = ""
    terminal: bool = False
    owner: tuple[int, int] = (0, 0)


class Streams:
    """The streams of one process, from before it is made until nobody writes any more."""

    def __init__(
        self, names: Names, start_logger: Callable[[str], Logger] | None = None, *, of_exec: bool = False
    ) -> None:
        """Open them. Raises InvalidArgument, OSError and what `start_logger` raises; nothing stays open then."""
        self.names = names
        self._of_exec = of_exec
        self._ways: dict[str, tuple[int, int]] = {}
        self._outlet: Outlet | None = None
        self._start_logger = start_logger
        self._loggers: dict[str, Logger] = {}
        self._kept: dict[str, int] = {}
        self._handed: list[int] = []
        self._unread_names: set[str] = set()
        self._unread: list[Unread] = []
        self._relay: Relay | None = None
        self._input_watch = self._followed = -1
        try:
            self.stdio = Stdio(terminal=True) if names.terminal else self._open()
            if names.terminal:
                for name in ("stdin", "stdout"):
                    if getattr(names, name):
                        self._kept[name] = self._keep(name)
        except BaseException:
            self.finish()
            raise

    def _keep(self, name: str) -> int:
        """Open what a stream is called, for us."""
        where = getattr(self.names, name)
        if not is_logger(where) or name == "stdin" or self._start_logger is None:
            return self._keep_output(name, where) if name != "stdin" else _keep(where)
        if where not in self._loggers:
            self._loggers[where] = self._start_logger(where)
        logger = self._loggers[where]
        descriptor = os.dup(logger.stdout if name == "stdout" else logger.stderr)
        os.set_blocking(descriptor, not self.names.terminal)
        return descriptor

    def _keep_output(self, name: str, where: str) -> int:
        """Open a FIFO or a file, and remember a FIFO that no client has opened yet."""
        scheme, path = _path(where)
        if scheme == "file":
            return _keep(where)
        held = hold_for_writing(path)
        try:
            descriptor = _keep(where)
        finally:
            if held >= 0:
                os.close(held)
        if held < 0:
            self._unread_names.add(name)
        return descriptor

    def _open(self) -> Stdio:
        stdin = self._hand("stdin", os.O_RDONLY)
        stdout = self._hand("stdout", os.O_WRONLY)
        same = self.names.stderr and self.names.stderr == self.names.stdout and not is_logger(self.names.stderr)
        return Stdio(stdin=stdin, stdout=stdout, stderr=stdout if same else self._hand("stderr", os.O_WRONLY))

    def _hand(self, name: str, mode: int) -> int:
        """Return a descriptor for the process."""
        where = getattr(self.names, name)
        if name == "stdin" and where:
            self._input_watch = _watch_writers(where)  # first: nobody can open it to write before there is a reader
        if not where:
            descriptor = os.open("/dev/null", mode | os.O_CLOEXEC)
        else:
            kept = self._kept[name] = self._keep(name)
            fifo = stat.S_ISFIFO(os.fstat(kept).st_mode)
            if fifo and self.names.owner != (0, 0):
                os.fchown(kept, *self.names.owner)  # or /dev/stdout could not be opened again by who is not root
            # The very file that was checked, opened again: blocking, and one way only.
            append = 0 if fifo else os.O_APPEND
            if fifo and self._of_exec and name != "stdin" and not is_logger(where):
                descriptor = self._pipe_into(name)
            else:
                descriptor = os.open(f"/proc/self/fd/{kept}", mode | append | os.O_CLOEXEC)
        self._handed.append(descriptor)
        return descriptor

    def _pipe_into(self, name: str) -> int:
        """Return the end to write to of a pipe that leads into a FIFO."""
        source, descriptor = os.pipe2(os.O_CLOEXEC)
        self._ways[name] = source, self._kept.pop(name)
        if self.names.owner != (0, 0):
            os.fchown(descriptor, *self.names.owner)
        return descriptor

    def take_input_watch(self) -> int | None:
        """Return a descriptor that becomes readable when a client closes stdin, None if there is none; once.

        It does so, too, when we do: whoever waits for it need not be told.
        """
        descriptor, self._input_watch = self._input_watch, -1
        return descriptor if descriptor >= 0 else None

    def follow_input(self, when_readable: Callable[[int, Callable[[], None]], None]) -> None:
        """Have stdin closed when a client closes it: `when_readable` watches a descriptor, and closes it."""
        descriptor = self.take_input_watch()
        if descriptor is not None:
            self._followed = descriptor
            when_readable(descriptor, self._input_ended)

    def _input_ended(self) -> None:
        self._followed = -1
        self.close_stdin()

    @property
    def followed(self) -> int:
        """The descriptor that is watched for stdin, -1 if none is."""
        return self._followed

    def left(self) -> tuple[dict[str, int], list[str]] | None:
        """Return what `resumed` needs to go on in another process: descriptors by name, and who has not been opened.

        None while something is copied or waited for: that is this process's business.
        """
        busy = self._ways or self._outlet or self._loggers or self._unread or self._relay or self._handed
        if busy or self.names.terminal or self._input_watch >= 0:
            return None
        return dict(self._kept), sorted(self._unread_names)

    @classmethod
    def resumed(cls, names: Names, kept: Mapping[str, int], unread: Iterable[str], input_watch: int) -> Self:
        """Go on with streams of init that another process has `left`."""
        streams = cls(replace(names, stdin="", stdout="", stderr=""))
        streams._close_handed()
        streams.names = names
        streams._kept, streams._unread_names, streams._input_watch = dict(kept), set(unread), input_watch
        return streams

    def started(self, console: int | None) -> None:
        """The process has its own: close what was for it, and begin to copy what a terminal says."""
        self._close_handed()
        if self._ways:
            ways, self._ways = self._ways, {}
            self._outlet = Outlet(ways, self._let_go)
        if console is not None:
            self._relay = Relay(
                console, self._kept.pop("stdin", None), self._kept.pop("stdout", None), partial(self._let_go, "stdout")
            )

    def resize(self, width: int, height: int) -> None:
        """Set a terminal's size; of anything else it is none."""
        if self._relay is not None:
            self._relay.resize(width, height)

    def close_stdin(self) -> None:
        """Let go of stdin: the process reads its end when the last client has closed it too, and all was read."""
        if (descriptor := self._kept.pop("stdin", None)) is not None:
            os.close(descriptor)

    def _let_go(self, name: str, descriptor: int) -> None:
        """Close an output that nobody writes to any more; for a client that has yet to open it, later."""
        if name not in self._unread_names:
            os.close(descriptor)
            return
        with contextlib.suppress(OSError, RuntimeError):
            self._unread.append(Unread(descriptor))

    def let_go(self, patience: float) -> None:
        """The process has ended: let clients read to the end. One that has yet to open its end has so long to do it.

        A terminal goes on being copied.
        """
        if not self._unread_names and not self.names.terminal:
            self._close_ours()
            return
        deadline = time.monotonic() + patience
        for name in ("stdout", "stderr"):
            if (descriptor := self._kept.pop(name, None)) is not None:
                self._let_go(name, descriptor)
        if self._relay is None:
            self._close_ours()
        copying = self._relay or self._outlet
        if copying is not None and self._unread_names:
            copying.done.wait(patience)
        for each in self._unread:
            each.done.wait(max(0.0, deadline - time.monotonic()))

    def ended(self, patience: float = 0.0) -> None:
        """The process is to be forgotten. What it said and has yet to be copied has so long for it."""
        if self._relay is not None:
            self._relay.done.wait(patience)
        if self._outlet is not None:
            self._outlet.drain(patience)
        self.close()

    def finish(self) -> None:
        """Close everything, and wait for the programs that take output to end."""
        self.close()
        while self._loggers:
            self._loggers.popitem()[1].finish()

    def close(self) -> None:
        """Close everything, any number of times."""
        self._close_ours()
        if self._relay is not None:
            self._relay.stop()
        if self._outlet is not None:
            self._outlet.drain(0.0)
        for each in self._unread:
            each.close()

    def _close_ours(self) -> None:
        """Close what no thread has."""
        self._close_handed()
        for logger in self._loggers.values():
            logger.let_go()
        if (watch := self.take_input_watch()) is not None:
            os.close(watch)
        while self._kept:
            os.close(self._kept.popitem()[1])
        while self._ways:
            for descriptor in self._ways.popitem()[1]:
                os.close(descriptor)

    def _close_handed(self) -> None:
        while self._handed:
            os.close(self._handed.pop())

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


def _watch_writers(where: str) -> int:
    """Return an inotify(7) descriptor that tells when a file that was open for writing is closed."""
    import ctypes

    libc = ctypes.CDLL(None, use_errno=True)
    descriptor = int(libc.inotify_init1(os.O_CLOEXEC | os.O_NONBLOCK))
    if descriptor < 0 or libc.inotify_add_watch(descriptor, os.fsencode(_path(where)[1]), _IN_CLOSE_WRITE) < 0:
        errno = ctypes.get_errno()
        if descriptor >= 0:
            os.close(descriptor)
        raise OSError(errno, os.strerror(errno), where)
    return descriptor


def _path(where: str) -> tuple[str, str]:
    """Return kind and path of what containerd names. Raises InvalidArgument."""
    scheme, found, path = where.partition("://")
    if not found:
        scheme, path = "fifo", where
    if scheme not in ("fifo", "file") or not path.startswith("/") or "\0" in path:
        raise InvalidArgument(f"{where}: is no absolute path, fifo:// or file://")
    return scheme, path.partition("?")[0] if found else path


def _keep(where: str) -> int:
    """Open what containerd names, both ways, which for a FIFO waits for nobody (fifo(7))."""
    scheme, path = _path(where)
    if scheme == "file":
        os.makedirs(os.path.dirname(path), mode=0o755, exist_ok=True)
        return os.open(path, os.O_RDWR | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC, 0o644)
    descriptor = os.open(path, os.O_RDWR | os.O_NONBLOCK | os.O_CLOEXEC)
    if not stat.S_ISFIFO(os.fstat(descriptor).st_mode):
        os.close(descriptor)
        raise InvalidArgument(f"{where}: is not a fifo")
    return descriptor


class Relay:
    """Copies between a terminal's master and two FIFOs, at the reader's pace. It owns all three.

    In the end it closes them, or has `let_go` do it with the one for output.
    """

    def __init__(
        self, master: int, stdin: int | None, stdout: int | None, let_go: Callable[[int], None] = os.close
    ) -> None:
        self._master, self._stdin, self._stdout = master, stdin, stdout
        self._let_go = let_go
        self._bell = os.eventfd(0, os.EFD_CLOEXEC | os.EFD_NONBLOCK)
        self._in = self._out = b""
        #: Set when everything that was said has been copied.
        self.done = Event()
        os.set_blocking(master, False)
        Thread(target=self._run, name="terminal", daemon=True).start()

    def resize(self, width: int, height: int) -> None:
        """Set the terminal's size: TIOCSWINSZ of ioctl_tty(2)."""
        import fcntl

        if not self.done.is_set():
            size = height.to_bytes(2, "little") + width.to_bytes(2, "little") + bytes(4)
            with contextlib.suppress(OSError):
                fcntl.ioctl(self._master, 0x5414, size)

    def stop(self) -> None:
        """Copy no more."""
        if not self.done.is_set():
            with contextlib.suppress(OSError):
                os.eventfd_write(self._bell, 1)
            self.done.wait(1.0)

    def _run(self) -> None:
        try:
            while self._step():
                pass
        except OSError:
            pass  # EIO: nobody has the terminal open any more (pty(7))
        finally:
            self._flush()
            if self._stdout is not None:
                self._let_go(self._stdout)
            self.done.set()
            for descriptor in (self._master, self._stdin, self._bell):
                if descriptor is not None:
                    os.close(descriptor)

    def _step(self) -> bool:
        ready = dict(self._polled().poll())
        if self._bell in ready:
            return False
        if self._stdin in ready and self._stdin is not None:
            self._in = os.read(self._stdin, _CHUNK)
        if self._in:
            with contextlib.suppress(BlockingIOError):
                self._in = self._in[os.write(self._master, self._in) :]
        if self._master in ready and not self._out:
            with contextlib.suppress(BlockingIOError):
                self._out = os.read(self._master, _CHUNK)
            if ready[self._master] & select.POLLHUP:
                self._in = b""  # nobody will read it
        self._flush()
        return True

    def _polled(self) -> select.poll:
        """Return what to wait for. A terminal that has been hung up is always ready, so it is asked only at need."""
        poll = select.poll()
        poll.register(self._bell, select.POLLIN)
        wanted = (0 if self._out else select.POLLIN) | (select.POLLOUT if self._in else 0)
        if wanted:
            poll.register(self._master, wanted)
        if self._out and self._stdout is not None:
            poll.register(self._stdout, select.POLLOUT)
        if not self._in and self._stdin is not None:
            poll.register(self._stdin, select.POLLIN)
        return poll

    def _flush(self) -> None:
        if self._stdout is None:
            self._out = b""
        elif self._out:
            with contextlib.suppress(BlockingIOError):
                self._out = self._out[os.write(self._stdout, self._out) :]
