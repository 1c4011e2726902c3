"""A client on a pseudo-terminal, as a person has it."""

from __future__ import annotations

import fcntl
import os
import pty
import select
import signal
import struct
import subprocess
import termios
import time
from typing import TYPE_CHECKING, Self

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence


class Terminal:
    """Run a command on a new pty; a context manager that ends it."""

    def __init__(self, command: Sequence[str], environment: Mapping[str, str], *, rows: int = 24, columns: int = 80):
        self.master, slave = pty.openpty()
        self._set_size(rows, columns)
        self.output = ""
        self.process = subprocess.Popen(
            command, stdin=slave, stdout=slave, stderr=slave, env=dict(environment), start_new_session=True
        )
        os.close(slave)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.process.kill()
        self.process.wait()
        os.close(self.master)
        print(f"terminal: {self.output!r}")

    def _set_size(self, rows: int, columns: int) -> None:
        fcntl.ioctl(self.master, termios.TIOCSWINSZ, struct.pack("HHHH", rows, columns, 0, 0))

    def resize(self, rows: int, columns: int) -> None:
        """Change the window's size and tell the client; it has no controlling terminal that would."""
        self._set_size(rows, columns)
        self.process.send_signal(signal.SIGWINCH)

    def type(self, text: str) -> None:
        """Send key strokes."""
        os.write(self.master, text.encode())

    def expect(self, text: str, *, seconds: float = 15) -> str:
        """Read until the output holds `text`, and return all output so far."""
        deadline = time.monotonic() + seconds
        while text not in self.output:
            ready, _, _ = select.select([self.master], [], [], max(0, deadline - time.monotonic()))
            assert ready, f"no {text!r} within {seconds} s in {self.output!r}"
            self.output += self._read()
        return self.output

    def _read(self) -> str:
        try:
            data = os.read(self.master, 4096)
        except OSError:  # EIO: the last process on the other side is gone
            data = b""
        assert data, f"the terminal was closed after {self.output!r}"
        return data.decode(errors="replace")

    def wait(self, *, seconds: float = 15) -> int:
        """Read to the end and return the client's exit code."""
        while True:
            ready, _, _ = select.select([self.master], [], [], seconds)
            try:
                data = os.read(self.master, 4096) if ready else b""
            except OSError:
                data = b""
            if not data:
                return self.process.wait(seconds)
            self.output += data.decode(errors="replace")
