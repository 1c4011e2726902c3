"""What a runtime says when something went wrong, as one line for a person: its own words, cut and cleaned."""

from __future__ import annotations

import json

#: Characters of a complaint that are shown.
LONGEST = 500
#: Levels of a log line that mean trouble, as logrus, crun and gVisor name them.
_TROUBLE = frozenset({"error", "fatal", "panic"})


def clean(text: str) -> str:
    """Return text as one line that can do nothing to a terminal or a log: control characters are spaces, cut."""
    line = " ".join("".join(character if character.isprintable() else " " for character in text).split())
    return line if len(line) <= LONGEST else f"{line[: LONGEST - 1]}…"


def entries(text: bytes) -> list[tuple[str, str]]:
    """Return a log's entries as (level, message); a line that is no JSON object is a message of no level."""
    return [_entry(line) for line in text.decode(errors="replace").splitlines() if line.strip()]


def _entry(line: str) -> tuple[str, str]:
    try:
        document = json.loads(line)
    except (ValueError, RecursionError):
        return "", clean(line)
    if not isinstance(document, dict) or not isinstance(document.get("msg"), str):
        return "", clean(line)
    return str(document.get("level", "")).lower(), clean(document["msg"])


def last_words(text: bytes) -> str:
    """Return the last message of trouble, or else the last one at all; empty where nothing was said."""
    said = [(level, message) for level, message in entries(text) if message]
    trouble = [message for level, message in said if level in _TROUBLE]
    if trouble:
        return trouble[-1]
    return said[-1][1] if said else ""


def warnings(text: bytes) -> list[str]:
    """Return what a runtime warned of, though it did what it was asked for."""
    return [message for level, message in entries(text) if level == "warning" and message][:20]
