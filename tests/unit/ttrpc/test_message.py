"""The codec: the same bytes as protoc's own classes, and no input that it cannot refuse."""

from __future__ import annotations

import importlib
import importlib.util
import random
import sys
import tracemalloc
from pathlib import Path
from typing import Any

import google.protobuf.message
import pytest
from google.protobuf import descriptor_pb2, descriptor_pool, message_factory

import pysandbox.ttrpc
from pysandbox.ttrpc.generate import Source, compile_protos, generate
from pysandbox.ttrpc.message import (
    BOOL,
    DOUBLE,
    ELEMENT_LIMIT,
    INT32,
    MAP,
    MESSAGE,
    OPTIONAL,
    REPEATED,
    STRING,
    DecodeError,
    EncodeError,
    Message,
)
from pysandbox.ttrpc.messages.status import Status
from pysandbox.ttrpc.messages.wellknown import Any as AnyMessage
from pysandbox.ttrpc.messages.wellknown import Timestamp

TTRPC = Path(pysandbox.ttrpc.__file__).parent
SHIM = TTRPC.parent / "shim"
TREE = Path(__file__).parents[3]
MICROVM = TREE / "backends" / "pysandbox_microvm"
SAMPLE = Path(__file__).parents[2] / "data" / "ttrpc"
SOURCES = [
    f"{TTRPC}=pysandbox.ttrpc",
    f"{SHIM}=pysandbox.shim",
    f"{MICROVM}:{TREE / 'guest_agent' / 'proto'}=pysandbox_microvm",
    f"{SAMPLE}=sample",
]


@pytest.fixture(scope="session")
def theirs() -> Any:
    """protoc's classes by full name, from a pool of their own."""
    files = descriptor_pb2.FileDescriptorSet.FromString(compile_protos([Source(each) for each in SOURCES]))
    pool = descriptor_pool.DescriptorPool()
    for file in files.file:
        pool.Add(file)
    return lambda name: message_factory.GetMessageClass(pool.FindMessageTypeByName(name))


@pytest.fixture(scope="session")
def generated() -> dict[str, str]:
    """The source of every module by its path, as the generator would write it now."""
    return generate(SOURCES)


@pytest.fixture(scope="session")
def everything(generated: dict[str, str], tmp_path_factory: pytest.TempPathFactory) -> type[Message]:
    """The class of a message with every kind of field."""
    path = tmp_path_factory.mktemp("sample") / "sample.py"
    path.write_text(generated[f"{SAMPLE}/messages/sample.py"])
    spec = importlib.util.spec_from_file_location("sample.messages.sample", path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module.Everything  # type: ignore[no-any-return]


def _classes(package: str, directory: Path) -> list[type[Message]]:
    classes: list[type[Message]] = []
    for path in sorted((directory / "messages").glob("[!_]*.py")):
        module = importlib.import_module(f"{package}.messages.{path.stem}")
        here = [value for value in vars(module).values() if getattr(value, "__module__", "") == module.__name__]
        classes += [value for value in here if isinstance(value, type) and issubclass(value, Message)]
    return classes


CLASSES = [
    *_classes("pysandbox.ttrpc", TTRPC),
    *_classes("pysandbox.shim", SHIM),
    *_classes("pysandbox_microvm", MICROVM),
]


def _random(chance: random.Random, kind: type[Message]) -> Message:
    message = kind()
    for _, name, number, label, extra in kind.FIELDS:
        if chance.random() < 0.3:
            continue
        if label == REPEATED:
            setattr(message, name, [_value(chance, number, extra) for _ in range(chance.randrange(4))])
        elif label == MAP:
            setattr(message, name, {_value(chance, extra[0], None): _value(chance, extra[1], None) for _ in range(3)})
        else:
            setattr(message, name, _value(chance, number, extra))
    return message


def _value(chance: random.Random, kind: int, extra: Any) -> Any:
    if kind == MESSAGE:
        return _random(chance, extra)
    if kind == DOUBLE:
        return chance.choice([0.0, -0.0, 0.5, 1e300])
    if kind == BOOL:
        return chance.random() < 0.5
    if kind == STRING:
        return chance.choice(["", "a", "/run/ü", "x" * 200])
    if kind > STRING:
        return chance.choice([b"", b"\0\xff", bytes(300)])
    signed, bits = kind < 2, 64 if kind % 2 else 32
    top = 2 ** (bits - signed) - 1
    return chance.choice([0, 1, 127, 128, 300, top, *([-1, -top - 1] if signed else [])])


def _filled(target: Any, message: Message) -> Any:
    """Copy a message into one of protoc's classes."""
    for _, name, kind, label, _ in message.FIELDS:
        value = getattr(message, name)
        if label == MAP:
            getattr(target, name).update(value)
        elif label == REPEATED and kind == MESSAGE:
            for each in value:
                _filled(getattr(target, name).add(), each)
        elif label == REPEATED:
            getattr(target, name).extend(value)
        elif kind == MESSAGE:
            if value is not None:
                getattr(target, name).SetInParent()
                _filled(getattr(target, name), value)
        elif value is not None:
            setattr(target, name, value)
    return target


def _same(kind: Any, ours: bytes, data: bytes) -> bool:
    """Say whether the bytes are the same, but for the order of maps, which has no rule."""
    has_map = any(field.message_type and field.message_type.GetOptions().map_entry for field in kind.DESCRIPTOR.fields)
    return ours == data or (has_map and sorted(ours) == sorted(data) and kind.FromString(ours) == kind.FromString(data))


def test_the_generated_modules_are_those_of_the_proto_files(generated: dict[str, str]) -> None:
    committed = {path: text for path, text in generated.items() if not path.startswith(str(SAMPLE))}

    assert {path: Path(path).read_text() for path in committed} == committed
    assert {
        str(path)
        for root in (TTRPC, SHIM, MICROVM)
        for path in (root / "messages").glob("*.py")
        if path.stem != "__init__"
    } == set(committed)


@pytest.mark.parametrize("kind", CLASSES, ids=lambda kind: kind.NAME)
def test_the_bytes_are_those_of_protoc(theirs: Any, kind: type[Message]) -> None:
    chance = random.Random(kind.NAME)
    for _ in range(30):
        message = _random(chance, kind)
        data = _filled(theirs(kind.NAME)(), message).SerializeToString(deterministic=True)

        assert _same(theirs(kind.NAME), message.encode(), data)
        assert kind.decode(data) == message


def test_every_kind_of_field_has_the_bytes_of_protoc(theirs: Any, everything: type[Message]) -> None:
    test_the_bytes_are_those_of_protoc(theirs, everything)


def test_an_absent_optional_field_is_not_an_empty_one(everything: Any) -> None:
    assert everything.decode(everything(maybe="", perhaps=0).encode()).maybe == ""
    assert everything.decode(b"").maybe is None


def test_unknown_fields_of_every_wire_type_are_skipped() -> None:
    unknown = (
        b"\xa0\x06\x07\xa1\x06" + bytes(8) + b"\xa2\x06\x03abc" + b"\xa3\x06\x08\x01\xa4\x06" + b"\xa5\x06" + bytes(4)
    )

    assert Timestamp.decode(unknown + Timestamp(seconds=5).encode() + unknown) == Timestamp(seconds=5)


def test_a_known_number_of_another_type_is_unknown() -> None:
    assert Timestamp.decode(b"\x0a\x01x\x0d" + bytes(4) + b"\x10\x07") == Timestamp(nanos=7)


def test_numbers_come_packed_or_not(everything: Any) -> None:
    assert everything.decode(b"\x68\x01\x6a\x02\x02\x03\x68\x04").numbers == [1, 2, 3, 4]


def test_of_a_field_given_twice_the_last_counts_and_messages_merge(everything: Any) -> None:
    first, second = everything(text="a", inner=everything.FIELDS[8][4](name="n")), everything(text="b", flag=True)
    second.inner = everything.FIELDS[8][4](many=[])

    both = everything.decode(first.encode() + second.encode())

    assert (both.text, both.flag, both.inner.name) == ("b", True, "n")


@pytest.mark.parametrize(
    ("data", "reason"),
    [
        (b"\x08", "ends within a number"),
        (b"\x08\x80", "ends within a number"),
        (b"\x08" + b"\xff" * 10 + b"\x01", "more than ten bytes"),
        (b"\x12\x05abc", "longer than what holds it"),
        (b"\x12\xff\xff\xff\xff\xff\xff\xff\xff\x7f", "longer than what holds it"),
        (b"\x12\x02\xff\xfe", "not UTF-8"),
        (b"\x00\x00", "no valid number"),
        (b"\xff\xff\xff\xff\xff\x01", "no valid number"),
        (b"\x0f", "no valid wire type"),
        (b"\x24", "ends but did not begin"),
        (b"\x23\x2c", "ends but did not begin"),
        (b"\x23" * 101, "nested groups"),
        (b"\x23", "ends within"),
        (b"\x25\0\0", "longer than what holds it"),
        (b"\x1a\x02\x0a\x05", "longer than what holds it"),
    ],
)
def test_malformed_bytes_are_refused(data: bytes, reason: str) -> None:
    with pytest.raises(DecodeError, match=rf"^google.rpc.Status: .*{reason}"):
        Status.decode(data)


def test_deep_nesting_does_not_recurse() -> None:
    # 1,000,000 open groups, then messages in messages that only unknown fields could hold.
    with pytest.raises(DecodeError):
        Status.decode(b"\x23" * 1_000_000)
    data = b""
    for _ in range(200):
        data = b"\x22" + _varint(len(data)) + data
    assert Status.decode(data) == Status()


def _varint(value: int) -> bytes:
    out = b""
    while value > 127:
        out += bytes([value & 127 | 128])
        value >>= 7
    return out + bytes([value])


def test_small_input_makes_no_large_object() -> None:
    data = b"\x1a\x00" * 2_000_000  # 4 MB of empty details
    tracemalloc.start()
    try:
        with pytest.raises(DecodeError, match=f"more than {ELEMENT_LIMIT} elements"):
            Status.decode(data)
        assert tracemalloc.get_traced_memory()[1] < 32 * 1024 * 1024
    finally:
        tracemalloc.stop()


def test_packed_numbers_and_maps_are_limited_too(everything: Any) -> None:
    with pytest.raises(DecodeError, match="elements"):
        everything.decode(b"\x6a" + _varint(ELEMENT_LIMIT + 1) + bytes(ELEMENT_LIMIT + 1))
    with pytest.raises(DecodeError, match="elements"):
        everything.decode(b"\x82\x01\x00" * (ELEMENT_LIMIT + 1))


def test_any_bytes_are_decoded_as_protoc_does_or_refused(theirs: Any, everything: Any) -> None:
    chance = random.Random(5)
    agreed = refused = 0
    for _ in range(4000):
        data = _damaged(chance, _random(chance, everything).encode())
        try:
            wanted = theirs("sample.Everything").FromString(data)
        except google.protobuf.message.DecodeError:
            wanted = None
        try:
            message = everything.decode(data)
        except DecodeError:
            assert wanted is None, data
            refused += 1
            continue
        assert wanted is not None, data
        wanted.DiscardUnknownFields()
        for name in ("labels", "sums"):  # upb takes an entry with an unknown field for unknown as a whole, Go does not
            wanted.ClearField(name)
            setattr(message, name, {})
        assert message.encode() == wanted.SerializeToString(deterministic=True)
        agreed += 1
    assert agreed > 500
    assert refused > 500


def _damaged(chance: random.Random, data: bytes) -> bytes:
    damaged = bytearray(data) or bytearray(1)
    for _ in range(chance.randrange(1, 4)):
        damaged[chance.randrange(len(damaged))] = chance.randrange(256)
    return bytes(damaged[: chance.randrange(len(damaged) + 1)] if chance.random() < 0.3 else damaged)


@pytest.mark.parametrize(
    "message",
    [
        Timestamp(nanos=2**31),
        Timestamp(seconds=-(2**63) - 1),
        Timestamp(seconds="1"),  # type: ignore[arg-type]
        AnyMessage(type_url="\udcff"),
        AnyMessage(type_url=b"x"),  # type: ignore[arg-type]
        AnyMessage(value="x"),  # type: ignore[arg-type]
        Status(details=[1]),  # type: ignore[list-item]
        Status(code=None),  # type: ignore[arg-type]
    ],
)
def test_what_a_field_cannot_hold_is_named(message: Message) -> None:
    with pytest.raises(EncodeError, match=rf"^{message.NAME}\.[a-z_]+: "):
        message.encode()


def test_an_unknown_field_name_is_refused() -> None:
    with pytest.raises(TypeError, match="has no field 'second'"):
        Timestamp(second=1)  # type: ignore[call-arg]


def test_a_message_says_what_is_in_it() -> None:
    assert repr(Status(code=5, details=[AnyMessage(type_url="x")])) == "Status(code=5, details=[Any(type_url='x')])"


def test_nothing_of_protobuf_is_imported_at_run_time() -> None:
    import subprocess

    code = "import sys; sys.path.insert(0, sys.argv[1]); import pysandbox.ttrpc.server, pysandbox.ttrpc.client, pysandbox.shim.messages.task; print(*sys.modules)"
    done = subprocess.run(
        [sys.executable, "-I", "-S", "-c", code, str(TTRPC.parents[1])], capture_output=True, text=True, check=True
    )

    modules = set(done.stdout.split())
    assert not modules & {
        "google",
        "google.protobuf",
        "grpc",
        "grpc_tools",
        "asyncio",
        "typing",
        "dataclasses",
        "socket",
        "logging",
        "re",
        "subprocess",
    }
    assert INT32 == 0
    assert OPTIONAL == 1
