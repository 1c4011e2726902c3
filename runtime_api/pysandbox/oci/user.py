"""The user of `exec --user`: numbers, and nothing that merely looks like them.

A lenient parser here has made `exec -u 1` run as root (CVE-2026-30892). Names are refused: looking them up would read
the container's own /etc/passwd on the host's behalf.
"""

from __future__ import annotations

from pysandbox.errors import InvalidArgument
from pysandbox.oci.document import quote

#: 2**32-1 is (uid_t)-1, which setresuid(2) takes for "leave it as it is": root.
_LARGEST = 2**32 - 2


def parse_user(text: str) -> tuple[int, int | None]:
    """Return uid and gid of `UID` or `UID:GID`; no gid stands for the one that the spec gives its process.

    Raises InvalidArgument for everything else: names, signs, blanks, other bases, empty parts, numbers out of range.
    """
    parts = text.split(":")
    if len(parts) > 2 or not all(_is_id(part) for part in parts):
        raise InvalidArgument(f"invalid user {quote(text)}: must be UID or UID:GID, numbers from 0 to {_LARGEST}")
    return int(parts[0]), int(parts[1]) if len(parts) == 2 else None


def parse_gid(text: str) -> int:
    """Return the group id of `exec --additional-gids`. Raises InvalidArgument."""
    if not _is_id(text):
        raise InvalidArgument(f"invalid group id {quote(text)}: must be a number from 0 to {_LARGEST}")
    return int(text)


def _is_id(text: str) -> bool:
    return text.isascii() and text.isdigit() and len(text) <= 10 and int(text) <= _LARGEST
