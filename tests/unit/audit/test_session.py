"""Watching the probe: an end to every wait, whoever it is that does not answer."""

from __future__ import annotations

import os
import time

from descriptors import open_descriptors

from pysandbox.audit.lines import Reader
from pysandbox.audit.session import _gather, _Pipes


def test_a_probe_that_says_nothing_is_waited_for_no_longer_than_the_limit() -> None:
    with _Pipes() as pipes:
        began = time.monotonic()

        assert not _gather(Reader(), pipes, began + 0.2)
        assert 0.2 <= time.monotonic() - began < 5


def test_a_probe_that_never_comes_to_its_end_is_waited_for_no_longer_than_the_limit() -> None:
    with _Pipes() as pipes:
        reader, began = Reader(), time.monotonic()
        os.write(pipes.stdio().stdout, b'{"probe": "seccomp.mode", "how": "x", "observed": {"text": "2"}}\n{"en')

        assert not _gather(reader, pipes, began + 0.2)
        assert reader.facts == {"seccomp.mode": {"text": "2"}}


def test_the_end_of_its_output_is_its_end() -> None:
    with _Pipes() as pipes:
        os.write(pipes.stdio().stderr, b"no such file\x1b[31m\n" * 1000)
        pipes.close_theirs()

        assert _gather(Reader(), pipes, time.monotonic() + 60)
        assert pipes.complaint().startswith("no such file [31m")
        assert len(pipes.complaint()) <= 2048


def test_no_descriptor_is_left() -> None:
    before = open_descriptors()
    with _Pipes():
        pass

    assert open_descriptors() == before
