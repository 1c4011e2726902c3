"""What a machine says beside its protocols: the last of its serial console, and of QEMU's own messages.

The guest may write what it likes, as fast as it likes: only so much is kept, and shown with control characters escaped.
"""

from __future__ import annotations

from threading import Lock

#: Bytes kept.
CONSOLE_SIZE = 64 * 1024
#: Lines and bytes of it that go into an error's text.
_SHOWN_LINES, _SHOWN_BYTES = 4, 600


class Ring:
    """The last `size` bytes that were written. Any thread may write and read."""

    def __init__(self, size: int = CONSOLE_SIZE) -> None:
        self._size = size
        self._data = bytearray()
        self._lock = Lock()

    def write(self, data: bytes) -> None:
        """Take bytes; what is older than the ring is long is forgotten."""
        with self._lock:
            self._data += data[-self._size :]
            if len(self._data) > self._size:
                del self._data[: -self._size]

    def read(self) -> bytes:
        """Return what is kept."""
        with self._lock:
            return bytes(self._data)


def shown(data: bytes) -> str:
    """Return console output as text that no terminal takes for commands: lines, tabs and printable characters."""
    text = data.decode(errors="replace").replace("\r\n", "\n").replace("\r", "\n")
    return "".join(letter if letter.isprintable() or letter in "\n\t" else _escaped(letter) for letter in text)


def tail(data: bytes) -> str:
    """Return the last lines in one, for an error's text; empty if there are none."""
    lines = [line.strip() for line in shown(data[-8 * _SHOWN_BYTES :]).splitlines() if line.strip()]
    return " | ".join(lines[-_SHOWN_LINES:])[-_SHOWN_BYTES:]


def panic(data: bytes) -> str:
    """Return the first line of a kernel panic in the console's output, empty if there is none."""
    _, found, rest = data.rpartition(b"Kernel panic - not syncing")
    return "kernel panic" + shown(rest[:200]).split("\n", 1)[0] if found else ""


def _escaped(letter: str) -> str:
    return letter.encode("unicode_escape").decode()
