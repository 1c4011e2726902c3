"""Which program a runtime's name stands for: a fixed list of directories, or a path that only root can change."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
from precondition import requires

from pysandbox.errors import InvalidArgument, PermissionDenied, Unavailable
from pysandbox_oci import program
from pysandbox_oci.program import check_name, find_program

STRANGER = 12345


@pytest.fixture
def runtime(tmp_path: Path) -> Path:
    """A program that only root can change."""
    requires("root")
    path = tmp_path / "here" / "runtime"
    path.parent.mkdir(mode=0o755)
    path.write_text("#!/bin/sh\n")
    path.chmod(0o755)
    return path


@pytest.mark.parametrize("name", ["runc", "crun", "my-runtime_1.2", "/opt/bin/runsc"])
def test_a_name_or_an_absolute_path_is_taken(name: str) -> None:
    check_name(name)


@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("", "which runtime"),
        ("../runc", "a name or an absolute path"),
        ("bin/runc", "a name or an absolute path"),
        ("..", "letters, digits"),
        (".", "letters, digits"),
        ("-h", "letters, digits"),
        ("runc x", "letters, digits"),
        ("runc\n", "letters, digits"),
        ("rünc", "letters, digits"),
        ("r" * 256, "letters, digits"),
        ("/opt/\x1b[2J", "printable characters"),
        ("/opt/\0", "printable characters"),
        ("/" + "r" * 4096, "printable characters"),
    ],
)
def test_anything_else_is_refused_in_one_line_of_printable_text(name: str, said: str) -> None:
    with pytest.raises(InvalidArgument, match=said) as refused:
        check_name(name)

    assert str(refused.value).isprintable()


def test_a_name_is_not_looked_up_on_the_callers_path(runtime: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", str(runtime.parent))

    with pytest.raises(Unavailable, match="no program 'runtime' in /usr/local/sbin"):
        find_program("runtime")


def test_a_name_is_looked_up_on_the_fixed_list(runtime: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(program, "DIRECTORIES", ("/nonexistent", str(runtime.parent)))

    assert find_program("runtime") == str(runtime)


def test_the_first_of_that_name_counts_even_if_it_cannot_be_trusted(
    runtime: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    first = tmp_path / "first"
    first.mkdir()
    (first / "runtime").touch(0o777)
    (first / "runtime").chmod(0o777)
    monkeypatch.setattr(program, "DIRECTORIES", (str(first), str(runtime.parent)))

    with pytest.raises(PermissionDenied, match="writable by others"):
        find_program("runtime")


def test_links_are_followed_before_anything_is_executed(runtime: Path, tmp_path: Path) -> None:
    (tmp_path / "link").symlink_to("here/../here")

    assert find_program(str(tmp_path / "link" / "runtime")) == str(runtime)


@pytest.mark.parametrize(
    ("spoil", "said"),
    [
        (lambda path: path.chmod(0o775), r"runtime is writable by others than root \(mode 0775\); remedy"),
        (lambda path: path.chmod(0o757), "runtime is writable by others"),
        (lambda path: os.chown(path, STRANGER, 0), "runtime belongs to uid 12345"),
        (lambda path: path.parent.chmod(0o777), "here is writable by others"),
        (lambda path: os.chown(path.parent, STRANGER, 0), "here belongs to uid 12345"),
        (lambda path: path.chmod(0o644), "is not executable"),
        (lambda path: (path.unlink(), path.mkdir()), "is not a regular file"),
        (lambda path: (path.unlink(), os.mkfifo(path, 0o755)), "is not a regular file"),
    ],
)
def test_a_program_that_another_could_change_is_refused(runtime: Path, spoil: object, said: str) -> None:
    assert find_program(str(runtime)) == str(runtime)
    spoil(runtime)  # type: ignore[operator]

    with pytest.raises(PermissionDenied, match=said):
        find_program(str(runtime))


def test_in_a_sticky_directory_what_is_roots_stays_roots(runtime: Path) -> None:
    runtime.parent.chmod(0o1777)

    assert find_program(str(runtime)) == str(runtime)


@pytest.mark.parametrize("own", ["directory", "link"])
def test_a_link_that_another_could_change_is_refused_though_it_leads_to_roots(
    runtime: Path, tmp_path: Path, own: str
) -> None:
    theirs = tmp_path / "theirs"
    theirs.mkdir(mode=0o755)
    (theirs / "runtime").symlink_to(runtime)
    if own == "directory":
        os.chown(theirs, STRANGER, STRANGER)
    else:
        os.chown(theirs / "runtime", STRANGER, STRANGER, follow_symlinks=False)

    with pytest.raises(PermissionDenied, match="belongs to uid 12345"):
        find_program(str(theirs / "runtime"))


def test_a_link_to_itself_ends(tmp_path: Path) -> None:
    requires("root")
    (tmp_path / "runtime").symlink_to("runtime")

    with pytest.raises(Unavailable, match="Too many levels"):
        find_program(str(tmp_path / "runtime"))


def test_what_is_not_there_is_unavailable_and_names_the_path(tmp_path: Path) -> None:
    requires("root")

    with pytest.raises(Unavailable, match="nothing: No such file"):
        find_program(str(tmp_path / "nothing"))
