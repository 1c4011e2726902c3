"""The user that an image asks for, looked up in its own /etc/passwd and /etc/group as docker and runc do.

No part of the host's name service is asked: it would load libraries, and answer for the host. The two files are the
image's: opened beneath its root, only if they are regular files, and only up to a limit.
"""

from __future__ import annotations

import os

from pysandbox.bundle.beneath import IN_ROOT, open_file
from pysandbox.bundle.limit import ACCOUNTS
from pysandbox.errors import InvalidArgument, NotFound
from pysandbox.oci.document import quote

TYPE_CHECKING = False
if TYPE_CHECKING:
    from pysandbox.oci.types import User

_LARGEST = 2**32 - 2


def find_user(root: int, text: str, place: str) -> User:
    """Return the user of `NAME`, `UID`, `NAME:GROUP`, … in the root file system at a descriptor.

    A name that is a number is one. Without a group it is the one of /etc/passwd, and the user has the further groups of
    /etc/group; a group that is named is the only one. Raises NotFound for names that nobody has, InvalidArgument.
    """
    name, colon, group = text.partition(":")
    if colon and not group:
        raise InvalidArgument(f"{place}: {quote(text)}: no group behind the colon")
    account = _account(root, name or "0", place)
    user: User = {"uid": account[1], "gid": account[2]}
    if group:
        user["gid"] = _group(root, group, place)
    elif account[0] and (gids := _groups_of(root, account[0])):
        user["additionalGids"] = gids
    return user


def _account(root: int, wanted: str, place: str) -> tuple[str, int, int]:
    """Return name, uid and gid. A uid that nobody has is good, and has no name and group 0."""
    number = _number(wanted, place)
    for fields in _lines(root, "etc/passwd", 4):
        uid, gid = _plain(fields[2]), _plain(fields[3])
        if uid is not None and gid is not None and (uid == number if number is not None else fields[0] == wanted):
            return fields[0], uid, gid
    if number is None:
        raise NotFound(f"{place}: no user {quote(wanted)} in the image's /etc/passwd")
    return "", number, 0


def _group(root: int, wanted: str, place: str) -> int:
    number = _number(wanted, place)
    if number is not None:
        return number
    for fields in _lines(root, "etc/group", 3):
        gid = _plain(fields[2])
        if fields[0] == wanted and gid is not None:
            return gid
    raise NotFound(f"{place}: no group {quote(wanted)} in the image's /etc/group")


def _groups_of(root: int, name: str) -> list[int]:
    members = (
        _plain(fields[2])
        for fields in _lines(root, "etc/group", 4)
        if name in (member.strip() for member in fields[3].split(","))
    )
    return list(dict.fromkeys(gid for gid in members if gid is not None))


def _number(text: str, place: str) -> int | None:
    """Return the id that digits stand for, None for a name. Raises InvalidArgument for a number that is no id."""
    if not text.lstrip("+-").isdigit():
        return None
    number = _plain(text)
    if number is None:
        raise InvalidArgument(f"{place}: {quote(text)}: ids are numbers from 0 to {_LARGEST}")
    return number


def _plain(text: str) -> int | None:
    number = int(text) if text.isascii() and text.isdigit() and len(text) <= 10 else -1
    return number if 0 <= number <= _LARGEST else None


def _lines(root: int, path: str, fields: int) -> list[list[str]]:
    """Return the fields of each line that has enough of them; none where there is no such file."""
    what = f"the image's /{path}"
    try:
        descriptor = open_file(root, os.fsencode(path), IN_ROOT, what)
    except (FileNotFoundError, NotADirectoryError):
        return []
    try:
        data = _read(descriptor, what)
    finally:
        os.close(descriptor)
    lines = (line.strip().split(":") for line in data.decode("utf-8", "replace").split("\n"))
    return [line for line in lines if len(line) >= fields]


def _read(descriptor: int, what: str) -> bytes:
    pieces, left = [], ACCOUNTS + 1
    while left and (data := os.read(descriptor, left)):
        pieces.append(data)
        left -= len(data)
    if not left:
        raise InvalidArgument(f"{what}: larger than {ACCOUNTS} bytes")
    return b"".join(pieces)
