"""Templates on disk: whole or as good as none, made once however many ask, and never half."""

from __future__ import annotations

import errno
import json
import os
import threading
import time
from pathlib import Path
from typing import Self

import pytest

from pysandbox.errors import DeadlineExceeded, NotFound, PermissionDenied, Unavailable
from pysandbox_microvm import template
from pysandbox_microvm.arguments import Hardware
from pysandbox_microvm.template import (
    MANIFEST,
    MEMORY,
    STATE,
    find_template,
    key_of,
    list_templates,
    provide_template,
    remove_template,
)

KEY = "0123456789abcdef"
SIZE = 4 << 20
CONTENT = b"kernel" * 1000


class FakeMachine:
    """Has memory with something in it, and a state."""

    made = 0

    def __init__(self, content: bytes = CONTENT) -> None:
        type(self).made += 1
        self.hardware = Hardware(vcpus=1, memory=SIZE, most_vcpus=2, most_memory=SIZE * 2, accelerator="tcg")
        self.memory = os.memfd_create("memory")
        os.ftruncate(self.memory, SIZE)
        os.pwrite(self.memory, content, 1 << 20)
        os.pwrite(self.memory, bytes(128 * 1024), 3 << 20)  # touched, and nothing but zeros

    def save(self, seconds: float) -> bytes:
        return b"state of devices"

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        os.close(self.memory)


@pytest.fixture
def templates(tmp_path: Path) -> str:
    FakeMachine.made = 0
    directory = tmp_path / "templates"
    directory.mkdir(mode=0o700)
    return str(directory)


def names(directory: str) -> set[str]:
    return set(os.listdir(directory)) - {"lock"}


def test_what_was_made_is_found_and_not_made_again(templates):
    made = provide_template(templates, KEY, FakeMachine)
    assert find_template(templates, KEY) == made
    assert provide_template(templates, KEY, FakeMachine) == made
    assert FakeMachine.made == 1
    assert made.state() == b"state of devices"


def test_there_is_none_where_there_is_no_directory(tmp_path):
    assert find_template(str(tmp_path / "none"), KEY) is None
    assert list_templates(str(tmp_path / "none")) == []


def test_memory_is_copied_as_it_was_and_zeros_stay_holes(templates):
    made = provide_template(templates, KEY, FakeMachine)
    copy = os.memfd_create("copy")
    os.ftruncate(copy, SIZE)
    made.copy_memory(copy)
    assert os.pread(copy, len(CONTENT), 1 << 20) == CONTENT
    assert os.pread(copy, SIZE, 0).count(0) == SIZE - len(CONTENT)
    assert os.fstat(copy).st_blocks * 512 <= 128 * 1024
    os.close(copy)


def test_nobody_else_can_read_it_and_nobody_at_all_can_write_to_it(templates):
    made = provide_template(templates, KEY, FakeMachine)
    assert os.stat(made.directory).st_mode & 0o777 == 0o700
    for name in (MEMORY, STATE, MANIFEST):
        assert os.stat(f"{made.directory}/{name}").st_mode & 0o222 == 0


def test_a_directory_that_others_can_enter_is_refused(templates):
    os.chmod(templates, 0o755)
    with pytest.raises(PermissionDenied, match="0700"):
        find_template(templates, KEY)
    with pytest.raises(PermissionDenied, match="0700"):
        provide_template(templates, KEY, FakeMachine)
    assert names(templates) == set()


@pytest.mark.parametrize("name", [MEMORY, STATE])
@pytest.mark.parametrize("damage", ["overwritten", "cut", "replaced", "gone"])
def test_a_damaged_template_is_none_and_is_made_anew(templates, name, damage):
    first = provide_template(templates, KEY, FakeMachine)
    path = Path(first.directory, name)
    content = path.read_bytes()
    time.sleep(0.02)  # the kernel's clock for files ticks
    match damage:
        case "overwritten":
            with path.open("r+b") as file:
                file.write(b"X")
        case "cut":
            os.truncate(path, 10)
        case "replaced":
            path.unlink()
            path.write_bytes(content)
        case "gone":
            path.unlink()
    assert find_template(templates, KEY) is None
    second = provide_template(templates, KEY, FakeMachine)
    assert second.state() == b"state of devices"
    assert FakeMachine.made == 2
    assert names(templates) == {KEY}


@pytest.mark.parametrize(
    "manifest",
    [b"", b"{", b"[]", b"null", b"[" * 60_000, b'{"form": 1}', b'{"form": 99, "memory": [], "state": []}', b"\xff\xfe"],
)
def test_a_manifest_that_is_garbage_makes_none(templates, manifest):
    made = provide_template(templates, KEY, FakeMachine)
    path = Path(made.directory, MANIFEST)
    path.unlink()
    path.write_bytes(manifest)
    assert find_template(templates, KEY) is None


def test_a_template_of_an_earlier_boot_of_the_host_is_none(templates):
    made = provide_template(templates, KEY, FakeMachine)
    path = Path(made.directory, MANIFEST)
    document = json.loads(path.read_text())
    path.unlink()
    path.write_text(json.dumps({**document, "boot": "another"}))
    assert find_template(templates, KEY) is None


def test_one_that_qemu_does_not_take_is_made_anew_once(templates):
    broken = provide_template(templates, KEY, FakeMachine)
    time.sleep(0.02)
    anew = provide_template(templates, KEY, FakeMachine, broken)
    assert anew.manifest != broken.manifest
    # Another that found the same one broken takes what has been made since.
    assert provide_template(templates, KEY, FakeMachine, broken) == anew
    assert FakeMachine.made == 2


def test_of_many_that_ask_at_once_one_makes_it(templates):
    def make() -> FakeMachine:
        time.sleep(0.05)
        return FakeMachine()

    found = []
    threads = [threading.Thread(target=lambda: found.append(provide_template(templates, KEY, make))) for _ in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert FakeMachine.made == 1
    assert len(found) == 6
    assert all(each == found[0] for each in found)


def test_who_waits_for_the_maker_waits_no_longer_than_the_limit(templates, monkeypatch):
    monkeypatch.setattr(template, "LOCK_TIMEOUT", 0.1)
    with template._locked(templates), pytest.raises(DeadlineExceeded, match="locked"):
        provide_template(templates, KEY, FakeMachine)


def test_a_machine_that_does_not_start_leaves_nothing(templates):
    def make() -> FakeMachine:
        raise Unavailable("qemu has ended")

    with pytest.raises(Unavailable, match="qemu has ended"):
        provide_template(templates, KEY, make)
    assert names(templates) == set()


def test_a_full_disk_leaves_nothing_and_is_named(templates, monkeypatch):
    def full(source: int, target: int) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(template, "copy_without_zeros", full)
    with pytest.raises(OSError, match="No space left on device") as caught:
        provide_template(templates, KEY, FakeMachine)
    assert caught.value.filename.endswith("/memory")
    assert names(templates) == set()


def test_what_a_killed_maker_left_is_swept_by_the_next(templates):
    left = Path(templates, ".new-1-1")
    left.mkdir()
    (left / MEMORY).write_bytes(b"half")
    provide_template(templates, KEY, FakeMachine)
    assert names(templates) == {KEY}


def test_only_so_many_are_kept(templates, monkeypatch):
    monkeypatch.setattr(template, "MOST_TEMPLATES", 3)
    for number in range(5):
        monkeypatch.setattr(time, "time", lambda number=number: 1000 + number)
        provide_template(templates, f"{number:016x}", FakeMachine)
    assert names(templates) == {f"{number:016x}" for number in (2, 3, 4)}


def test_they_are_listed_and_removed(templates):
    provide_template(templates, KEY, FakeMachine)
    (listed,) = list_templates(templates)
    assert listed.key == KEY
    assert listed.manifest["memory_size"] == SIZE
    remove_template(templates, KEY)
    assert names(templates) == set()
    with pytest.raises(NotFound, match=KEY):
        remove_template(templates, KEY)


@pytest.mark.parametrize("key", ["../templates", ".", "..", "", "a/b", "lock", "\0"])
def test_only_a_template_is_removed(templates, key):
    with pytest.raises(NotFound):
        remove_template(templates, key)


def test_a_directory_that_is_none_of_ours_is_left_alone(templates):
    other = Path(templates, KEY)
    other.mkdir()
    (other / "file of somebody").write_text("precious")
    with pytest.raises(Unavailable, match="not made by pysandbox"):
        provide_template(templates, KEY, FakeMachine)
    assert (other / "file of somebody").read_text() == "precious"


def test_a_key_is_of_everything_that_goes_in():
    parts = [["qemu", "-m", "1"], "digest", [1, 2], ""]
    keys = {key_of(parts)}
    for index, other in enumerate([["qemu", "-m", "2"], "other", [1, 3], ["flag"]]):
        keys.add(key_of([*parts[:index], other, *parts[index + 1 :]]))
    assert len(keys) == 5
    assert all(key.isalnum() and len(key) == 16 for key in keys)
