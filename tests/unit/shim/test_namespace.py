"""The directory of a containerd namespace is there while somebody needs it, and no longer."""

from __future__ import annotations

import threading
from pathlib import Path

import pytest

from pysandbox.errors import Unavailable
from pysandbox.shim import namespace


def test_the_last_one_removes_it(tmp_path: Path) -> None:
    first, second = namespace.enter("k8s.io", str(tmp_path)), namespace.enter("k8s.io", str(tmp_path))
    namespace.leave(first)
    assert (tmp_path / "k8s.io").is_dir()

    namespace.leave(second)

    assert not (tmp_path / "k8s.io").exists()


def test_it_stays_with_what_is_in_it(tmp_path: Path) -> None:
    store = namespace.enter("k8s.io", str(tmp_path))
    (tmp_path / "k8s.io/web").mkdir()

    namespace.leave(store)

    assert (tmp_path / "k8s.io/web").is_dir()


def test_who_enters_while_others_leave_finds_a_directory_that_stays(tmp_path: Path) -> None:
    wrong: list[str] = []

    def come_and_go() -> None:
        for _ in range(300):
            store = namespace.enter("k8s.io", str(tmp_path))
            try:
                name = f"{threading.get_ident()}"
                (tmp_path / "k8s.io" / name).mkdir()
                (tmp_path / "k8s.io" / name).rmdir()
            except OSError as error:
                wrong.append(str(error))
            namespace.leave(store)

    threads = [threading.Thread(target=come_and_go) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()

    assert wrong == []
    assert not (tmp_path / "k8s.io").exists()


def test_a_file_in_its_place_is_told_of(tmp_path: Path) -> None:
    (tmp_path / "k8s.io").touch()

    with pytest.raises(Unavailable, match="k8s.io: is no directory"):
        namespace.enter("k8s.io", str(tmp_path))
