"""Write an initrd: an uncompressed cpio archive of the "newc" form, the same bytes for the same entries.

Source: Documentation/driver-api/early-userspace/buffer-format.rst of the kernel (initramfs buffer format). Each entry
is a header of "070701" and 13 numbers of 8 hexadecimal digits, the NUL-ended name padded to 4 bytes together with the
header, and the content padded to 4 bytes. The kernel unpacks it as root into an empty root file system, entry by
entry: a directory has to come before what is in it. An entry called TRAILER!!! ends it.
"""

from __future__ import annotations

from pysandbox.record import dataclass

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable

_TRAILER = "TRAILER!!!"
_DIRECTORY, _FILE, _CHARACTER_DEVICE = 0o040000, 0o100000, 0o020000
_ALIGNMENT = 4
#: The archive's numbers have 32 bits.
MOST_BYTES = 2**32 - 1


@dataclass(frozen=True, slots=True, kw_only=True)
class Entry:
    """One file of an archive, root's. `path` is without a leading slash; `device` is (major, minor)."""

    path: str
    mode: int
    content: bytes = b""
    device: tuple[int, int] = (0, 0)


def directory(path: str, permissions: int = 0o755) -> Entry:
    """Return a directory."""
    return Entry(path=path, mode=_DIRECTORY | permissions)


def program(path: str, content: bytes) -> Entry:
    """Return an executable file."""
    return Entry(path=path, mode=_FILE | 0o755, content=content)


def character_device(path: str, permissions: int, major: int, minor: int) -> Entry:
    """Return a device node."""
    return Entry(path=path, mode=_CHARACTER_DEVICE | permissions, device=(major, minor))


def archive(entries: Iterable[Entry]) -> bytes:
    """Return the archive. Raises ValueError for an entry that the kernel would not unpack."""
    parts: list[bytes] = []
    known = {""}
    number = 0
    for number, entry in enumerate(entries, start=1):
        _check(entry, known)
        known.add(entry.path)
        parts.append(_packed(entry, number))
    parts.append(_packed(Entry(path=_TRAILER, mode=0), number + 1))
    return b"".join(parts)


def _check(entry: Entry, known: set[str]) -> None:
    parent, slash, name = entry.path.rpartition("/")
    if name in ("", ".", "..", _TRAILER) or "\0" in entry.path or entry.path in known or (slash and not parent):
        raise ValueError(f"{entry.path!r}: no name for a file of an initrd, or one that is taken")
    if parent not in known:
        raise ValueError(f"{entry.path!r}: its directory has to come first")
    if len(entry.content) > MOST_BYTES:
        raise ValueError(f"{entry.path!r}: longer than {MOST_BYTES} bytes")


def _packed(entry: Entry, number: int) -> bytes:
    """Return one entry. Inode numbers are its place, times 0: nothing of the host gets into the archive."""
    name = entry.path.encode() + b"\0"
    links = 2 if entry.mode & _DIRECTORY == _DIRECTORY else 1
    numbers = (number, entry.mode, 0, 0, links, 0, len(entry.content), 0, 0, *entry.device, len(name), 0)
    header = b"070701" + b"".join(b"%08x" % value for value in numbers)
    return _padded(header + name) + _padded(entry.content)


def _padded(data: bytes) -> bytes:
    return data + b"\0" * (-len(data) % _ALIGNMENT)
