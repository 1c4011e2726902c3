"""The probe's output is a container's: whatever it sends is bounded, and changes no other probe's finding."""

from __future__ import annotations

import json

import pytest

from pysandbox.audit.lines import LINE_LIMIT, SIZE_LIMIT, Reader


def _line(probe: str = "seccomp.mode", **observed: object) -> bytes:
    return json.dumps({"probe": probe, "how": "so", "observed": observed}).encode() + b"\n"


def test_lines_come_in_pieces() -> None:
    reader = Reader()

    for byte in b'{"version": 1, "probes": 1}\n' + _line(text="2") + b'{"end": 1}\n':
        reader.feed(bytes([byte]))

    assert reader.facts == {"seccomp.mode": {"text": "2"}}
    assert reader.hows == {"seccomp.mode": "so"}
    assert reader.ended
    assert reader.faults == []


@pytest.mark.parametrize(
    ("line", "said"),
    [
        (b"\xff\n", "no JSON object"),
        (b"[" * 10000 + b"\n", "no JSON object"),
        (b'{"a": ' * 2000 + b"\n", "no JSON object"),
        (b"1" * 5000 + b"\n", "no JSON object"),
        (b"{}\n", "none of the probe's"),
        (_line("no.such"), "no known probe"),
        (_line("outside.init.seccomp", threads=1, without=0), "no known probe"),
        (b'{"probe": "seccomp.mode", "how": "x", "observed": {}, "verdict": "ok"}\n', "no known probe"),
        (b'{"probe": ["seccomp.mode"], "how": "x", "observed": {}}\n', "no known probe"),
        (_line(text="x" * 2000), "not within bounds"),
        (_line(found=["x"] * 501), "not within bounds"),
        (_line(found=[["x"]]), "not within bounds"),
        (_line(text={"a": 1}), "not within bounds"),
        (_line(errno=1 << 64), "not within bounds"),
        (_line(errno=0.5), "not within bounds"),
        (_line(**{f"m{index}": 1 for index in range(17)}), "not within bounds"),
    ],
)
def test_a_line_that_is_not_the_probes_is_dropped_and_told(line: bytes, said: str) -> None:
    reader = Reader()

    reader.feed(line + _line(text="2"))

    assert reader.facts == {"seccomp.mode": {"text": "2"}}
    assert said in reader.faults[0]


def test_the_first_word_of_a_probe_counts() -> None:
    reader = Reader()

    reader.feed(_line(text="0") + _line(text="2"))

    assert reader.facts == {"seccomp.mode": {"text": "0"}}
    assert reader.faults == ["a second line of seccomp.mode"]


def test_a_line_without_an_end_is_given_up() -> None:
    reader = Reader()

    reader.feed(b"x" * (LINE_LIMIT + 1))

    assert reader.ended
    assert "a line of more than" in reader.faults[0]


@pytest.mark.parametrize("piece", [b"{}\n" * 2730, b" " * 8192 + b"\n"])
def test_a_flood_is_given_up_and_held_nowhere(piece: bytes) -> None:
    reader = Reader()

    for _ in range(SIZE_LIMIT // 8192 + 2):
        reader.feed(piece)

    assert reader.ended
    assert len(reader.faults) <= 16
    reader.feed(_line(text="2"))
    assert reader.facts == {}


def test_control_characters_do_not_reach_a_terminal() -> None:
    reader = Reader()

    reader.feed(b'{"probe": "seccomp.mode", "how": "\\u001b[31m", "observed": {"text": "2"}}\n')

    assert reader.hows["seccomp.mode"] == "?[31m"
