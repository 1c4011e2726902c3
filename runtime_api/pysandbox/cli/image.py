"""`pysandbox image`: build the microVM's guest image, or list what was built."""

from __future__ import annotations

import os
import sys
import time

from pysandbox.cli.flags import Command, Flag, UsageError
from pysandbox.errors import InvalidArgument, PermissionDenied

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

    from pysandbox.cli.invocation import Invocation

COMMAND = Command(
    "image",
    "build the guest image of microVMs, or list the images",
    "build | list",
    (
        Flag("directory", "directory of the images, instead of the settings' (/var/lib/pysandbox/microvm)", "string"),
        Flag("jobs", "compilers at a time (default: one for each processor)", "int", "j"),
        Flag("format", "of the list: table or json", "string", "f", "table"),
    ),
    details="""
build makes a kernel from the distribution's source package (linux-source) and an initrd with the agent, and makes both
the image that new machines boot. What was built before is not built again: after a change of the agent it takes a
second. It can be interrupted, and leaves nothing then.
""",
)
#: The backend whose image this is.
BACKEND = "microvm"
_COLUMNS = ("image", "current", "release", "size", "built", "state")


def run(invocation: Invocation) -> int:
    """Do what the first argument says."""
    match invocation.parsed.arguments:
        case ["build"]:
            return _build(invocation)
        case ["list"]:
            return _list(invocation)
    raise UsageError('pysandbox: "image" requires build or list')


def _store(invocation: Invocation) -> Any:
    from pysandbox.plugins import load_part

    if os.geteuid() != 0:
        raise PermissionDenied("images are root's: run as root")
    settings = dict(invocation.config().backends.get(BACKEND, {}))
    if directory := invocation.parsed["directory"]:
        settings["directory"] = os.path.abspath(directory)
        settings.pop("images", None)
    return load_part(BACKEND, "store").Store(settings)


def _build(invocation: Invocation) -> int:
    jobs = invocation.parsed["jobs"]
    if not 0 <= jobs <= 1024:
        raise InvalidArgument(f"--jobs {jobs}: must be from 1 to 1024")
    progress = Progress()
    try:
        image = _store(invocation).build(progress, jobs)
    finally:
        progress.end()
    sys.stdout.write(f"Linux {image.release or 'of your own'}: {os.path.dirname(image.initrd)}\n")
    return 0


def _list(invocation: Invocation) -> int:
    from pysandbox.cli.list import show

    show(invocation.parsed["format"], _store(invocation).list(), _COLUMNS, _row)
    return 0


def _row(one: Any) -> list[str]:
    built = time.strftime("%Y-%m-%d %H:%M", time.localtime(one.built)) if one.built else "-"
    size = f"{one.size / 1e6:.1f} MB" if one.size else "-"
    return [one.key, "yes" if one.current else "", one.release or "-", size, built, one.damaged or "intact"]


class Progress:
    """Lines for a person: what is done, for how long; on a terminal with the share of it that is done."""

    def __init__(self) -> None:
        self._terminal = sys.stdout.isatty()
        self._text = ""
        self._since = 0.0
        self._shown = -1

    def step(self, text: str) -> None:
        """Begin with something."""
        self.end()
        self._text, self._since, self._shown = text, time.monotonic(), -1
        self._write(text if self._terminal else f"{text}\n")

    def share(self, done: int, total: int) -> None:
        """Show how far it is: on a terminal each percent, else each quarter."""
        percent = min(99, done * 100 // max(total, 1))
        step = 1 if self._terminal else 25
        if percent // step > self._shown:
            self._shown = percent // step
            if self._terminal:
                self._write(f"\r{self._text}: {percent} %")
            elif self._shown:
                self._write(f"  {self._shown * step} % after {self._seconds()}\n")

    def end(self) -> None:
        """End the line of what was begun."""
        if self._text and self._terminal:
            self._write(f"\r{self._text}: {self._seconds()}\033[K\n")
        self._text = ""

    def _seconds(self) -> str:
        return f"{time.monotonic() - self._since:.0f} s"

    def _write(self, text: str) -> None:
        sys.stdout.write(text)
        sys.stdout.flush()
