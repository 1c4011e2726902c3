"""The log: one line an event, in the two forms runc's logger writes, which containerd, docker and podman read back."""

from __future__ import annotations

import json
import os
import time

from pysandbox.errors import InvalidArgument


class Log:
    """Where lines go: a file (`--log`) that is only ever appended to, or standard error."""

    def __init__(self, path: str = "", form: str = "text", *, debug: bool = False) -> None:
        if form not in ("text", "json"):
            raise InvalidArgument(f"invalid log-format: {form}")
        self._form, self._debug = form, debug
        self._descriptor = _open(path) if path else 2
        self.to_stderr = not path

    def error(self, text: str) -> None:
        """Write why a command failed; on standard error too if the log is elsewhere."""
        self._write("error", text)
        if not self.to_stderr:
            os.write(2, f"{_visible(text) if os.isatty(2) else text}\n".encode(errors="surrogateescape"))

    def warning(self, text: str) -> None:
        """Write what is wrong and did not stop us."""
        self._write("warning", text)

    def debug(self, text: str) -> None:
        """Write a detail, under `--debug`."""
        if self._debug:
            self._write("debug", text)

    def _write(self, level: str, text: str) -> None:
        now = time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime())
        if self._form == "json":
            line = json.dumps({"level": level, "msg": text, "time": now}, separators=(",", ":"))
        elif self.to_stderr and os.isatty(2):
            line = f"{level.upper()[:4]}[0000] {_visible(text)}"
        else:
            line = f'time="{now}" level={level} msg={json.dumps(text, ensure_ascii=False)}'
        os.write(self._descriptor, f"{line}\n".encode(errors="backslashreplace"))


def _visible(text: str) -> str:
    """Return text for a terminal, which must not obey what the name of an image's file says to it."""
    return "".join(each if each.isprintable() else each.encode("unicode_escape").decode() for each in text)


def _open(path: str) -> int:
    flags = os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC
    # /dev/stderr and /proc/self/fd/2 are links by nature; anywhere else a link is somebody's trap.
    if not path.startswith(("/dev/", "/proc/")):
        flags |= os.O_NOFOLLOW
    try:
        # A FIFO that nobody reads would hold us up for ever; opened so, it is ENXIO.
        descriptor = os.open(path, flags | os.O_NONBLOCK, 0o644)
    except OSError as error:
        raise InvalidArgument(f"open {path}: {error.strerror}") from error
    os.set_blocking(descriptor, True)
    return descriptor
