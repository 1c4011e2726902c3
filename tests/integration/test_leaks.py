"""The account of leaks finds what it is there to find: each kind is made, seen, and taken away again."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path
from typing import Any

import pytest
from precondition import requires
from runtime import Runtime


def _new(before: dict[str, set[str]], after: dict[str, set[str]]) -> set[str]:
    return {kind for kind in after if after[kind] - before[kind]}


def test_a_process_is_found(pysandbox: Runtime, leaks: Any) -> None:
    before = leaks.look()

    child = subprocess.Popen(["sleep", "100"])
    found = _new(before, leaks.look())
    child.kill()
    child.wait()

    assert found == {"processes"}


def test_an_orphan_of_an_orphan_is_found(pysandbox: Runtime, leaks: Any, tmp_path: Path) -> None:
    before = leaks.look()

    subprocess.run(["sh", "-c", f"setsid sleep 100 >/dev/null & echo $! >{tmp_path}/pid"], check=True)
    found = _new(before, leaks.look())
    os.kill(int((tmp_path / "pid").read_text()), 9)

    assert found == {"processes"}


def test_a_descriptor_is_found(pysandbox: Runtime, leaks: Any) -> None:
    before = leaks.look()

    descriptor = os.open("/", os.O_RDONLY)
    found = _new(before, leaks.look())
    os.close(descriptor)

    assert found == {"descriptors"}


def test_a_mount_is_found(pysandbox: Runtime, leaks: Any, tmp_path: Path) -> None:
    requires("root")
    place = tmp_path / "mount"
    place.mkdir()
    before = leaks.look()

    subprocess.run(["mount", "-t", "tmpfs", "tmpfs", place], check=True)
    found = _new(before, leaks.look())
    subprocess.run(["umount", place], check=True)

    assert found == {"mounts"}


def test_a_cgroup_and_a_record_are_found(pysandbox: Runtime, leaks: Any) -> None:
    requires("root")
    container_id = pysandbox.new_id()
    before = leaks.look()
    hierarchy = next(
        (top for top in ("pids", "unified", ".") if os.path.exists(f"/sys/fs/cgroup/{top}/cgroup.procs")), None
    )
    if hierarchy is None:
        pytest.skip("requires a mounted cgroup hierarchy")

    cgroup = Path("/sys/fs/cgroup", hierarchy, container_id)
    cgroup.mkdir()
    (pysandbox.root / container_id).mkdir(parents=True)
    found = _new(before, leaks.look())
    cgroup.rmdir()
    (pysandbox.root / container_id).rmdir()

    assert found == {"cgroups", "records"}
