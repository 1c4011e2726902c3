"""A document on its way to a file."""

from __future__ import annotations

import errno
import os
import subprocess
from pathlib import Path

import pytest
from precondition import requires

from pysandbox.compare import document
from pysandbox.compare.workplace import Workplace, mounts_below


def test_it_appears_complete_or_not_at_all(tmp_path: Path) -> None:
    path = tmp_path / "out.json"

    with document.Target(os.fspath(path)) as target:
        assert not path.exists()
        target.write("all of it")

    assert os.listdir(tmp_path) == ["out.json"]
    assert path.read_text() == "all of it"


def test_what_was_there_stays_until_then(tmp_path: Path) -> None:
    path = tmp_path / "out.json"
    path.write_text("earlier")

    with document.Target(os.fspath(path)):
        pass

    assert os.listdir(tmp_path) == ["out.json"]
    assert path.read_text() == "earlier"


@pytest.mark.parametrize("name", ["no/such/directory/out.json", "."])
def test_a_place_that_cannot_be_written_is_known_at_once(tmp_path: Path, name: str) -> None:
    with pytest.raises(OSError) as caught, document.Target(os.fspath(tmp_path / name)):
        pytest.fail("measured for nothing")

    assert caught.value.filename == os.fspath(tmp_path / name)


def test_a_full_disk_is_said_and_leaves_no_half_of_it(tmp_path: Path) -> None:
    requires("root")
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=16k", "none", tmp_path], check=True)
    try:
        with pytest.raises(OSError) as caught, document.Target(f"{tmp_path}/out.json") as target:
            target.write("x" * 100_000)

        assert caught.value.errno == errno.ENOSPC
        assert "No space left on device: it was not written; the tables have the figures" in str(caught.value)
        assert os.listdir(tmp_path) == []
    finally:
        subprocess.run(["umount", tmp_path], check=True)


def test_what_is_mounted_in_a_workplace_goes_with_it(tmp_path: Path) -> None:
    requires("root")
    theirs = tmp_path / "theirs"
    theirs.mkdir()
    (theirs / "file").write_text("to stay")

    with Workplace() as workplace:
        (workplace.path / "a mount").mkdir()
        subprocess.run(["mount", "--bind", theirs, workplace.path / "a mount"], check=True)

    assert workplace.left == []
    assert not workplace.path.exists()
    assert (theirs / "file").read_text() == "to stay"


@pytest.mark.parametrize(("group", "mode"), [(None, 0o700), (12345, 0o710)])
def test_nobody_else_gets_to_what_is_in_a_workplace(group: int | None, mode: int) -> None:
    requires("root")
    with Workplace(group) as workplace:
        status = workplace.path.stat()

    assert status.st_mode & 0o777 == mode
    assert status.st_uid == 0
    assert group is None or status.st_gid == group


def test_mounts_elsewhere_are_not_meant() -> None:
    text = b"1 0 0:1 / /w rw - t\n2 1 0:2 / /w/a\\040b rw - t\n3 1 0:3 / /wx rw - t\n4 2 0:4 / /w/a\\040b/c rw - t\n"

    assert mounts_below(text, b"/w") == [b"/w/a b", b"/w/a b/c"]
