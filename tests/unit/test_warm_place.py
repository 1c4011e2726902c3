"""What is left in the servers' directory when installations go."""

from __future__ import annotations

import fcntl
import os
import time
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from pysandbox.warm import place

if TYPE_CHECKING:
    from collections.abc import Iterator


@pytest.fixture
def directory(tmp_path: Path) -> Iterator[int]:
    (tmp_path / "server").mkdir(mode=0o700)
    descriptor = place.open_directory(str(tmp_path / "server"))
    yield descriptor
    os.close(descriptor)


def made(directory: int, key: str, program: str, *, age: float = 0.0) -> None:
    """Leave what a server leaves: its lock, and sockets if it was killed."""
    for kind in ("lock", "sock", "shim", "control"):
        path = Path(f"/proc/self/fd/{directory}/{key}.{kind}")
        path.write_text(program if kind == "lock" else "")
        os.utime(path, (time.time() - age, time.time() - age))


def left(directory: int) -> set[str]:
    place.sweep(directory)
    return {name.partition(".")[0] for name in os.listdir(directory)}


def test_what_an_installation_has_stays(directory: int, tmp_path: Path) -> None:
    program = tmp_path / "pysandbox-cold"
    program.write_text("")
    key = place.key_of(str(program))
    made(directory, key, str(program), age=1e6)

    assert left(directory) == {key}


def test_what_an_installation_had_that_is_gone_or_another_now_is_removed(directory: int, tmp_path: Path) -> None:
    program = tmp_path / "pysandbox-cold"
    program.write_text("")
    made(directory, "1-2-3", str(program))
    made(directory, "4-5-6", str(tmp_path / "gone/pysandbox-cold"))
    made(directory, "7-8-9", f"{program}/pysandbox-cold")
    (Path(f"/proc/self/fd/{directory}") / "seccomp").mkdir()

    assert left(directory) == {"seccomp"}


def test_a_running_servers_files_stay_whatever_they_say(directory: int) -> None:
    made(directory, "1-2-3", "/nonexistent")
    with open(f"/proc/self/fd/{directory}/1-2-3.lock", "rb") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)

        assert left(directory) == {"1-2-3"}
    assert left(directory) == set()


def test_a_lock_that_says_nothing_stays_for_a_while(directory: int) -> None:
    made(directory, "1-2-3", "")
    made(directory, "4-5-6", "", age=place.FORGOTTEN + 60)

    assert left(directory) == {"1-2-3"}
