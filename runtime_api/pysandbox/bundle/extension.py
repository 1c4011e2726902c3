"""Extended headers of tar: PAX records (POSIX.1-2017, pax) and GNU tar's sparse maps."""

from __future__ import annotations

from pysandbox.bundle.limit import REGIONS, XATTR, XATTRS
from pysandbox.bundle.name import shown
from pysandbox.errors import InvalidArgument

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

    Records = list[tuple[bytes, bytes]]
    Regions = list[tuple[int, int]]

_XATTR = b"SCHILY.xattr."
#: The one key that may stand in a header more than once: in GNU's oldest form of a sparse map.
_REPEATED = frozenset({b"GNU.sparse.offset", b"GNU.sparse.numbytes"})
#: What a global header may say without meaning anything to us.
_HARMLESS = frozenset({b"comment", b"atime", b"ctime", b"charset", b"uname", b"gname", b"mtime"})


def parse_records(data: bytes, what: str) -> Records:
    """Return the records `LENGTH KEY=VALUE\\n` of a PAX header. Raises InvalidArgument for anything else."""
    records: Records = []
    seen: set[bytes] = set()
    position = 0
    while position < len(data) and data[position : position + 1] != b"\0":
        key, value, position = _record(data, position, what)
        if key in seen and key not in _REPEATED:
            raise InvalidArgument(f"{what}: PAX header: {shown(key)} twice")
        seen.add(key)
        records.append((key, value))
    return records


def _record(data: bytes, position: int, what: str) -> tuple[bytes, bytes, int]:
    digits, blank, _ = data[position : position + 8].partition(b" ")
    end = position + (int(digits) if digits.isdigit() else 0)
    key, equals, value = data[position + len(digits) + 1 : end - 1].partition(b"=")
    if not (blank and equals and key and end <= len(data) and data[end - 1 : end] == b"\n"):
        raise InvalidArgument(f"{what}: PAX header: damaged at byte {position}")
    return key, value, end


def check_global(records: Records, what: str) -> None:
    """Raise InvalidArgument for a global header that would change every entry behind it."""
    for key, _ in records:
        if key not in _HARMLESS and not key.startswith(b"VENDOR."):
            raise InvalidArgument(f"{what}: global PAX header with {shown(key)}: not supported")


def read_number(text: bytes, what: str) -> int:
    """Return the number that decimal digits stand for. Raises InvalidArgument."""
    if not (text.isdigit() and len(text) <= 19):
        raise InvalidArgument(f"{what}: {shown(text)} should be a number")
    return int(text)


def read_time(text: bytes, what: str) -> int:
    """Return nanoseconds of a decimal number of seconds, `-1.5` say. Raises InvalidArgument."""
    seconds, _, fraction = text.removeprefix(b"-").partition(b".")
    if not (seconds.isdigit() and len(seconds) <= 19 and (fraction.isdigit() or not fraction)):
        raise InvalidArgument(f"{what}: {shown(text)} should be a time")
    value = int(seconds) * 10**9 + int(fraction[:9].ljust(9, b"0"))
    return -value if text.startswith(b"-") else value


def xattrs(records: Records, what: str) -> dict[bytes, bytes]:
    """Return the extended attributes by name. Raises InvalidArgument for too many, too long or empty ones."""
    found = {key[len(_XATTR) :]: value for key, value in records if key.startswith(_XATTR)}
    if len(found) > XATTRS:
        raise InvalidArgument(f"{what}: more than {XATTRS} extended attributes")
    for name, value in found.items():
        if not name or len(name) > 255 or b"\0" in name or len(value) > XATTR:
            raise InvalidArgument(f"{what}: extended attribute {shown(name)}: no such name or length is possible")
    return found


def sparse_regions(records: Records, what: str) -> Regions | None:
    """Return the map of forms 0.0 and 0.1, which stands in the header, or None if there is none."""
    values = dict(records)
    if b"GNU.sparse.map" in values:
        numbers = [read_number(text, what) for text in _words(values[b"GNU.sparse.map"], what)]
    elif b"GNU.sparse.numblocks" in values:
        numbers = [read_number(value, what) for key, value in records if key in _REPEATED]
    else:
        return None
    return _pairs(numbers, what)


def _words(text: bytes, what: str) -> list[bytes]:
    if text.count(b",") > 2 * REGIONS:
        raise too_many_regions(what)
    return text.split(b",") if text else []


def _pairs(numbers: Sequence[int], what: str) -> Regions:
    if len(numbers) % 2:
        raise InvalidArgument(f"{what}: damaged map of a sparse file")
    return list(zip(numbers[::2], numbers[1::2], strict=True))


def too_many_regions(what: str) -> InvalidArgument:
    """Return the refusal of a sparse file in too many pieces."""
    return InvalidArgument(f"{what}: sparse file with more than {REGIONS} pieces")


def read_sparse_data(read_block: Callable[[], bytes], what: str) -> Regions:
    """Return the map of form 1.0: decimal lines at the beginning of the data, filled up to a block."""
    lines = _lines(read_block, what)
    count = read_number(next(lines), what)
    if count > REGIONS:
        raise too_many_regions(what)
    return _pairs([read_number(next(lines), what) for _ in range(2 * count)], what)


def _lines(read_block: Callable[[], bytes], what: str) -> Iterator[bytes]:
    data = b""
    while True:
        line, newline, rest = data.partition(b"\n")
        if newline:
            data = rest
            yield line
        elif len(data) > 32:
            raise InvalidArgument(f"{what}: damaged map of a sparse file")
        else:
            data += read_block()


def check_regions(regions: Regions, stored: int, size: int, what: str) -> None:
    """Raise InvalidArgument unless the pieces ascend, end within the file, and are what is stored."""
    position = 0
    for offset, length in regions:
        if offset < position or offset + length > size:
            raise InvalidArgument(f"{what}: damaged map of a sparse file: piece at byte {offset}")
        position = offset + length
    if sum(length for _, length in regions) != stored:
        raise InvalidArgument(f"{what}: damaged map of a sparse file: {stored} bytes are stored")
