"""Records on disk: one creator wins, readers trust nothing, what a killed command left is swept."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import pytest

from pysandbox.backend import ContainerRecord
from pysandbox.errors import AlreadyExists, DeadlineExceeded, InvalidArgument, NotFound, PermissionDenied, Unavailable
from pysandbox.record import replace
from pysandbox.state import RECORD_LIMIT, Store, check_id


@pytest.fixture
def store(tmp_path: Path) -> Store:
    return Store(str(tmp_path / "root"))


def record(container_id: str = "one", **values: Any) -> ContainerRecord:
    made = ContainerRecord(
        id=container_id, backend="fake", bundle="/b", rootfs="/b/rootfs", state_dir="/s", oci_version="1.2.0",
        created="now", owner="0", annotations={"a": "b"}, status="created",
    )  # fmt: skip
    return replace(made, **values)


def create(store: Store, container_id: str = "one") -> Path:
    """Make a container's directory and let go of it."""
    store.create(record(container_id), {"process": {}}).close()
    return Path(store.path) / container_id


# -- ids ---------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("container_id", ["a", "A_b+c.d-9", "...", ".hidden", "-x", "x" * 255])
def test_an_id_may_be_what_runc_takes(container_id: str) -> None:
    check_id(container_id)


@pytest.mark.parametrize(
    "container_id", ["", ".", "..", "a/b", "../x", "a b", "a\n", "a\0b", "é", "a:b", "x" * 256, "x" * 100_000]
)
def test_an_id_may_not_lead_anywhere_else(container_id: str) -> None:
    with pytest.raises(InvalidArgument):
        check_id(container_id)


# -- the root ----------------------------------------------------------------------------------------------------------


def test_the_root_is_made_for_us_alone(store: Store) -> None:
    assert os.stat(store.path).st_mode & 0o7777 == 0o700


def test_a_root_others_can_write_to_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "open"
    path.mkdir()
    path.chmod(0o777)

    with pytest.raises(PermissionDenied, match="writable by nobody else"):
        Store(str(path))


def test_a_root_that_is_a_file_is_refused(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")

    with pytest.raises(InvalidArgument, match=f"root directory {tmp_path}/file"):
        Store(str(tmp_path / "file"))


# -- one winner ----------------------------------------------------------------------------------------------------------


def test_a_record_comes_back_as_it_was_written(store: Store) -> None:
    create(store)

    with store.open("one") as directory:
        assert directory.read() == record()
        assert directory.read_spec() == {"process": {}}


def test_an_id_is_taken_once(store: Store) -> None:
    create(store)

    with pytest.raises(AlreadyExists, match="container with given ID already exists"):
        store.create(record(), {})
    assert os.listdir(store.path) == ["one"]


def test_files_are_ours_alone_whatever_the_umask(store: Store) -> None:
    before = os.umask(0)
    try:
        path = create(store)
    finally:
        os.umask(before)

    assert {entry.name: entry.stat().st_mode & 0o777 for entry in path.iterdir()} == {
        "state.json": 0o600,
        "config.json": 0o600,
    }
    assert path.stat().st_mode & 0o777 == 0o700


# -- locks -------------------------------------------------------------------------------------------------------------


def test_the_lock_excludes_others_and_waiting_for_it_has_a_limit(store: Store) -> None:
    create(store)
    with store.lock("one"), pytest.raises(DeadlineExceeded, match="container one is busy"):
        store.lock("one", limit=0.05)

    with store.lock("one", limit=0.05):
        pass


def test_two_may_share_the_lock(store: Store) -> None:
    create(store)
    with store.lock("one", shared=True), store.lock("one", shared=True, limit=0.05):
        pass


def test_who_waited_for_a_deleted_container_does_not_get_its_successor(store: Store) -> None:
    create(store)
    held = store.open("one")  # a command that has opened the directory and not locked it yet
    with store.lock("one") as directory:
        directory.remove()
    create(store)

    assert not store._is("one", held.descriptor)
    held.close()


def test_a_missing_container_does_not_exist(store: Store) -> None:
    with pytest.raises(NotFound, match="container does not exist"):
        store.lock("one")


# -- damage --------------------------------------------------------------------------------------------------------------

VALID: dict[str, Any] = {
    "version": 1, "id": "one", "backend": "fake", "bundle": "/b", "rootfs": "/r", "state_dir": "/s", "owner": "0",
    "oci_version": "1.2.0", "created": "now", "annotations": {}, "status": "created", "pid": 1, "pid_start_time": 1,
    "backend_state": {},
}  # fmt: skip


@pytest.mark.parametrize(
    "text",
    [
        b"", b"{", b"null", b"[]", b"\xff\xfe", b"[" * 100_000, b'{"version": 1}', json.dumps(VALID).encode()[:-1],
        *(
            json.dumps(VALID | change).encode()
            for change in (
                {"version": 0}, {"version": 2}, {"version": "1"}, {"id": "two"}, {"id": 1}, {"pid": "1"}, {"pid": -1},
                {"pid": True}, {"pid": 2**40}, {"status": "flying"}, {"annotations": []}, {"annotations": {"a": 1}},
                {"backend_state": None}, {"backend": None}, {"pid_start_time": 1.5},
            )
        ),
    ],
    ids=repr,
)  # fmt: skip
def test_a_damaged_record_is_named_and_not_believed(store: Store, text: bytes) -> None:
    path = create(store)
    (path / "state.json").write_bytes(text)

    with store.open("one") as directory, pytest.raises(Unavailable, match=f"{path}/state.json: "):
        directory.read()


def test_a_valid_record_is_what_the_damaged_ones_were_made_from(store: Store) -> None:
    (create(store) / "state.json").write_text(json.dumps(VALID))

    with store.open("one") as directory:
        assert directory.read().pid == 1


def test_a_record_without_end_is_not_read(store: Store) -> None:
    path = create(store) / "state.json"
    os.truncate(path, RECORD_LIMIT + 1)

    with store.open("one") as directory, pytest.raises(Unavailable, match="are too many"):
        directory.read()


@pytest.mark.parametrize("kind", ["link", "fifo", "directory", "missing"])
def test_a_record_that_is_no_file_is_not_read(store: Store, kind: str) -> None:
    path = create(store) / "state.json"
    path.unlink()
    if kind == "link":
        path.symlink_to("/etc/passwd")
    elif kind == "fifo":
        os.mkfifo(path)  # reading it would wait for ever
    elif kind == "directory":
        path.mkdir()

    with store.open("one") as directory, pytest.raises(Unavailable, match="state.json: "):
        directory.read()


def test_an_id_that_is_a_link_is_not_followed(store: Store, tmp_path: Path) -> None:
    target = create(Store(str(tmp_path / "other")))
    os.symlink(target, f"{store.path}/one")

    with pytest.raises(Unavailable):
        store.open("one")


# -- sweeping ------------------------------------------------------------------------------------------------------------


def test_what_a_killed_command_left_is_swept(store: Store) -> None:
    for name in (".new:0123", ".old:4567"):
        (Path(store.path) / name / "deep").mkdir(parents=True)
        (Path(store.path) / name / "deep" / "file").write_text("")

    store.sweep()

    assert os.listdir(store.path) == []


def test_what_a_living_command_works_on_is_not_swept(store: Store) -> None:
    (Path(store.path) / ".new:0123").mkdir()
    with store.try_lock(".new:0123") or pytest.fail("not locked"):
        store.sweep()

        assert os.listdir(store.path) == [".new:0123"]


def test_removing_follows_no_link_out(store: Store, tmp_path: Path) -> None:
    (tmp_path / "precious").mkdir()
    (tmp_path / "precious" / "file").write_text("")
    path = create(store)
    (path / "link").symlink_to(tmp_path / "precious")

    with store.lock("one") as directory:
        directory.remove()

    assert (tmp_path / "precious" / "file").exists()
    assert os.listdir(store.path) == []


def test_listing_leaves_out_what_is_no_container(store: Store) -> None:
    create(store, "b")
    create(store, "a")
    (Path(store.path) / "file").write_text("")
    (Path(store.path) / ".new:1").mkdir()

    assert list(store.ids()) == ["a", "b"]


def test_what_is_missing_above_the_root_directory_is_made_for_us_alone(tmp_path: Path) -> None:
    """A daemon's umask may be 0, and whoever may write above the root may put another one in its place."""
    before = os.umask(0)
    try:
        Store(str(tmp_path / "missing" / "root"))
        assert os.umask(0) == 0
    finally:
        os.umask(before)
    assert [path.stat().st_mode & 0o777 for path in (tmp_path / "missing", tmp_path / "missing/root")] == [0o700, 0o700]
