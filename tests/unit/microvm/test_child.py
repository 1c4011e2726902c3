"""A child that is watched: what it says, how it ends, and that it surely ends. A shell stands for QEMU."""

from __future__ import annotations

import contextlib
import os
import threading
import time
from typing import TYPE_CHECKING

import pytest
from descriptors import open_descriptors

from pysandbox_microvm.child import Child, launch

if TYPE_CHECKING:
    from collections.abc import Iterator


class Shell:
    """Starts scripts whose descriptor 5 is the console; what is not closed by a test is at its end."""

    def __init__(self) -> None:
        self.ended = threading.Event()
        self._children: list[Child] = []

    def start(self, script: str, *, watched: bool = True) -> Child:
        console, theirs = os.pipe()
        messages, error = os.pipe()
        pid, pidfd = launch(None, ["/bin/sh", "-c", script], {1: error, 2: error, 5: theirs})
        os.close(theirs)
        os.close(error)
        child = Child(pid, pidfd, console, messages, self.ended.set)
        self._children.append(child)
        if watched:
            child.watch()
        return child

    def close(self) -> None:
        for child in self._children:
            child.kill()


@pytest.fixture
def shell() -> Iterator[Shell]:
    before = open_descriptors()
    made = Shell()
    yield made
    made.close()
    assert open_descriptors() == before


def test_what_it_says_is_kept_apart_and_is_whole_when_it_has_ended(shell):
    child = shell.start("echo booting >&5; echo warning >&2; echo more; seq 1 2000 >&5")
    assert child.wait(10)
    assert child.console.read().startswith(b"booting\n1\n2\n")
    assert child.console.read().endswith(b"\n2000\n")
    assert child.messages.read() == b"warning\nmore\n"
    assert shell.ended.is_set()


def test_nothing_is_told_before_somebody_watches(shell):
    child = shell.start("true", watched=False)
    assert not shell.ended.wait(0.3)
    child.watch()
    assert shell.ended.wait(10)


def test_one_that_nobody_watches_can_be_ended(shell):
    child = shell.start("sleep 1000", watched=False)
    child.kill()
    assert not child.alive


def test_descriptors_that_are_not_named_are_dev_null(shell):
    child = shell.start("readlink /proc/self/fd/0 /proc/self/fd/3 /proc/self/fd/4")
    assert child.wait(10)
    assert child.messages.read().split() == [b"/dev/null"] * 3


@pytest.mark.parametrize(
    ("script", "how"),
    [
        ("exit 3", "qemu has ended with exit code 3"),
        ("kill -ABRT $$", "qemu was killed by signal 6"),
        ("echo 'cannot map memory' >&2; exit 1", "qemu has ended with exit code 1; qemu: cannot map memory"),
        ("echo 'Kernel panic - not syncing: no init' >&5", "kernel panic: no init; console: Kernel panic"),
    ],
)
def test_how_it_ended_is_told_in_one_line(shell, script, how):
    child = shell.start(script)
    assert child.wait(10)
    assert child.why().startswith(how)
    assert "\n" not in child.why()


def test_it_is_killed_even_if_it_is_stopped_or_ignores_everything_else(shell):
    for script in ("kill -STOP $$", "trap '' TERM INT HUP; while :; do :; done"):
        child = shell.start(script)
        assert child.alive
        child.kill()
        child.kill()
        assert not child.alive
        assert not os.path.exists(f"/proc/{child.pid}")


def test_a_process_that_has_inherited_its_voices_holds_nobody_up(shell):
    child = shell.start("sleep 100 & echo $! >&2; exit 0")
    assert child.wait(2)
    os.kill(int(child.messages.read()), 9)


def test_one_that_talks_on_in_its_place_holds_nobody_up(shell):
    child = shell.start("(while :; do echo noise >&5; done) & echo $! >&2; exit 0")
    assert child.wait(5)
    os.kill(int(child.messages.read()), 9)


def test_it_makes_no_difference_if_another_has_reaped_it(shell):
    child = shell.start("sleep 0.2; exit 3")

    def reap() -> None:
        with contextlib.suppress(ChildProcessError):  # who comes first is chance
            os.waitpid(child.pid, 0)

    reaper = threading.Thread(target=reap)
    reaper.start()
    assert child.wait(10)
    reaper.join(10)
    assert child.why() in ("qemu has ended", "qemu has ended with exit code 3")


def test_a_program_that_is_not_there_is_an_error_and_leaves_nothing():
    before = open_descriptors()
    with pytest.raises(FileNotFoundError):
        launch(None, ["no-such-program"], {5: 0})
    assert open_descriptors() == before


def test_a_flood_on_one_voice_does_not_drown_the_other(shell):
    child = shell.start(
        "(while :; do echo flood >&5; done) & noise=$!; sleep 0.3; echo heard >&2; kill $noise; sleep 5"
    )
    deadline = time.monotonic() + 5
    while b"heard" not in child.messages.read():
        assert time.monotonic() < deadline
        time.sleep(0.01)
    assert len(child.console.read()) <= 64 * 1024
