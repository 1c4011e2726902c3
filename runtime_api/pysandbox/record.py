"""Dataclasses without the cost of importing them: what type checkers and readers see is the standard library's.

`dataclasses` imports `inspect` and all it needs, and compiles code for every class: together 27 ms of a cold command,
more than all else that it does. Here nothing is generated: building an object is slower (1 to 3 us), a class is free.

Kept are frozen, slotted and keyword-only classes, defaults and default factories, equality, `repr`, hashing of frozen
ones, `fields` and `replace`. A class that wants more of `dataclasses` imports that.
"""

from __future__ import annotations

TYPE_CHECKING = False
if TYPE_CHECKING:
    from dataclasses import FrozenInstanceError as FrozenInstanceError
    from dataclasses import dataclass as dataclass
    from dataclasses import field as field
    from dataclasses import fields as fields
    from dataclasses import replace as replace
else:
    _MISSING = object()

    class FrozenInstanceError(AttributeError):
        """A frozen object's attribute was assigned or deleted."""

    class _Field:
        __slots__ = ("default", "default_factory", "name")

        def __init__(self, name, default, default_factory):
            self.name = name
            self.default = default
            self.default_factory = default_factory

        def value(self, owner):
            """Return the default; TypeError where there is none."""
            if self.default_factory is not None:
                return self.default_factory()
            if self.default is _MISSING:
                raise TypeError(f"{owner.__name__}: missing argument {self.name!r}")
            return self.default

    def field(*, default=_MISSING, default_factory=None):
        """Describe an attribute's default."""
        return _Field("", default, default_factory)

    def dataclass(*, frozen=False, slots=False, kw_only=False):
        """Return the decorator that makes a class of annotated attributes a record."""

        def decorate(cls):
            own = [_read_field(cls, name) for name in _attributes(cls)]
            inherited = getattr(cls, "__record_fields__", {})
            body = {name: value for name, value in vars(cls).items() if name not in ("__dict__", "__weakref__")}
            if slots:
                for each in own:
                    body.pop(each.name, None)
                body["__slots__"] = tuple(each.name for each in own)
            body |= {"__record_fields__": inherited | {each.name: each for each in own}, "__keyword_only__": kw_only}
            body |= {"__init__": _init, "__eq__": _eq, "__repr__": _repr, "__hash__": _hash if frozen else None}
            if frozen:
                body |= {"__setattr__": _refuse, "__delattr__": _refuse}
            return type(cls)(cls.__name__, cls.__bases__, body)

        return decorate

    def _attributes(cls):
        annotations = vars(cls).get("__annotations__", {})
        return [name for name, kind in annotations.items() if not kind.startswith("ClassVar")]

    def _read_field(cls, name):
        default = vars(cls).get(name, _MISSING)
        if isinstance(default, _Field):
            return _Field(name, default.default, default.default_factory)
        return _Field(name, default, None)

    def _init(self, *args, **given):
        names = self.__record_fields__
        if len(args) == len(names) and not given and not self.__keyword_only__:  # most of them, and quick
            for name, value in zip(names, args, strict=True):
                object.__setattr__(self, name, value)
            return
        if len(args) > (0 if self.__keyword_only__ else len(names)):
            raise TypeError(f"{type(self).__name__}: too many positional arguments")
        positional = dict(zip(names, args, strict=False))
        if twice := positional.keys() & given.keys():
            raise TypeError(f"{type(self).__name__}: argument {min(twice)!r} given twice")
        given |= positional
        for name, each in names.items():
            value = given.pop(name, _MISSING)
            object.__setattr__(self, name, each.value(type(self)) if value is _MISSING else value)
        if given:
            raise TypeError(f"{type(self).__name__}: unexpected argument {next(iter(given))!r}")

    def _values(self):
        return tuple(getattr(self, name) for name in self.__record_fields__)

    def _eq(self, other):
        return _values(self) == _values(other) if type(self) is type(other) else NotImplemented

    def _hash(self):
        return hash(_values(self))

    def _repr(self):
        pairs = zip(self.__record_fields__, _values(self), strict=True)
        return f"{type(self).__name__}({', '.join(f'{name}={value!r}' for name, value in pairs)})"

    def _refuse(self, name, *_value):
        raise FrozenInstanceError(f"{type(self).__name__} is frozen: cannot change {name!r}")

    def fields(record):
        """Return the fields of a record or of its class, each with a `name`."""
        return tuple(record.__record_fields__.values())

    def replace(record, /, **changes):
        """Return a copy with some attributes changed."""
        return type(record)(**dict(zip(record.__record_fields__, _values(record), strict=True)) | changes)
