"""How much an image may ask for, and the account of what it has taken so far."""

from __future__ import annotations

from pysandbox.errors import InvalidArgument
from pysandbox.record import dataclass

#: Bytes of an extended header. A PAX header carries names and extended attributes: the largest of these has 64 KiB.
EXTENSION = 1 << 20
#: Bytes of a name (NAME_MAX), of a path or a link's target (PATH_MAX without its NUL).
NAME, PATH = 255, 4095
#: Directories on the way to an entry. Recursion that deep is safe, and so is one descriptor for each level.
DEPTH = 128
#: Layers. Docker makes no more than 127.
LAYERS = 512
#: Extended attributes of an entry, and bytes of one (XATTR_SIZE_MAX).
XATTRS, XATTR = 64, 1 << 16
#: Data regions of a sparse file.
REGIONS = 100_000
#: Bytes of memory that a decompressor may ask for: the window of `xz -9` is 64 MiB, that of `zstd --ultra -22` 128 MiB.
WINDOW = 128 << 20
#: Bytes of /etc/passwd and /etc/group.
ACCOUNTS = 1 << 20


@dataclass(frozen=True, slots=True, kw_only=True)
class Limits:
    """What the caller allows: bytes of everything unpacked (holes of sparse files count), files and directories."""

    size: int = 16 << 30
    entries: int = 1_000_000


class Budget:
    """What is left of the limits. Raises InvalidArgument, with the option that raises the limit, where it is spent."""

    def __init__(self, limits: Limits) -> None:
        self.limits = limits
        self.size = 0
        self.entries = 0

    def take_bytes(self, count: int, what: str) -> None:
        """Take bytes of data or of a hole."""
        self.size += count
        if self.size > self.limits.size:
            raise InvalidArgument(f"{what}: unpacks to more than {self.limits.size} bytes (--max-size allows more)")

    def take_entry(self, what: str) -> None:
        """Take one entry of an archive or a directory."""
        self.entries += 1
        if self.entries > self.limits.entries:
            raise InvalidArgument(f"{what}: has more than {self.limits.entries} entries (--max-entries allows more)")


def parse_size(text: str, flag: str) -> int:
    """Return the bytes of `500M`, `16G`, `1T` or plain digits (powers of 1024). Raises InvalidArgument."""
    digits, unit = (text[:-1], text[-1:].upper()) if text[-1:].isalpha() else (text, "")
    power = {"": 0, "K": 1, "M": 2, "G": 3, "T": 4}.get(unit)
    if power is None or not (digits.isascii() and digits.isdigit() and len(digits) <= 15) or int(digits) == 0:
        raise InvalidArgument(f"--{flag} {text}: must be a number of bytes, or of K, M, G or T: 16G")
    return int(digits) << (10 * power)
