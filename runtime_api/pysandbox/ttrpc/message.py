"""Protocol buffers for programs that must start fast: plain classes and a table-driven codec.

`generate.py` makes the classes from .proto files (proto3). The `protobuf` package breaks the start-up budget: 50 ms of
import, 6 MB (docs/ttrpc.md has the figures, a test compares the bytes).

A message is an object with one attribute per field. An absent scalar is its zero, an absent message or `optional` field
None, `repeated` a list, `map` a dict. Unknown fields are skipped and not kept. Input is hostile: what is malformed
raises DecodeError; nothing recurses deeper than the messages are nested by definition; and the number of elements is
limited, because two bytes of input can be a whole object.
"""

from __future__ import annotations

import struct

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any, ClassVar, Self

    #: number, attribute, kind, label, the message's class or the kinds of a map's key and value
    Field = tuple[int, str, int, int, Any]

# Kinds. Those below STRING are varints.
INT32, INT64, UINT32, UINT64, BOOL, DOUBLE, STRING, BYTES, MESSAGE = range(9)
# Labels. A map's kind is MESSAGE, as it is one on the wire.
SINGLE, OPTIONAL, REPEATED, MAP = range(4)

#: Elements of all lists and maps of one message together. A container has some 30 mounts, a pids list thousands.
ELEMENT_LIMIT = 100_000
#: Nested groups, which proto3 has not but unknown fields may be: the limit of protobuf's own parsers.
GROUP_LIMIT = 100

_VARINT, _FIXED64, _LENGTH, _START, _END, _FIXED32 = range(6)
_WIRE = {BOOL: _VARINT, DOUBLE: _FIXED64, STRING: _LENGTH, BYTES: _LENGTH, MESSAGE: _LENGTH}
_ZERO: dict[int, Any] = {BOOL: False, DOUBLE: 0.0, STRING: "", BYTES: b"", MESSAGE: None}
_BITS = {INT32: 32, INT64: 64, UINT32: 32, UINT64: 64}
_MASK32, _MASK64 = 2**32 - 1, 2**64 - 1
_DOUBLE = struct.Struct("<d")


class DecodeError(ValueError):
    """These bytes are not such a message."""


class EncodeError(ValueError):
    """A field holds what its type cannot."""


class Message:
    """Base of all messages."""

    __slots__ = ()
    FIELDS: ClassVar[tuple[Field, ...]] = ()
    NAME: ClassVar[str] = ""
    _BY_NUMBER: ClassVar[dict[int, Field]] = {}

    def __init_subclass__(cls) -> None:
        cls._BY_NUMBER = {field[0]: field for field in cls.FIELDS}

    def __init__(self, **values: Any) -> None:
        for _, name, kind, label, _ in self.FIELDS:
            setattr(self, name, values.pop(name) if name in values else _default(kind, label))
        if values:
            raise TypeError(f"{self.NAME} has no field {next(iter(values))!r}")

    def __eq__(self, other: object) -> bool:
        if type(self) is not type(other):
            return NotImplemented
        return all(getattr(self, field[1]) == getattr(other, field[1]) for field in self.FIELDS)

    __hash__ = None  # type: ignore[assignment] # it changes

    def __repr__(self) -> str:
        pairs = ((name, getattr(self, name), _default(kind, label)) for _, name, kind, label, _ in self.FIELDS)
        given = ", ".join(f"{name}={value!r}" for name, value, zero in pairs if value != zero)
        return f"{type(self).__name__}({given})"

    def encode(self) -> bytes:
        """Return the bytes, fields by number and maps by key. Raises EncodeError."""
        out = bytearray()
        for field in self.FIELDS:
            try:
                _encode_field(out, field, getattr(self, field[1]))
            except (TypeError, AttributeError, OverflowError, UnicodeEncodeError, struct.error, EncodeError) as error:
                raise EncodeError(f"{self.NAME}.{field[1]}: {error}") from error
        return bytes(out)

    @classmethod
    def decode(cls, data: bytes) -> Self:
        """Return the message that the bytes hold. Raises DecodeError."""
        message = cls()
        try:
            _Decoder(data).message(message, 0, len(data))
        except UnicodeDecodeError as error:
            raise DecodeError(f"{cls.NAME}: a string is not UTF-8: {error.reason}") from error
        except DecodeError as error:
            raise DecodeError(f"{cls.NAME}: {error}") from error
        return message


def _default(kind: int, label: int) -> Any:
    if label == REPEATED:
        return []
    if label == MAP:
        return {}
    return None if label == OPTIONAL else _ZERO.get(kind, 0)


# -- encoding ----------------------------------------------------------------------------------------------------------


def _append_varint(out: bytearray, value: int) -> None:
    while value > 0x7F:
        out.append(value & 0x7F | 0x80)
        value >>= 7
    out.append(value)


def _append_bytes(out: bytearray, value: bytes | bytearray) -> None:
    _append_varint(out, len(value))
    out += value


def _append_value(out: bytearray, kind: int, value: Any) -> None:
    """Append a value without its tag."""
    if kind in _BITS:
        _append_varint(out, _checked(kind, value) & _MASK64)
    elif kind == BOOL:
        out.append(bool(value))
    elif kind == DOUBLE:
        out += _DOUBLE.pack(value)
    elif kind == STRING:
        _append_bytes(out, value.encode())
    elif kind == BYTES:
        _append_bytes(out, memoryview(value).tobytes())
    else:
        _append_bytes(out, value.encode())


def _checked(kind: int, value: Any) -> int:
    """Return the number if it fits. A negative one of 32 bits takes ten bytes, as one of 64 does."""
    bits = _BITS[kind]
    signed = kind in (INT32, INT64)
    low, high = (-(1 << (bits - 1)), 1 << (bits - 1)) if signed else (0, 1 << bits)
    if not isinstance(value, int) or not low <= value < high:
        raise EncodeError(f"{value!r} is no {'' if signed else 'unsigned '}number of {bits} bits")
    return value


def _encode_field(out: bytearray, field: Field, value: Any) -> None:
    number, _, kind, label, extra = field
    tag = number << 3 | _WIRE.get(kind, _VARINT)
    if label == MAP:
        for key in sorted(value):
            _append_varint(out, tag)
            _append_bytes(out, _map_entry(extra, key, value[key]))
    elif label == REPEATED:
        _encode_list(out, tag, kind, value)
    elif _is_absent(kind, label, value):
        return
    else:
        _append_varint(out, tag)
        _append_value(out, kind, value)


def _is_absent(kind: int, label: int, value: Any) -> bool:
    """Say whether a field is left out. -0.0 is not: its bits are not zero."""
    if label == OPTIONAL or kind == MESSAGE:
        return value is None
    if kind == DOUBLE:
        return _DOUBLE.pack(value) == bytes(8)
    return not value and value is not None


def _encode_list(out: bytearray, tag: int, kind: int, values: list[Any]) -> None:
    if tag & 7 != _LENGTH and values:  # numbers are packed into one field
        packed = bytearray()
        for value in values:
            _append_value(packed, kind, value)
        _append_varint(out, tag & ~7 | _LENGTH)
        _append_bytes(out, packed)
        return
    for value in values:
        _append_varint(out, tag)
        _append_value(out, kind, value)


def _map_entry(kinds: tuple[int, int], key: Any, value: Any) -> bytes:
    out = bytearray()
    for number, kind, part in ((1, kinds[0], key), (2, kinds[1], value)):
        _append_varint(out, number << 3 | _WIRE.get(kind, _VARINT))
        _append_value(out, kind, part)
    return bytes(out)


# -- decoding ----------------------------------------------------------------------------------------------------------


class _Decoder:
    """One decoding: the bytes, and how many elements may still be made of them."""

    __slots__ = ("data", "elements")

    def __init__(self, data: bytes) -> None:
        self.data = data
        self.elements = ELEMENT_LIMIT

    def message(self, message: Message, position: int, end: int) -> None:
        """Read the fields between two positions into a message; what is there already is merged with."""
        fields = message._BY_NUMBER
        while position < end:
            number, wire, position = self.tag(position, end)
            field = fields.get(number)
            if field is None or wire not in (_WIRE.get(field[2], _VARINT), _LENGTH):
                position = self.skip(number, wire, position, end)
            elif wire == _LENGTH:
                length, position = self.varint(position, end)
                if length > end - position:
                    raise DecodeError(f"field {number} is longer than what holds it")
                self.delimited(message, field, position, position + length)
                position += length
            else:
                value, position = self.scalar(field[2], position, end)
                self.put(message, field, value)

    def delimited(self, message: Message, field: Field, position: int, end: int) -> None:
        """Read a field of known length: a string, bytes, a message, a map's entry, or packed numbers."""
        _, name, kind, label, extra = field
        if kind == MESSAGE:
            if label == MAP:
                self.count()
                key, value = self.entry(extra, position, end)
                getattr(message, name)[key] = value
                return
            inner = getattr(message, name) if label != REPEATED else None
            if inner is None:
                inner = extra()
                self.put(message, field, inner)
            self.message(inner, position, end)
        elif kind in (STRING, BYTES):
            data = self.data[position:end]
            self.put(message, field, data.decode() if kind == STRING else data)
        elif label == REPEATED:
            while position < end:
                value, position = self.scalar(kind, position, end)
                self.put(message, field, value)
        # A single number can have no length: an unknown field, then.

    def entry(self, kinds: tuple[int, int], position: int, end: int) -> tuple[Any, Any]:
        """Read one entry of a map: key and value, their zeros where absent."""
        pair = [_ZERO.get(kind, 0) for kind in kinds]
        while position < end:
            number, wire, position = self.tag(position, end)
            kind = kinds[number - 1] if number in (1, 2) else MESSAGE
            if kind == MESSAGE or wire != _WIRE.get(kind, _VARINT):
                position = self.skip(number, wire, position, end)
            elif wire == _LENGTH:
                length, position = self.varint(position, end)
                if length > end - position:
                    raise DecodeError(f"a map's field {number} is longer than what holds it")
                data = self.data[position : position + length]
                pair[number - 1] = data.decode() if kind == STRING else data
                position += length
            else:
                pair[number - 1], position = self.scalar(kind, position, end)
        return pair[0], pair[1]

    def put(self, message: Message, field: Field, value: Any) -> None:
        """Set a field, or append to it."""
        if field[3] == REPEATED:
            self.count()
            getattr(message, field[1]).append(value)
        else:
            setattr(message, field[1], value)

    def count(self) -> None:
        """Take one element from what is allowed."""
        self.elements -= 1
        if self.elements < 0:
            raise DecodeError(f"more than {ELEMENT_LIMIT} elements")

    def tag(self, position: int, end: int) -> tuple[int, int, int]:
        """Read a tag: the field's number, the wire type, and where its value begins."""
        tag, after = self.varint(position, end)
        number = tag >> 3
        if not 0 < number < 1 << 29 or after - position > 5:
            raise DecodeError("a field has no valid number")
        return number, tag & 7, after

    def varint(self, position: int, end: int) -> tuple[int, int]:
        """Read a number of 64 bits in ten bytes at most, and return where it ends."""
        value = shift = 0
        while position < end:
            byte = self.data[position]
            position += 1
            value |= (byte & 0x7F) << shift
            if byte < 0x80:
                return value & _MASK64, position
            shift += 7
            if shift == 70:
                raise DecodeError("a number has more than ten bytes")
        raise DecodeError("ends within a number")

    def scalar(self, kind: int, position: int, end: int) -> tuple[Any, int]:
        """Read a number of that kind, and return where it ends."""
        if kind == DOUBLE:
            if end - position < 8:
                raise DecodeError("ends within a number")
            return _DOUBLE.unpack_from(self.data, position)[0], position + 8
        value, position = self.varint(position, end)
        if kind == BOOL:
            return value != 0, position
        bits = _BITS[kind]
        value &= (1 << bits) - 1
        if kind in (INT32, INT64) and value >> (bits - 1):
            value -= 1 << bits
        return value, position

    def skip(self, number: int, wire: int, position: int, end: int) -> int:
        """Return where an unknown field ends."""
        groups: list[int] = []
        while True:
            position = self.skip_one(groups, number, wire, position, end)
            if not groups:
                return position
            number, wire, position = self.tag(position, end)

    def skip_one(self, groups: list[int], number: int, wire: int, position: int, end: int) -> int:
        """Skip one field, or enter or leave a group: `groups` are the numbers of the open ones."""
        if wire == _VARINT:
            return self.varint(position, end)[1]
        if wire == _START:
            groups.append(number)
            if len(groups) > GROUP_LIMIT:
                raise DecodeError(f"more than {GROUP_LIMIT} nested groups")
            return position
        if wire == _END:
            if not groups or groups.pop() != number:
                raise DecodeError(f"group {number} ends but did not begin")
            return position
        if wire not in (_FIXED64, _FIXED32, _LENGTH):
            raise DecodeError(f"field {number} has no valid wire type")
        length = 8 if wire == _FIXED64 else 4
        if wire == _LENGTH:
            length, position = self.varint(position, end)
        if length > end - position:
            raise DecodeError(f"field {number} is longer than what holds it")
        return position + length
