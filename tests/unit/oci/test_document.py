"""The reader of JSON that nobody vouches for: each attack gets one line, and nothing else happens."""

from __future__ import annotations

import contextlib
import json
import os
import threading
import time
from pathlib import Path

import pytest
from descriptors import open_descriptors

from pysandbox.errors import InvalidArgument
from pysandbox.oci.document import DEPTH_LIMIT, SIZE_LIMIT, open_document, open_stream, read_json, read_object

#: What is wrong, the document, and the whole refusal.
REFUSED = {
    "duplicate key": (b'{"process": {"args": 1, "args": 2}}', 'config.json: duplicate key "args" in process'),
    "duplicate key at the top": (b'{"a": 1, "b": 2, "a": 3}', 'config.json: duplicate key "a"'),
    "duplicate key written otherwise": (b'{"a": 1, "\\u0061": 3}', 'config.json: duplicate key "a"'),
    "duplicate inside a duplicate": (b'{"a": {"b": 1, "b": 2}, "a": 3}', 'config.json: duplicate key "a"'),
    "duplicate in a list": (b'{"x": [{}, {"b": 1, "b": null}]}', 'config.json: duplicate key "b" in x[1]'),
    "NaN": (b'{"a": NaN}', "config.json: NaN is not JSON"),
    "Infinity": (b'{"a": -Infinity}', "config.json: -Infinity is not JSON"),
    "infinite by exponent": (b'{"a": {"b": 1e999}}', "config.json: a.b: number out of range"),
    "integer of 21 digits": (b'{"a": [0, 100000000000000000000]}', "config.json: a[1]: number out of range"),
    "integer over 64 bits": (b'{"a": 18446744073709551616}', "config.json: a: number out of range"),
    "integer under 64 bits": (b'{"a": -9223372036854775809}', "config.json: a: number out of range"),
    "integer of 5000 digits": (b'{"a": ' + b"9" * 5000 + b"}", "config.json: a: number out of range"),
    "NUL": (b'{"process": {"args": ["a\\u0000b"]}}', "config.json: process.args[0]: NUL in a string"),
    "NUL in a key": (b'{"x": {"a\\u0000": 1}}', 'config.json: x["a\\u0000"]: NUL in a string'),
    "NUL as such": (b'{"a": "\0"}', "config.json: line 1, column 8: invalid control character"),
    "newline as such": (b'{"a": "\n"}', "config.json: line 1, column 8: invalid control character"),
    "lone surrogate": (b'{"a": ["\\ud800"]}', "config.json: a[0]: lone surrogate in a string"),
    "lone low surrogate": (b'{"a": "\\uDFFFx"}', "config.json: a: lone surrogate in a string"),
    "surrogate in a key": (b'{"\\udc00": 1}', 'config.json: ["\\udc00"]: lone surrogate in a string'),
    "not UTF-8": (b'{"a": "\xff"}', "config.json: not UTF-8 at byte 7"),
    "surrogate in UTF-8": (b'{"a": "\xed\xa0\x80"}', "config.json: not UTF-8 at byte 7"),
    "overlong UTF-8": (b'{"a": "\xc0\x80"}', "config.json: not UTF-8 at byte 7"),
    "byte order mark": (b'\xef\xbb\xbf{"a": 1}', "config.json: line 1, column 1: expecting value"),
    "UTF-16": ('{"a": 1}'.encode("utf-16"), "config.json: not UTF-8 at byte 0"),
    "empty": (b"", "config.json: line 1, column 1: expecting value"),
    "cut off": (b'{"a": ', "config.json: line 1, column 7: expecting value"),
    "two documents": (b"{}\n{}", "config.json: line 2, column 1: extra data"),
    "single quotes": (b"{'a': 1}", "config.json: line 1, column 2: expecting property name enclosed in double quotes"),
    "trailing comma": (b'{"a": [1,]}', None),
    "comment": (b'{"a": 1} // x', "config.json: line 1, column 10: extra data"),
    "octal": (b'{"a": 0777}', None),
    "plus": (b'{"a": +1}', "config.json: line 1, column 7: expecting value"),
    "number without digits": (b'{"a": -}', "config.json: line 1, column 7: expecting value"),
    "65 levels": (b"[" * 65 + b"]" * 65, "config.json: nested deeper than 64 levels"),
    "a million levels": (b"[" * 10**6, "config.json: nested deeper than 64 levels"),
    "many levels of objects": (b'{"a":' * 800_000, "config.json: nested deeper than 64 levels"),
}  # fmt: skip


@pytest.mark.parametrize("name", REFUSED)
def test_a_document_that_could_be_read_in_two_ways_is_refused(name: str) -> None:
    data, refusal = REFUSED[name]

    with pytest.raises(InvalidArgument) as refused:
        read_json(data, "config.json")

    assert str(refused.value).isprintable()
    if refusal is not None:
        assert str(refused.value) == refusal


def test_a_document_over_the_limit_is_refused() -> None:
    with pytest.raises(InvalidArgument, match=rf"^config.json: larger than {SIZE_LIMIT} bytes$"):
        read_json(b" " * SIZE_LIMIT + b"1", "config.json")


@pytest.mark.parametrize(
    ("data", "value"),
    [
        (b"[" * DEPTH_LIMIT + b"]" * DEPTH_LIMIT, None),
        (b'{"a": "\\\\u0000", "b": "\\\\ud800"}', {"a": "\\u0000", "b": "\\ud800"}),
        ('{"a": "\\ud83d\\ude00 é 😀"}'.encode(), {"a": "😀 é 😀"}),
        (b'{"a": null, "b": {"c": null}, "d": [null]}', {"b": {}, "d": [None]}),
        (b'{"a": 18446744073709551615, "b": -9223372036854775808}', {"a": 2**64 - 1, "b": -(2**63)}),
        (b'{"a": 1.5, "b": -0}', {"a": 1.5, "b": 0}),
        (b" \r\n\t{} \n", {}),
    ],
)
def test_a_good_document_is_read(data: bytes, value: object) -> None:
    document = read_json(data, "config.json")

    assert value is None or document == value


@pytest.mark.parametrize(
    "data",
    [
        b"{" + b",".join(b'"%d":1' % number for number in range(350_000)) + b',"349999":2}',
        b"[" + b",".join([b"{}"] * 1_300_000) + b"]",
        b"[" + b"9" * (SIZE_LIMIT - 2) + b"]",
        b"[0." + b"9" * (SIZE_LIMIT - 4) + b"]",
        b'{"' + b"a" * (SIZE_LIMIT - 10) + b'": NaN}',
    ],
    ids=["keys", "objects", "digits", "decimals", "name"],
)
def test_the_largest_document_takes_no_longer_than_its_size(data: bytes) -> None:
    start = time.perf_counter()

    with contextlib.suppress(InvalidArgument):
        read_json(data, "config.json")

    assert time.perf_counter() - start < 15  # a square of the size would take minutes


@pytest.mark.parametrize("data", [b"[]", b"1", b'"x"', b"null", b"true"])
def test_a_document_that_must_be_an_object_is_one(data: bytes) -> None:
    with pytest.raises(InvalidArgument, match=r"^process\.json: must be a JSON object$"):
        read_object(data, "process.json")


def test_every_cut_and_every_flipped_byte_is_read_or_refused() -> None:
    data = (Path(__file__).parent / "data/containerd.json").read_bytes()[:900]
    good = json.dumps({"text": data.decode(), "list": [1, 2.5, None, True], "ä": "\ud83d\ude00"}).encode()
    for position in range(len(good)):
        for changed in (good[:position], good[:position] + bytes([good[position] ^ 0x55]) + good[position + 1 :]):
            try:
                read_json(changed, "x")
            except InvalidArgument as error:
                assert "\n" not in str(error)  # noqa: PT017  most are refused, some are still good


# -- files ---------------------------------------------------------------------------------------------------------------


def test_a_regular_file_is_read_through_its_descriptor(tmp_path: Path) -> None:
    (tmp_path / "c").write_bytes(b'{"a": "' + b"x" * 200_000 + b'"}')
    descriptor = open_document(str(tmp_path / "c"), "c")
    try:
        assert len(read_json(descriptor, "c")["a"]) == 200_000
        assert not os.get_inheritable(descriptor)
    finally:
        os.close(descriptor)


def test_a_file_that_never_ends_is_not_read_to_its_end(tmp_path: Path) -> None:
    with open(tmp_path / "c", "wb") as file:
        file.truncate(1 << 40)
    descriptor = open_document(str(tmp_path / "c"), "config.json")
    try:
        with pytest.raises(InvalidArgument, match=r"^config.json: larger than"):
            read_json(descriptor, "config.json")
        assert os.lseek(descriptor, 0, os.SEEK_CUR) == SIZE_LIMIT + 1
    finally:
        os.close(descriptor)


def test_a_symbolic_link_is_refused(tmp_path: Path) -> None:
    (tmp_path / "real").write_text("{}")
    (tmp_path / "link").symlink_to("real")

    with pytest.raises(InvalidArgument, match=r"^config.json: is a symbolic link$"):
        open_document(str(tmp_path / "link"), "config.json")


def test_a_fifo_is_refused_and_never_waited_for(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "fifo")

    with pytest.raises(InvalidArgument, match=r"^config.json: not a regular file$"):
        open_document(str(tmp_path / "fifo"), "config.json")


@pytest.mark.parametrize("path", ["/", "/dev/zero", "/dev/null"])
def test_a_directory_and_a_device_are_refused(path: str) -> None:
    before = open_descriptors()

    with pytest.raises(InvalidArgument, match=r"^config.json: not a regular file$"):
        open_document(path, "config.json")

    assert open_descriptors() == before


def test_a_pipe_of_the_shell_is_read_as_a_stream() -> None:
    reading, writing = os.pipe()
    writer = threading.Thread(target=_write_slowly, args=(writing,))
    writer.start()
    stream = open_stream(f"/dev/fd/{reading}", "process.json")
    try:
        assert read_json(stream, "process.json") == {"cwd": "/"}
    finally:
        os.close(stream)
        os.close(reading)
        writer.join()


def _write_slowly(descriptor: int) -> None:
    for part in (b'{"cwd"', b': "/"}'):
        os.write(descriptor, part)
    os.close(descriptor)


def test_a_pipe_that_stays_silent_is_given_up(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("pysandbox.oci.document._PIPE_TIMEOUT", 0.05)
    reading, writing = os.pipe()
    stream = open_stream(f"/dev/fd/{reading}", "process.json")
    try:
        with pytest.raises(InvalidArgument, match=r"^process.json: nothing to read for"):
            read_json(stream, "process.json")
    finally:
        for descriptor in (stream, reading, writing):
            os.close(descriptor)
