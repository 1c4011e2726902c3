"""Names of an archive: bytes that nobody vouches for, made into paths beneath a root, or refused."""

from __future__ import annotations

from pysandbox.bundle.limit import DEPTH, NAME, PATH
from pysandbox.errors import InvalidArgument
from pysandbox.oci.document import quote


def shown(name: bytes) -> str:
    """Return a name for an error: quoted, in ASCII, of bounded length. A terminal's escape sequences stay letters."""
    return quote(name.decode("utf-8", "backslashreplace"))


def clean(raw: bytes, what: str) -> bytes:
    """Return a path without empty and `.` components, relative to the root; the root itself is b"".

    Raises InvalidArgument for a path that is absolute, climbs with `..`, holds NUL, or is too long or too deep.
    """
    if raw.startswith(b"/"):
        raise InvalidArgument(f"{what}: {shown(raw)}: absolute path; paths of an archive are relative to its root")
    if b"\0" in raw:
        raise InvalidArgument(f"{what}: {shown(raw)}: NUL in a path")
    parts = [part for part in raw.split(b"/") if part not in (b"", b".")]
    if b".." in parts:
        raise InvalidArgument(f'{what}: {shown(raw)}: ".." in a path; it could leave the root')
    path = b"/".join(parts)
    check_length(path, what)
    return path


def check_length(path: bytes, what: str) -> None:
    """Raise InvalidArgument for a path that is too long, too deep, or has too long a component."""
    parts = path.split(b"/")
    if len(path) > PATH:
        raise InvalidArgument(f"{what}: {shown(path)}: path of {len(path)} bytes; at most {PATH} are possible")
    if len(parts) > DEPTH:
        raise InvalidArgument(f"{what}: {shown(path)}: nested deeper than {DEPTH} directories")
    if longest := next((part for part in parts if len(part) > NAME), b""):
        raise InvalidArgument(f"{what}: {shown(path)}: name of {len(longest)} bytes; at most {NAME} are possible")


def join(parent: bytes, name: bytes) -> bytes:
    """Return the path of a name in a directory; b"" is the root."""
    return parent + b"/" + name if parent else name


def split(path: bytes) -> tuple[bytes, bytes]:
    """Return a clean path's directory and its last component."""
    parent, _, name = path.rpartition(b"/")
    return parent, name
