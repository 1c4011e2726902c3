"""`pysandbox.record` behaves as `dataclasses` does: every test holds for both."""

from __future__ import annotations

import dataclasses
from types import ModuleType
from typing import Any, ClassVar

import pytest

from pysandbox import record

Module = Any


@pytest.fixture(params=[dataclasses, record], ids=["dataclasses", "record"])
def module(request: pytest.FixtureRequest) -> ModuleType:
    """The standard library's module, then ours."""
    found: ModuleType = request.param
    return found


def make_point(module: Module) -> Any:
    @module.dataclass(frozen=True, slots=True)
    class Point:
        """A place."""

        origin: ClassVar[str] = "corner"
        x: int
        y: int = 7
        tags: list[str] = module.field(default_factory=list)

        def far(self) -> bool:
            return self.x > 100

    return Point


def make_request(module: Module) -> Any:
    @module.dataclass(frozen=True, slots=True, kw_only=True)
    class Request:
        """Optional first: legal only because arguments are named."""

        size: int = 1
        name: str

    return Request


def test_defaults_fill_what_is_not_given(module: Module) -> None:
    point = make_point(module)(3)
    assert (point.x, point.y, point.tags, point.origin, point.far()) == (3, 7, [], "corner", False)


def test_each_object_gets_a_default_of_its_own(module: Module) -> None:
    point = make_point(module)
    point(1).tags.append("x")
    assert point(1).tags == []


@pytest.mark.parametrize(("args", "keywords"), [((), {}), ((1, 2, [], 4), {}), ((1,), {"z": 1}), ((1,), {"x": 2})])
def test_wrong_arguments_are_a_type_error(module: Module, args: Any, keywords: Any) -> None:
    with pytest.raises(TypeError):
        make_point(module)(*args, **keywords)


def test_keyword_only_means_it(module: Module) -> None:
    assert make_request(module)(name="a").size == 1
    with pytest.raises(TypeError):
        make_request(module)("a")


def test_equal_values_are_equal_and_hash_alike(module: Module) -> None:
    request = make_request(module)
    assert request(name="a") == request(name="a")
    assert request(name="a") != request(name="b")
    assert request(name="a") != "a"
    assert hash(request(name="a")) == hash(request(name="a"))


def test_frozen_objects_do_not_change(module: Module) -> None:
    point = make_point(module)(1)
    with pytest.raises(module.FrozenInstanceError):
        point.x = 2
    with pytest.raises(module.FrozenInstanceError):
        del point.x


def test_slots_leave_no_room_for_more(module: Module) -> None:
    assert not hasattr(make_point(module)(1), "__dict__")


def test_replace_changes_a_copy(module: Module) -> None:
    point = make_point(module)(1)
    assert module.replace(point, x=9).x == 9
    assert point.x == 1


def test_fields_and_repr_name_every_attribute(module: Module) -> None:
    point = make_point(module)
    assert [each.name for each in module.fields(point)] == ["x", "y", "tags"]
    assert repr(point(1)).endswith("Point(x=1, y=7, tags=[])")


def test_a_mutable_one_changes_and_has_no_hash(module: Module) -> None:
    @module.dataclass(slots=True)
    class Counter:
        count: int = 0

    counter = Counter()
    counter.count += 1
    assert counter.count == 1
    with pytest.raises(TypeError):
        hash(counter)
