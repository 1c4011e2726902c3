"""What a process in the guest writes arrives in the caller's descriptors, in the order in which it was read."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator

import pytest

from pysandbox_microvm.agent import Output
from pysandbox_microvm.stdio import Pump


class Stream:
    """An agent's stream: it brings these outputs, and keeps what it is told."""

    def __init__(self, outputs: Iterator[Output]) -> None:
        self._outputs = outputs
        self.given_back = 0
        self.refused: list[int] = []

    def receive(self) -> Output | None:
        return next(self._outputs, None)

    def give_back(self, output: Output) -> None:
        self.given_back += 1

    def refuse(self, number: int) -> None:
        self.refused.append(number)

    def close_input(self) -> None:
        pass


def both_in_turn(count: int) -> Iterator[Output]:
    """Numbered lines, by 1 and by 2 in turn, and the ends of both."""
    for number in range(count):
        yield Output(1 + number % 2, b"%d\n" % number, end=False, drained=False)
    for stream in (1, 2):
        yield Output(stream, b"", end=True, drained=True)


def pump(stream: Stream, outputs: list[int]) -> Pump:
    made = Pump(stream, [-1, *outputs])  # type: ignore[arg-type]
    made.start()
    made.drain()
    made.close()
    return made


def fill(pipe: int) -> None:
    """Write until a pipe takes no more."""
    os.set_blocking(pipe, False)
    with contextlib.suppress(BlockingIOError):
        while os.write(pipe, b"x" * 4096):
            pass
    os.set_blocking(pipe, True)


@pytest.mark.parametrize("descriptors", ["one", "two of one pipe"])
def test_two_streams_into_one_file_keep_their_order(descriptors: str) -> None:
    reader, writer = os.pipe()
    stream = Stream(both_in_turn(1000))

    pump(stream, [writer, writer if descriptors == "one" else os.dup(writer)])

    with open(reader, "rb") as file:
        assert file.read() == b"".join(b"%d\n" % number for number in range(1000))
    assert stream.given_back == 1002


def test_a_reader_of_one_that_waits_holds_up_no_other() -> None:
    out_reader, out = os.pipe()
    err_reader, err = os.pipe()
    fill(out)
    made = Pump(Stream(both_in_turn(2)), [-1, out, err])  # type: ignore[arg-type]
    made.start()

    assert os.read(err_reader, 100) == b"1\n"

    with open(out_reader, "rb") as file:
        made.close()
        assert file.read().endswith(b"x0\n")
    os.close(err_reader)


def test_a_file_that_nobody_reads_is_refused_for_both() -> None:
    reader, writer = os.pipe()
    os.close(reader)
    stream = Stream(both_in_turn(10))

    pump(stream, [writer, writer])

    assert sorted(stream.refused) == [1, 2]
