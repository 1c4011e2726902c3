"""Read a tar archive that nobody vouches for: ustar, PAX, and GNU's long names, numbers and sparse files.

The standard library's `tarfile` is made for archives of friends: it reads extended headers of any size into memory,
leaves names as they stand, and guesses where a header is damaged. Here each field is checked as it is read, and what
two readers could understand differently is refused (libarchive's tar(5) and pax of POSIX.1-2017 describe the format).
"""

from __future__ import annotations

from pysandbox.bundle import extension
from pysandbox.bundle.entry import BLOCK, CHARACTER, DEVICES, DIRECTORY, FIFO, FILE, LINK, SYMLINK, Entry
from pysandbox.bundle.limit import EXTENSION, PATH, REGIONS
from pysandbox.bundle.name import clean, shown
from pysandbox.bundle.stream import PIECE
from pysandbox.errors import InvalidArgument

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator

    from pysandbox.bundle.entry import Content
    from pysandbox.bundle.extension import Records, Regions
    from pysandbox.bundle.limit import Budget
    from pysandbox.bundle.stream import Stream

_BLOCK = 512
_ZEROS = bytes(_BLOCK)
_KINDS = {
    b"\0": FILE, b"0": FILE, b"7": FILE, b"S": FILE, b"1": LINK, b"2": SYMLINK, b"3": CHARACTER, b"4": BLOCK,
    b"5": DIRECTORY, b"6": FIFO,
}  # fmt: skip
_PAX, _GLOBAL, _LONG_NAME, _LONG_LINK, _SPARSE = b"x", b"g", b"L", b"K", b"S"
#: 2**32-1 is (uid_t)-1, which chown(2) takes for "leave it as it is".
_LARGEST_ID = 2**32 - 2
#: Nanoseconds. What file systems hold ends in 2446 or later; beyond the year 9999 a time is a mistake.
_LATEST = 253_402_300_800 * 10**9


class Archive:
    """The entries of one archive, in order. `marked`: without the mark at its end it counts as truncated.

    `end` is the offset in the stream of what was read so far: during an iteration, where the entry's data begin.
    """

    def __init__(self, stream: Stream, budget: Budget, what: str, *, marked: bool) -> None:
        self._stream, self._budget, self._what, self._marked = stream, budget, what, marked
        self.end = 0
        self._left = self._padding = 0
        self._regions: Regions | None = None

    def entries(self) -> Iterator[Entry]:
        """Yield the entries; what is not read of one's content is passed over. Raises InvalidArgument."""
        while header := self._header():
            self._budget.take_entry(self._what)
            entry = self._entry(*header)
            yield entry
            self._skip(self._left + self._padding)
            self._left = self._padding = 0
        while self._stream.read(PIECE):
            pass  # what is behind the end belongs to nothing, but to the digest

    def content(self, entry: Entry) -> Content:
        """Yield the content of the file that `entries` has just yielded."""
        for offset, length in self._regions if self._regions is not None else [(0, entry.size)]:
            position, end = offset, offset + length
            while position < end:
                data = self._read(min(PIECE, end - position))
                self._left -= len(data)
                yield position, data
                position += len(data)

    # -- headers

    def _header(self) -> tuple[_Fields, Records] | None:
        """Read up to the next entry's own header, and return it with what extended headers say about it."""
        extended: dict[bytes, bytes] = {}
        while True:
            fields = self._fields()
            if fields is None:
                if extended:
                    raise self._bad("ends behind an extended header")
                return None
            if fields.type not in (_PAX, _GLOBAL, _LONG_NAME, _LONG_LINK):
                return self._named(fields, extended)
            if fields.type in extended:
                raise self._bad("two extended headers for one entry")
            data = self._extension(fields)
            if fields.type == _GLOBAL:
                self._budget.take_entry(self._what)
                extension.check_global(extension.parse_records(data, self._what), self._what)
            else:
                extended[fields.type] = data

    def _named(self, fields: _Fields, extended: dict[bytes, bytes]) -> tuple[_Fields, Records]:
        fields.name = extended.get(_LONG_NAME, fields.name).rstrip(b"\0")
        fields.link = extended.get(_LONG_LINK, fields.link).rstrip(b"\0")
        return fields, extension.parse_records(extended.get(_PAX, b""), self._what)

    def _fields(self) -> _Fields | None:
        block = self._read_block(at_end=not self._marked)
        if not block or block == _ZEROS:
            return None
        return _Fields(block, f"{self._what}, byte {self.end - _BLOCK}")

    def _extension(self, fields: _Fields) -> bytes:
        size = fields.number(124, 12)
        if not 0 <= size <= EXTENSION:
            raise self._bad(f"extended header of {size} bytes; at most {EXTENSION} are read")
        data = self._exactly(size)
        self._skip(-size % _BLOCK)
        return data

    # -- entries

    def _entry(self, fields: _Fields, records: Records) -> Entry:
        values = dict(records)
        raw = values.get(b"GNU.sparse.name", values.get(b"path", fields.name))
        name = clean(raw, self._what)
        what = f"{self._what}: {shown(name or b'.')}"
        kind = self._kind(fields, raw, what)
        stored = extension.read_number(values[b"size"], what) if b"size" in values else fields.number(124, 12)
        if stored < 0 or (stored and kind != FILE):
            raise InvalidArgument(f"{what}: {kind} with {stored} bytes of content")
        entry = Entry(name=name, kind=kind, mode=fields.number(100, 8) & 0o7777, xattrs=extension.xattrs(records, what))
        entry.uid = self._id(fields, values, b"uid", 108, what)
        entry.gid = self._id(fields, values, b"gid", 116, what)
        entry.mtime = self._time(fields, values, what)
        entry.target = self._target(kind, values.get(b"linkpath", fields.link), what)
        if kind in DEVICES:
            entry.device = self._device(fields, what)
        if not name and kind != DIRECTORY:
            raise InvalidArgument(f"{what}: the root has to be a directory, not a {kind}")
        self._left, self._padding = stored, -stored % _BLOCK
        entry.size = self._size(fields, records, stored, what)
        return entry

    def _kind(self, fields: _Fields, raw: bytes, what: str) -> str:
        kind = _KINDS.get(fields.type)
        if kind is None:
            raise InvalidArgument(f"{what}: entry of unknown type {shown(fields.type)}")
        # The oldest archives know a directory by this alone; GNU tar and Go's reader know it still.
        return DIRECTORY if kind == FILE and raw.endswith(b"/") else kind

    def _id(self, fields: _Fields, values: dict[bytes, bytes], key: bytes, offset: int, what: str) -> int:
        number = extension.read_number(values[key], what) if key in values else fields.number(offset, 8)
        if not 0 <= number <= _LARGEST_ID:
            raise InvalidArgument(f"{what}: {key.decode()} {number} is not from 0 to {_LARGEST_ID}")
        return number

    def _time(self, fields: _Fields, values: dict[bytes, bytes], what: str) -> int:
        if b"mtime" in values:
            time = extension.read_time(values[b"mtime"], what)
        else:
            time = fields.number(136, 12) * 10**9
        if abs(time) >= _LATEST:
            raise InvalidArgument(f"{what}: time {time // 10**9} is none")
        return time

    def _target(self, kind: str, raw: bytes, what: str) -> bytes:
        if kind == LINK:
            return clean(raw, f"{what}: hard link")
        if kind != SYMLINK:
            return b""
        if not raw or len(raw) > PATH or b"\0" in raw:
            raise InvalidArgument(f"{what}: symbolic link whose target has {len(raw)} bytes, or NUL among them")
        return raw

    def _device(self, fields: _Fields, what: str) -> tuple[int, int]:
        major, minor = fields.number(329, 8), fields.number(337, 8)
        if not (0 <= major < 1 << 12 and 0 <= minor < 1 << 20):
            raise InvalidArgument(f"{what}: no device has the number {major}:{minor}")
        return major, minor

    # -- sparse files

    def _size(self, fields: _Fields, records: Records, stored: int, what: str) -> int:
        """Return the size of the file that what is stored makes, and keep the map of it."""
        values = dict(records)
        self._regions, size = None, stored
        if fields.type == _SPARSE:
            self._regions, size = self._old_map(fields, what), fields.number(483, 12)
        elif values.get(b"GNU.sparse.major") == b"1" and values.get(b"GNU.sparse.minor") == b"0":
            size = extension.read_number(values.get(b"GNU.sparse.realsize", b""), what)
            self._regions = extension.read_sparse_data(self._map_block, what)
        elif any(key.startswith(b"GNU.sparse.") for key in values):
            self._regions = extension.sparse_regions(records, what)
            size = extension.read_number(values.get(b"GNU.sparse.size", values.get(b"GNU.sparse.realsize", b"")), what)
        if self._regions is not None:
            extension.check_regions(self._regions, self._left, size, what)
            self._budget.take_bytes(size - self._left, what)
        elif size != stored:
            raise InvalidArgument(f"{what}: sparse file without a map")
        return size

    def _map_block(self) -> bytes:
        if self._left < _BLOCK:
            raise self._bad("damaged map of a sparse file")
        self._left -= _BLOCK
        return self._read_block()

    def _old_map(self, fields: _Fields, what: str) -> Regions:
        regions, block, start, count, flag = [], fields, 386, 4, 482
        while True:
            pairs = [(block.number(at, 12), block.number(at + 12, 12)) for at in range(start, start + 24 * count, 24)]
            regions += [(offset, length) for offset, length in pairs if offset or length]
            if len(regions) > REGIONS:
                raise extension.too_many_regions(what)
            if block.block[flag] in b"\0 ":
                return regions
            self._budget.take_entry(self._what)
            block, start, count, flag = _Fields(self._read_block(), what, checked=False), 0, 21, 504

    # -- bytes

    def _read(self, count: int) -> bytes:
        data = self._stream.read(count)
        if not data:
            raise self._bad("truncated")
        self.end += len(data)
        return data

    def _exactly(self, count: int) -> bytes:
        pieces = []
        while count:
            pieces.append(self._read(min(count, PIECE)))
            count -= len(pieces[-1])
        return b"".join(pieces)

    def _read_block(self, *, at_end: bool = False) -> bytes:
        """Read one block; with `at_end` the stream may end before it."""
        first = self._stream.read(_BLOCK)
        self.end += len(first)
        if not first and at_end:
            return b""
        if not first:
            raise self._bad("truncated")
        return first if len(first) == _BLOCK else first + self._exactly(_BLOCK - len(first))

    def _skip(self, count: int) -> None:
        skip = getattr(self._stream, "skip", None)
        if skip is not None:
            skipped = skip(count)
            self.end += skipped
            if skipped < count:
                raise self._bad("truncated")
            return
        while count:
            count -= len(self._read(min(count, PIECE)))

    def _bad(self, problem: str) -> InvalidArgument:
        return InvalidArgument(f"{self._what}: {problem} (byte {self.end})")


class _Fields:
    """One header block. `name` and `link` are as they stand there, until an extended header says otherwise."""

    def __init__(self, block: bytes, what: str, *, checked: bool = True) -> None:
        self.block, self._what = block, what
        if not checked:
            return
        self._check_sum()
        self.type = block[156:157]
        self.link = _text(block[157:257])
        self.name = _text(block[:100])
        if block[257:263] == b"ustar\0" and (prefix := _text(block[345 : 476 if block[508:] == b"tar\0" else 500])):
            self.name = prefix + b"/" + self.name

    def number(self, offset: int, length: int) -> int:
        """Return a number: octal digits, or (GNU, star) base 256 with the first bit set. Raises InvalidArgument."""
        field = self.block[offset : offset + length]
        if field[0] & 0x80:
            value = int.from_bytes(field, "big") & ((1 << (8 * length - 1)) - 1)
            return value - (1 << (8 * length - 1)) if field[0] & 0x40 else value
        text = field.partition(b"\0")[0].strip(b" ")
        if text.strip(b"01234567"):
            raise InvalidArgument(f"{self._what}: {shown(text)} should be an octal number")
        return int(text or b"0", 8)

    def _check_sum(self) -> None:
        plain = self.block[:148] + b" " * 8 + self.block[156:]
        said = self.number(148, 8)
        # Old writers added signed bytes.
        if said != sum(plain) and said != sum(byte - 256 if byte > 127 else byte for byte in plain):
            raise InvalidArgument(f"{self._what}: no tar header: its checksum is wrong")


def _text(field: bytes) -> bytes:
    return field.partition(b"\0")[0]
