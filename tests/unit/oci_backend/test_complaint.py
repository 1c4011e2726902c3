"""A runtime's own words: the last line of trouble, cut, with nothing in it that a terminal would obey."""

from __future__ import annotations

import json

import pytest

from pysandbox_oci.complaint import LONGEST, clean, last_words, warnings


def line(level: str, message: str) -> str:
    return json.dumps({"level": level, "msg": message, "time": "now"})


@pytest.mark.parametrize(
    ("said", "words"),
    [
        ("", ""),
        ("\n \n", ""),
        ("one\ntwo\n", "two"),
        (f"{line('error', 'first')}\n{line('error', 'second')}\n", "second"),
        (f"{line('error', 'trouble')}\n{line('info', 'cleaning up')}\n", "trouble"),
        (f"{line('warning', 'mind')}\nplain\n", "plain"),
        (f"{line('ERROR', 'loud')}\n", "loud"),
        ('{"msg": 1}\n', '{"msg": 1}'),
        ("[1, 2]\n", "[1, 2]"),
        ("{" * 100_000, "{" * (LONGEST - 1) + "…"),
    ],
)
def test_the_last_line_of_trouble_counts(said: str, words: str) -> None:
    assert last_words(said.encode()) == words


def test_control_characters_and_line_ends_become_blanks() -> None:
    hostile = json.dumps({"level": "error", "msg": "\x1b[2J\x1b]0;title\x07gone\r\nlevel=info msg=fake\u2028\u202e"})

    words = last_words(hostile.encode())

    assert words.isprintable()
    assert words == "[2J ]0;title gone level=info msg=fake"


def test_what_is_no_text_is_told_as_far_as_it_is() -> None:
    assert last_words(b"\xff\xfe broken\n").endswith("broken")


def test_it_is_cut() -> None:
    assert len(clean("x" * 10_000)) == LONGEST


def test_warnings_are_few_and_only_that() -> None:
    log = "\n".join([line("error", "no"), *(line("warning", f"w{number}") for number in range(30))])

    assert warnings(log.encode()) == [f"w{number}" for number in range(20)]
