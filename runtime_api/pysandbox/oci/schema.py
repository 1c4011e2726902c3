"""Small pieces from which the shape of a document is put together.

A shape is an object called with a value; it returns nothing, or raises `Bad`. The way to the culprit is put together
while `Bad` rises, so that a good document costs no path at all.
"""

from __future__ import annotations

from pysandbox.errors import InvalidArgument
from pysandbox.oci.document import format_path, quote

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Mapping, Sequence
    from typing import Any

    Shape = Callable[[Any], None]

UINT16 = 2**16 - 1
UINT32 = 2**32 - 1
UINT64 = 2**64 - 1
INT32 = 2**31 - 1
INT64 = 2**63 - 1


class Bad(Exception):
    """Something is wrong at `keys` below the value that was looked at."""

    def __init__(self, problem: str, *keys: str | int) -> None:
        super().__init__(problem)
        self.problem = problem
        self.keys = list(keys)

    def refusal(self, prefix: str = "") -> InvalidArgument:
        """Return the error that a caller gets; `prefix` is the JSON path of the document itself."""
        place = format_path(self.keys)
        if prefix:
            place = prefix + (place if not place or place.startswith("[") else f".{place}")
        return InvalidArgument(f"{place}: {self.problem}" if place else self.problem)


def kind(value: Any) -> str:
    """Name a JSON value's type."""
    if value is None or type(value) is bool:
        return {None: "null", True: "true", False: "false"}[value]
    names = {dict: "an object", list: "an array", str: "a string", int: "an integer", float: "a fraction"}
    return names.get(type(value), type(value).__name__)


class Integer:
    """An integer in a range, both ends included. true, false and 1.0 are none."""

    __slots__ = ("high", "low")

    def __init__(self, low: int, high: int) -> None:
        self.low, self.high = low, high

    def __call__(self, value: Any) -> None:
        """Raise Bad unless the value has this shape."""
        if type(value) is not int:
            raise Bad(f"must be an integer, not {kind(value)}")
        if not self.low <= value <= self.high:
            raise Bad(f"must be from {self.low} to {self.high}, not {value}")


class Choice:
    """One of some strings."""

    __slots__ = ("names", "noun", "word")

    def __init__(self, noun: str, names: Collection[str], word: str = "unknown") -> None:
        self.noun, self.names, self.word = noun, frozenset(names), word

    def __call__(self, value: Any) -> None:
        """Raise Bad unless the value has this shape."""
        if type(value) is not str:
            raise Bad(f"must be a string, not {kind(value)}")
        if value not in self.names:
            raise Bad(f"{self.word} {self.noun} {quote(value)}")


class Array:
    """A list of one shape."""

    __slots__ = ("least", "most", "shape")

    def __init__(self, shape: Shape, *, least: int = 0, most: int = 1 << 20) -> None:
        self.shape, self.least, self.most = shape, least, most

    def __call__(self, value: Any) -> None:
        """Raise Bad unless the value has this shape."""
        if type(value) is not list:
            raise Bad(f"must be an array, not {kind(value)}")
        if not self.least <= len(value) <= self.most:
            raise Bad("must not be empty" if not value else f"has {len(value)} entries, more than {self.most}")
        shape = self.shape
        for index, item in enumerate(value):
            try:
                shape(item)
            except Bad as bad:
                bad.keys.insert(0, index)
                raise


class Strings:
    """A list of strings without NUL. The same as Array(string), but quick for long lists."""

    __slots__ = ("least",)

    def __init__(self, *, least: int = 0) -> None:
        self.least = least

    def __call__(self, value: Any) -> None:
        """Raise Bad unless the value has this shape."""
        if type(value) is not list:
            raise Bad(f"must be an array, not {kind(value)}")
        if len(value) < self.least:
            raise Bad("must not be empty")
        for index, item in enumerate(value):
            if type(item) is not str:
                raise Bad(f"must be a string, not {kind(item)}", index)
            if "\0" in item:
                raise Bad("must not contain NUL", index)


class Table:
    """An object with keys of one shape and values of another."""

    __slots__ = ("key", "value")

    def __init__(self, key: Shape, value: Shape) -> None:
        self.key, self.value = key, value

    def __call__(self, value: Any) -> None:
        """Raise Bad unless the value has this shape."""
        if type(value) is not dict:
            raise Bad(f"must be an object, not {kind(value)}")
        for name, member in value.items():
            try:
                self.key(name)
                self.value(member)
            except Bad as bad:
                bad.keys.insert(0, str(name))
                raise


class Object:
    """An object with known fields; unknown ones pass. `rule` looks at the whole once every field has its shape.

    A name that differs from a field's in case only *is* that field, as for every program in Go that reads the same
    file: to let "Seccomp" pass as unknown would be to run without seccomp. It gets its right name, in place. Two that
    are objects are parts of one, as long as no field is in both.
    """

    __slots__ = ("fields", "required", "rule")

    def __init__(self, fields: Mapping[str, Shape], required: Sequence[str] = (), rule: Shape | None = None) -> None:
        self.fields, self.required, self.rule = fields, required, rule

    def __call__(self, value: Any) -> None:
        """Raise Bad unless the value has this shape."""
        if type(value) is not dict:
            raise Bad(f"must be an object, not {kind(value)}")
        fields = self.fields
        unknown = value.keys() - fields.keys()
        if unknown:
            self._rename(value, unknown)
        for name in self.required:
            if name not in value:
                raise Bad("is required", name)
        for name, member in value.items():
            shape = fields.get(name)
            if shape is not None:
                try:
                    shape(member)
                except Bad as bad:
                    bad.keys.insert(0, name)
                    raise
        if self.rule is not None:
            self.rule(value)

    def _rename(self, value: dict[str, Any], unknown: set[str]) -> None:
        folded = {field.casefold(): field for field in self.fields}
        for name in sorted(str(name) for name in unknown):
            field = folded.get(name.casefold())
            if field is None:
                continue
            if field in value and not self._completes(value[field], value[name], self.fields[field]):
                raise Bad(f"duplicate key: {quote(field)} is there too", name)
            value[field] = {**value[field], **value[name]} if field in value else value[name]
            del value[name]

    @staticmethod
    def _completes(one: Any, other: Any, shape: Shape) -> bool:
        """Say whether two objects of a shape with fields have none in common, in whatever case it is written."""
        if not isinstance(shape, Object) or type(one) is not dict or type(other) is not dict:
            return False
        return {str(name).casefold() for name in one}.isdisjoint(str(name).casefold() for name in other)


def boolean(value: Any) -> None:
    """true or false."""
    if type(value) is not bool:
        raise Bad(f"must be true or false, not {kind(value)}")


def string(value: Any) -> None:
    """Any string that the kernel could take: without NUL."""
    if type(value) is not str:
        raise Bad(f"must be a string, not {kind(value)}")
    if "\0" in value:
        raise Bad("must not contain NUL")


def filled(value: Any) -> None:
    """A string with something in it."""
    string(value)
    if not value:
        raise Bad("must not be empty")


def line(value: Any) -> None:
    """A string without control characters: for labels, profiles and names, which end up in files of one line."""
    string(value)
    if not value.isprintable():
        raise Bad(f"must not contain control characters: {quote(value)}")


def absolute(value: Any) -> None:
    """An absolute path."""
    filled(value)
    if not value.startswith("/"):
        raise Bad(f"must be an absolute path, not {quote(value)}")


def absolute_or_empty(value: Any) -> None:
    """An absolute path, or an empty string, which means none."""
    string(value)
    if value:
        absolute(value)


#: user and group ids: 2**32-1 is (uid_t)-1, which setresuid(2) takes for "leave it" (CVE-2024-40635).
identifier = Integer(0, 2**32 - 2)
uint32 = Integer(0, UINT32)
uint64 = Integer(0, UINT64)
int64 = Integer(-INT64 - 1, INT64)
