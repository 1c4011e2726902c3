"""What the probe's program wrote, read as hostile input: bounded in lines, bytes, depth and names."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

from pysandbox.audit.catalogue import PROBES

if TYPE_CHECKING:
    from pysandbox.audit.finding import Facts

#: Bytes of one line and of all, items of a list, characters of a text, members of an object.
LINE_LIMIT = 16 * 1024
SIZE_LIMIT = 1024 * 1024
#: Lines: as many as there are probes, and some.
LINES_LIMIT = 2 * len(PROBES)
_ITEMS, _TEXT, _MEMBERS = 500, 1100, 16


class Reader:
    """Takes pieces of output. `facts` and `hows` grow as lines come in; `faults` says what was dropped, and why."""

    def __init__(self) -> None:
        self.facts: dict[str, Facts] = {}
        self.hows: dict[str, str] = {}
        self.faults: list[str] = []
        self.ended = False
        self._rest = b""
        self._size = self._lines = 0

    def feed(self, data: bytes) -> None:
        """Take the next piece. After the bound nothing more is taken."""
        self._size += len(data)
        if self._size > SIZE_LIMIT:
            self._fault(f"more than {SIZE_LIMIT} bytes")
            self.ended, self._rest = True, b""
            return
        *lines, self._rest = (self._rest + data).split(b"\n")
        for line in lines[:LINES_LIMIT]:
            if not self.ended:
                self._take(line)
        self._lines += len(lines)
        if self._lines > LINES_LIMIT:
            self._fault(f"more than {LINES_LIMIT} lines")
            self.ended, self._rest = True, b""
        if len(self._rest) > LINE_LIMIT:
            self._fault(f"a line of more than {LINE_LIMIT} bytes")
            self.ended, self._rest = True, b""

    def _fault(self, text: str) -> None:
        if len(self.faults) < _MEMBERS:
            self.faults.append(text)

    def _take(self, line: bytes) -> None:
        document = _parse(line)
        if document is None:
            self._fault("a line that is no JSON object within bounds")
        elif "probe" in document:
            self._take_probe(document)
        elif "end" in document:
            self.ended = True
        elif document.get("version") != 1:
            self._fault("a line that is none of the probe's")

    def _take_probe(self, document: dict[str, Any]) -> None:
        name, how, observed = document.get("probe"), document.get("how"), document.get("observed")
        if not isinstance(name, str) or name not in PROBES or PROBES[name].outside or document.keys() != _KEYS:
            self._fault("a line of no known probe")
        elif name in self.facts:
            self._fault(f"a second line of {name}")
        elif not isinstance(how, str) or not isinstance(observed, dict) or not _bounded(observed):
            self._fault(f"a line of {name} that is not within bounds")
        else:
            self.facts[name] = observed
            self.hows[name] = "".join(character if character.isprintable() else "?" for character in how[:300])


_KEYS = {"probe", "how", "observed"}


def _parse(line: bytes) -> dict[str, Any] | None:
    if len(line) > LINE_LIMIT:
        return None
    try:
        document = json.loads(line)
    except (ValueError, RecursionError):
        return None
    return document if isinstance(document, dict) else None


def _bounded(observed: dict[str, Any]) -> bool:
    """Say whether it is a flat object of scalars and short lists of scalars."""
    if len(observed) > _MEMBERS:
        return False
    for value in observed.values():
        items = value if isinstance(value, list) else [value]
        if len(items) > _ITEMS or not all(_is_scalar(item) for item in items):
            return False
    return True


def _is_scalar(value: object) -> bool:
    if isinstance(value, str):
        return len(value) <= _TEXT
    return value is None or (isinstance(value, int) and abs(value) < 1 << 64)
