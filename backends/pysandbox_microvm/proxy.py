"""The sandbox process's side of a proxy: the process of the host that stands for one in the guest (`pysandbox-proxy`).

Over one socket a proxy sends the number of each signal that it gets, one byte each, and gets its exit code, one byte.
Its end without a code to tell (SIGKILL) is the end of the process in the guest.
"""

from __future__ import annotations

import contextlib
import os
import select
import signal
import threading

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable


class Proxy:
    """One proxy, by its socket."""

    def __init__(self, descriptor: int) -> None:
        self._descriptor = descriptor
        self._lock = threading.Lock()
        self._told = False
        self._stop_reader, self._stop_writer = os.pipe2(os.O_CLOEXEC)

    def follow(self, signalled: Callable[[int], None]) -> None:
        """Hand on what it is sent, from now on; SIGKILL when it is gone."""
        threading.Thread(target=self._follow, args=(signalled,), daemon=True).start()

    def _follow(self, signalled: Callable[[int], None]) -> None:
        poll = select.poll()
        poll.register(self._descriptor, select.POLLIN)
        poll.register(self._stop_reader, select.POLLIN)
        while self._stop_reader not in dict(poll.poll()):
            try:
                numbers = os.read(self._descriptor, 64)
            except OSError:
                numbers = b""
            for number in numbers or (signal.SIGKILL,):
                signalled(number)
            if not numbers:
                break
        self.close()

    def tell(self, code: int) -> None:
        """Have it exit with this code."""
        with self._lock:
            if self._told:
                return
            self._told = True
            with contextlib.suppress(OSError):
                os.write(self._descriptor, bytes([code & 0xFF]))
            os.write(self._stop_writer, b"\0")

    def close(self) -> None:
        """Let go of it."""
        with self._lock:
            self._told = True
            for descriptor in (self._descriptor, self._stop_reader, self._stop_writer):
                with contextlib.suppress(OSError):
                    os.close(descriptor)
