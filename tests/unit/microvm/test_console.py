"""What a machine said last: bounded, and harmless to show."""

from __future__ import annotations

from pysandbox_microvm.console import Ring, panic, shown, tail


def test_a_ring_keeps_the_last_bytes():
    ring = Ring(8)
    ring.write(b"abcdef")
    ring.write(b"ghij")
    assert ring.read() == b"cdefghij"


def test_a_flood_leaves_no_more_than_the_ring_is_long():
    ring = Ring(1024)
    for _ in range(100):
        ring.write(b"x" * 100_000)
    assert len(ring.read()) == 1024


def test_control_characters_and_bytes_that_are_no_text_are_shown_and_not_obeyed():
    text = shown(b"\x1b]0;evil\x07\x9b31m\x00\xff ok\r\nnext\ttab\xe2\x80\xae")
    assert "\x1b" not in text
    assert "\x07" not in text
    assert "\u202e" not in text
    assert text.endswith("\ufffd ok\nnext\ttab\\u202e")


def test_the_tail_is_one_line_of_bounded_length():
    said = tail(b"".join(b"line %d of the console\r\n" % number for number in range(10_000)))
    assert "\n" not in said
    assert said.endswith("line 9999 of the console")
    assert len(tail(b"y" * 100_000)) <= 600


def test_nothing_said_is_nothing_shown():
    assert tail(b"") == ""
    assert tail(b"\r\n \r\n") == ""


def test_a_panic_is_told_by_its_first_line():
    output = b"[ 1.2] Kernel panic - not syncing: Attempted to kill init! exitcode=0x0000000b\r\n[ 1.3] CPU: 0\r\n"
    assert panic(output) == "kernel panic: Attempted to kill init! exitcode=0x0000000b"
    assert panic(b"all is well") == ""
