"""One command of a runtime: a clean environment, a limit, a bounded answer, and its own words when it fails."""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Callable
from pathlib import Path

import pytest
from descriptors import open_descriptors
from runtime import eventually

from pysandbox.errors import DeadlineExceeded
from pysandbox.linux import start_time
from pysandbox_oci import call
from pysandbox_oci.call import RuntimeFailed, ask

Script = Callable[[str], list[str]]


@pytest.fixture
def script(tmp_path: Path) -> Script:
    """Make a program of a few lines of shell."""

    def make(text: str) -> list[str]:
        path = tmp_path / "runtime"
        path.write_text(f"#!/bin/sh\n{text}\n")
        path.chmod(0o755)
        return [str(path)]

    return make


def test_its_standard_output_is_the_answer(script: Script) -> None:
    assert ask(script("echo out; echo err >&2"), "runtime", 10) == b"out\n"


def test_it_can_be_given_something_to_read_and_to_open(script: Script) -> None:
    assert ask(script("cat; cat /dev/stdin"), "runtime", 10, b"given\n") == b"given\ngiven\n"


def test_it_sees_nothing_of_our_environment(script: Script, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("LD_PRELOAD", "GODEBUG", "NOTIFY_SOCKET", "SECRET"):
        monkeypatch.setenv(name, "x")

    lines = ask(script("exec /usr/bin/env"), "runtime", 10).decode().splitlines()

    assert {line.partition("=")[0] for line in lines} <= {"PATH", "LC_ALL", "PWD", "SHLVL", "_"}
    assert f"PATH={call.SECURE_PATH}" in lines


def test_it_gets_no_descriptor_but_three(script: Script) -> None:
    with open(__file__, "rb") as secret:
        listed = ask(script("exec ls -l /proc/self/fd"), "runtime", 10).decode()
        ours = os.readlink(f"/proc/self/fd/{secret.fileno()}")

    assert " 1 -> pipe:" in listed
    assert ours not in listed


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("echo one >&2; echo two >&2; exit 3", "runtime: two"),
        ("exit 3", "runtime: exit status 3 without a word"),
        ("kill -9 $$", "runtime: signal 9 without a word"),
        (r"""printf '{"level":"error","msg":"\\u001b[31mred"}\n' >&2; exit 1""", r"runtime: \[31mred"),
    ],
)
def test_a_failure_is_told_in_its_own_words(script: Script, text: str, said: str) -> None:
    with pytest.raises(RuntimeFailed, match=f"^{said}$"):
        ask(script(text), "runtime", 10)


def test_one_that_hangs_is_ended_with_all_that_it_started(script: Script, tmp_path: Path) -> None:
    argv = script(f"sleep 100 & echo $! > {tmp_path}/child; wait")
    began = time.monotonic()

    with pytest.raises(DeadlineExceeded, match=r"runtime: has not ended after 0\.5 s, and was killed"):
        ask(argv, "runtime", 0.5)

    assert time.monotonic() - began < 5
    child = int((tmp_path / "child").read_text())
    eventually(lambda: start_time(child) is None, "the child is gone")


def test_one_that_leaves_a_child_behind_is_not_waited_for(script: Script) -> None:
    began = time.monotonic()

    child = int(ask(script("sleep 100 & echo $!"), "runtime", 10))

    try:
        assert time.monotonic() - began < 5
    finally:
        os.kill(child, signal.SIGKILL)


def test_one_that_closes_its_output_and_goes_on_is_waited_for_asleep(script: Script) -> None:
    began = os.times()

    assert ask(script("exec >&- 2>&-; sleep 0.5"), "runtime", 10) == b""

    ended = os.times()
    assert ended.user + ended.system - began.user - began.system < 0.25


def test_an_answer_without_end_is_cut_and_refused(script: Script, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(call, "OUTPUT_LIMIT", 1000)

    with pytest.raises(RuntimeFailed, match="answered more than 1000 bytes"):
        ask(script("head -c 200000 /dev/zero"), "runtime", 10)


def test_complaints_without_end_keep_their_last_line(script: Script) -> None:
    with pytest.raises(RuntimeFailed, match="^runtime: the last$"):
        ask(script("yes no | head -c 1000000 >&2; echo >&2; echo the last >&2; exit 1"), "runtime", 10)


def test_a_program_that_cannot_be_started_is_the_kernels_to_tell(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError):
        ask([str(tmp_path / "nothing")], "runtime", 10)


def test_nothing_stays_open(script: Script) -> None:
    before = open_descriptors()

    ask(script("exit 0"), "runtime", 10, b"given")
    for text in ("exit 1", "sleep 100"):
        with pytest.raises((RuntimeFailed, DeadlineExceeded)):
            ask(script(text), "runtime", 0.2)

    assert open_descriptors() == before
