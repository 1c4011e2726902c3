"""QEMU as a process of the host: started with descriptors in their places, watched, and ended for sure.

One thread takes what the machine says on its serial console and QEMU on its standard error, and sees the process end.
"""

from __future__ import annotations

import _signal
import contextlib
import os
import select
import threading
import time

from pysandbox.caller import current
from pysandbox.errors import DeadlineExceeded
from pysandbox_microvm.console import Ring, panic, tail

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from pysandbox_microvm.jail import Jail

#: Seconds for a killed process to be gone.
END_TIMEOUT = 10.0
_CHUNK = 64 * 1024
_MESSAGES_SIZE = 16 * 1024
_SIGKILL = 9


def launch(jail: Jail | None, argv: Sequence[str], descriptors: Mapping[int, int]) -> tuple[int, int]:
    """Start a program as a child of this process, in a jail or with nothing around it; return its pid and pidfd.

    `descriptors` says for each of its descriptors what it is a copy of; numbers that are left out are /dev/null.
    """
    if jail is not None:
        from pysandbox_microvm.jail import launch_jailed

        jailed = launch_jailed(jail, argv, descriptors)
        return jailed.pid, jailed.pidfd
    null = os.open("/dev/null", os.O_RDWR | os.O_CLOEXEC)
    try:
        streams = [descriptors.get(place, null) for place in range(max(descriptors) + 1)]
        pid = current().spawn(_found(argv[0]), argv, {}, streams)
    finally:
        os.close(null)
    return pid, os.pidfd_open(pid)


class Child:
    """QEMU and its two voices, both taken over; `ended` is called once, on the thread that watches."""

    def __init__(self, pid: int, pidfd: int, console: int, messages: int, ended: Callable[[], None]) -> None:
        self.pid = pid
        self.pidfd = pidfd
        self.console = Ring()
        self.messages = Ring(_MESSAGES_SIZE)
        self.status: int | None = None  # a wait status, once it has ended
        self._ended = ended
        self._gone = threading.Event()
        self._voices = {console: self.console, messages: self.messages}
        self._thread = threading.Thread(target=self._watch, name="machine", daemon=True)

    def watch(self) -> None:
        """Begin to listen to it, and to wait for its end: `ended` may be called before this returns."""
        self._thread.start()

    @property
    def alive(self) -> bool:
        """Whether it has not been seen to end."""
        return not self._gone.is_set()

    def wait(self, seconds: float) -> bool:
        """Wait for its end; say whether it has come."""
        return self._gone.wait(seconds)

    def kill(self) -> None:
        """End and reap it. Safe to call twice. Raises DeadlineExceeded where the kernel does not end it."""
        with contextlib.suppress(ProcessLookupError):
            if self.alive:
                _signal.pidfd_send_signal(self.pidfd, _SIGKILL)
        if self._thread.ident is None and self.alive:  # nobody has begun to watch
            self._watch()
            self._close()
        elif self._thread.ident is not None and threading.current_thread() is not self._thread:
            self._thread.join(END_TIMEOUT)
            if self._thread.is_alive():
                raise DeadlineExceeded(f"qemu (process {self.pid}) has not ended for {END_TIMEOUT:g} s")
            self._close()

    def why(self, reason: str = "") -> str:
        """Say how it ended, in one line, with what it and the machine said last; `reason` where it is known already."""
        parts = [reason or panic(self.console.read()) or _how(self.status)]
        for voice, ring in (("qemu", self.messages), ("console", self.console)):
            if said := tail(ring.read()):
                parts.append(f"{voice}: {said}")
        return "; ".join(parts)

    def _close(self) -> None:
        if self.pidfd >= 0:
            os.close(self.pidfd)
            self.pidfd = -1

    def _watch(self) -> None:
        poll = select.poll()
        poll.register(self.pidfd, select.POLLIN)
        for voice in self._voices:
            poll.register(voice, select.POLLIN)
        while True:
            ready = [descriptor for descriptor, _ in poll.poll()]
            for descriptor in ready:
                if descriptor in self._voices and not self._listen(descriptor):
                    poll.unregister(descriptor)
            if self.pidfd in ready:
                break
        for voice in self._voices:  # what it said last is there by now
            deadline = time.monotonic() + 0.2  # unless another, whoever has inherited it, goes on talking
            while _readable(voice) and self._listen(voice) and time.monotonic() < deadline:
                pass
            os.close(voice)
        self.status = _reap(self.pid)
        self._gone.set()
        self._ended()

    def _listen(self, voice: int) -> bool:
        """Take what is there; False at its end."""
        try:
            data = os.read(voice, _CHUNK)
        except OSError:
            return False
        self._voices[voice].write(data)
        return bool(data)


def _readable(descriptor: int) -> bool:
    poll = select.poll()
    poll.register(descriptor, select.POLLIN)
    return bool(poll.poll(0))


def _reap(pid: int) -> int | None:
    """Take the wait status of a child that has ended; None where another has taken it."""
    try:
        return os.waitpid(pid, 0)[1]
    except ChildProcessError:
        return None


def _how(status: int | None) -> str:
    if status is None:
        return "qemu has ended"
    code = os.waitstatus_to_exitcode(status)
    return f"qemu was killed by signal {-code}" if code < 0 else f"qemu has ended with exit code {code}"


def _found(program: str) -> str:
    """Return a program's path. Raises FileNotFoundError."""
    from shutil import which

    path = which(program, path="/usr/local/bin:/usr/bin:/bin")
    if path is None:
        raise FileNotFoundError(2, "not found", program)
    return path
