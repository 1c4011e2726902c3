"""What the gauge may say: figures that we know, by name. It speaks from inside a sandbox: nothing of it is believed."""

from __future__ import annotations

import json
import math
from dataclasses import dataclass, field

#: Name → unit, whether more is better.
KNOWN = {
    "cpu": ("M steps/s", True),
    "memory copy": ("MiB/s", True),
    "page fault": ("µs", False),
    "system call": ("ns", False),
    "switch": ("µs", False),
    "new process": ("µs", False),
    "file write": ("MiB/s", True),
    "file read": ("MiB/s", True),
    "small file create": ("µs", False),
    "small file read": ("µs", False),
    "small file remove": ("µs", False),
    "write and fsync": ("ms", False),
    "TCP connect": ("µs", False),
    "TCP round trip": ("µs", False),
    "TCP stream": ("MiB/s", True),
}
LINES = 64
TEXT = 200


@dataclass(slots=True)
class Readings:
    """Figures by name, what could not be taken by name, and the milliseconds that it took by the sandbox's clock."""

    values: dict[str, float] = field(default_factory=dict)
    errors: dict[str, str] = field(default_factory=dict)
    kernel: str = ""
    milliseconds: float | None = None
    #: Its milliseconds in relation to those that the host saw pass: above 1, the sandbox's clock runs ahead.
    ahead: float = 1.0


def read(text: str) -> Readings:
    """Return what the lines of a gauge say; what is not in its language is left out."""
    found = Readings()
    for line in text.splitlines()[:LINES]:
        try:
            document = json.loads(line)
        except (ValueError, RecursionError):
            continue
        if isinstance(document, dict):
            _take(found, document)
    return found


def _take(found: Readings, document: dict[str, object]) -> None:
    name, value, error = document.get("gauge"), document.get("value"), document.get("error")
    if name == "begin":
        found.kernel = printable(document.get("kernel"))
    elif name == "end":
        found.milliseconds = _number(document.get("milliseconds"))
    elif isinstance(name, str) and error is not None and (name in KNOWN or name == "files"):
        found.errors[name] = printable(error)
    elif isinstance(name, str) and name in KNOWN and (number := _number(value)) is not None:
        found.values[name] = number


def printable(text: object, most: int = TEXT) -> str:
    """Return text of somebody else's as one line that can be shown, of at most so many letters."""
    words = " ".join(str(text).split()) if isinstance(text, str) else ""
    return "".join(letter if letter.isprintable() else "?" for letter in words)[:most]


def _number(value: object) -> float | None:
    if isinstance(value, bool) or not isinstance(value, int | float):
        return None
    try:
        number = float(value)
    except OverflowError:
        return None
    return number if math.isfinite(number) and 0 < number < 1e15 else None
