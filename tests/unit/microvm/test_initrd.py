"""The initrd is a cpio archive that others can read, and the same bytes for the same entries."""

import os
import subprocess
from pathlib import Path

import pytest
from precondition import requires

from pysandbox_microvm import initrd, store

PROGRAMS = {"pysandbox-agent": b"\x7fELF agent!", "pysandbox-executor": b"\x7fELF executor"}


def unpacked(archive: bytes, directory: Path) -> None:
    """Unpack with cpio(1), as another implementation of the form."""
    argv = ["cpio", "--extract", "--make-directories", "--quiet", "--no-absolute-filenames"]
    subprocess.run(argv, input=archive, cwd=directory, check=True, capture_output=True)


def test_another_program_unpacks_what_was_packed(tmp_path: Path) -> None:
    requires("root", "command cpio")
    unpacked(initrd.archive(store.entries(PROGRAMS)), tmp_path)
    assert (tmp_path / "init").read_bytes() == PROGRAMS["pysandbox-agent"]
    assert (tmp_path / "sbin/pysandbox-executor").read_bytes() == PROGRAMS["pysandbox-executor"]
    assert os.access(tmp_path / "init", os.X_OK)
    console = (tmp_path / "dev/console").stat()
    assert (os.major(console.st_rdev), os.minor(console.st_rdev)) == (5, 1)
    null = (tmp_path / "dev/null").stat()
    assert (os.major(null.st_rdev), os.minor(null.st_rdev), null.st_mode & 0o777) == (1, 3, 0o666)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["dev", "init", "proc", "run", "sbin", "sys", "tmp"]


def test_it_is_the_same_for_the_same_programs_and_differs_for_others() -> None:
    archive = initrd.archive(store.entries(PROGRAMS))
    assert archive == initrd.archive(store.entries(PROGRAMS))
    assert archive != initrd.archive(store.entries({**PROGRAMS, "pysandbox-agent": b"\x7fELF agent?"}))


@pytest.mark.parametrize("length", range(9))
def test_content_of_any_length_keeps_the_alignment(length: int, tmp_path: Path) -> None:
    entries = [initrd.program("n" * (length + 1), b"x" * length), initrd.program("last", b"end")]
    archive = initrd.archive(entries)
    assert len(archive) % 4 == 0
    assert archive.count(b"070701") == 3  # two files and the trailer
    assert all(archive.find(b"070701", place) % 4 == 0 for place in (0, 1))


@pytest.mark.parametrize(
    "path", ["", "/init", "a/", "dev/..", "..", ".", "dev/.", "TRAILER!!!", "dev/TRAILER!!!", "in\0it", "missing/file"]
)
def test_a_name_that_the_kernel_would_not_unpack_is_refused(path: str) -> None:
    with pytest.raises(ValueError, match="initrd|first"):
        initrd.archive([initrd.directory("dev"), initrd.program(path, b"")])


def test_a_name_is_taken_once() -> None:
    with pytest.raises(ValueError, match="taken"):
        initrd.archive([initrd.directory("dev"), initrd.directory("dev")])
