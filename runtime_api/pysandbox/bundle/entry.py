"""One file system object of an image, wherever it comes from."""

from __future__ import annotations

from pysandbox.record import dataclass, field

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator

    #: Pieces of a file with the offset of each, in ascending order; between them are holes.
    Content = Iterator[tuple[int, bytes]]

FILE, DIRECTORY, SYMLINK, LINK, FIFO, CHARACTER, BLOCK = "file", "directory", "symlink", "link", "fifo", "c", "b"
DEVICES = (CHARACTER, BLOCK)


@dataclass(slots=True, kw_only=True)
class Entry:
    """`name` is clean (see name.py), b"" is the root itself. `mode`: permission and set-id bits.

    `mtime` is in nanoseconds since 1970. `size`: bytes of a file, holes included. `target`: what a symbolic link says,
    as it stands; of a hard link the clean path of the other name. `device`: major and minor number.
    """

    name: bytes
    kind: str
    mode: int = 0o755
    uid: int = 0
    gid: int = 0
    mtime: int = 0
    size: int = 0
    target: bytes = b""
    device: tuple[int, int] = (0, 0)
    xattrs: dict[bytes, bytes] = field(default_factory=dict)
