"""The program that bench runs inside: harmless, bounded, and alone with its files."""

from __future__ import annotations

import os
import signal
import subprocess
import time
from pathlib import Path

import busybox
import pytest

from pysandbox.compare import gauge
from pysandbox.executor import program_path


def run(*words: str | Path, **keywords) -> subprocess.CompletedProcess[str]:
    argv = [program_path("pysandbox-gauge"), *words]
    return subprocess.run(argv, capture_output=True, text=True, timeout=30, check=False, **keywords)


def test_it_takes_every_figure_that_is_known_and_removes_its_files(tmp_path: Path) -> None:
    done = run("measure", "5", tmp_path)

    found = gauge.read(done.stdout)
    assert done.returncode == 0
    assert found.errors == {}
    assert set(found.values) == set(gauge.KNOWN)
    assert found.kernel == os.uname().release
    assert os.listdir(tmp_path) == []


def test_it_takes_about_as_long_as_it_is_told(tmp_path: Path) -> None:
    begin = time.monotonic()
    found = gauge.read(run("measure", "20", tmp_path).stdout)
    took = (time.monotonic() - begin) * 1000

    assert found.milliseconds is not None
    assert found.milliseconds < took < 20 * len(gauge.KNOWN) * 10


def test_what_it_cannot_take_it_names_and_goes_on() -> None:
    found = gauge.read(run("measure", "1", "/proc/sys").stdout)

    assert found.errors["files"].startswith("/proc/sys/gauge-")
    assert {"cpu", "TCP stream"} <= set(found.values)
    assert "file write" not in found.values


def test_it_takes_the_kernels_floor_in_a_container_that_has_gone(tmp_path: Path) -> None:
    busybox.build(tmp_path)

    done = run("floor", tmp_path, "/bin/busybox", "sh", "-c", "test $$ = 1 && echo x >/tmp/x && test -e /dev/shm")

    assert done.returncode == 0, done
    assert 0 < float(done.stdout) < 1000
    assert os.listdir(tmp_path / "tmp") == []  # it had its own
    assert str(tmp_path) not in Path("/proc/self/mountinfo").read_text()


@pytest.mark.parametrize("words", [("/nowhere", "/bin/busybox"), ("ROOTFS", "/no/such/program")])
def test_a_floor_that_cannot_be_taken_is_told(tmp_path: Path, words: tuple[str, ...]) -> None:
    (tmp_path / "proc").mkdir()
    done = run("floor", *(str(tmp_path) if word == "ROOTFS" else word for word in words))

    assert done.returncode == 1
    assert (done.stdout, done.stderr) == ("", "pysandbox-gauge: floor: no such file or directory\n")


def test_it_waits_until_it_is_ended() -> None:
    waiting = subprocess.Popen([program_path("pysandbox-gauge"), "wait"], stdout=subprocess.PIPE, text=True)
    assert waiting.stdout is not None
    assert waiting.stdout.readline() == "hello\n"

    waiting.send_signal(signal.SIGTERM)

    assert waiting.wait(10) == -signal.SIGTERM
    waiting.stdout.close()


@pytest.mark.parametrize("words", [[], ["measure"], ["measure", "0"], ["measure", "5001"], ["measure", "x"], ["sing"]])
def test_it_refuses_what_it_does_not_know(words: list[str]) -> None:
    assert run(*words).returncode == 2
