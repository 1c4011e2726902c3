"""The mounts of a spec, on both backends: the same bundle shows the same."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from precondition import requires
from runtime import MakeBundle, Runtime

pytestmark = pytest.mark.usefixtures("leaks")


@pytest.fixture(autouse=True)
def _root() -> None:
    requires("root")


def bind(source: Path | str, destination: str, *options: str, **more: Any) -> dict[str, Any]:
    return {"destination": destination, "type": "bind", "source": str(source), "options": ["bind", *options], **more}


def run(runtime: Runtime, make_bundle: MakeBundle, script: str, *mounts: dict[str, Any], **changes: Any) -> Any:
    def change(spec: dict[str, Any]) -> None:
        spec["mounts"] += mounts
        spec.update(changes)

    return runtime("run", make_bundle(["sh", "-c", script], change))


def test_binds_lie_in_each_other_in_the_specs_order(either: Runtime, make_bundle: MakeBundle, tmp_path: Path) -> None:
    for name in ("outer", "inner"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "name").write_text(name)
    (tmp_path / "file").write_text("file")
    done = run(
        either, make_bundle, "cat /a/name /a/b/name /a/b/f; echo new > /a/b/new",
        bind(tmp_path / "outer", "/a"), bind(tmp_path / "inner", "/a/b"), bind(tmp_path / "file", "/a/b/f", "ro"),
    )  # fmt: skip
    assert done.stdout == "outerinnerfile", done.stderr
    assert (tmp_path / "inner/new").read_text() == "new\n"
    assert (tmp_path / "outer/b").is_dir()  # made for the mount, as under runc


def test_a_single_file_is_mounted_and_can_be_read_only(
    either: Runtime, make_bundle: MakeBundle, tmp_path: Path
) -> None:
    for name in ("one", "two"):
        (tmp_path / name).write_text(name)
    done = run(
        either, make_bundle, "echo x > /one; echo x > /two; cat /one /two",
        bind(tmp_path / "one", "/one"), bind(tmp_path / "two", "/two", "ro"),
    )  # fmt: skip
    assert done.stdout == "x\ntwo"
    assert "Read-only file system" in done.stderr
    assert ((tmp_path / "one").read_text(), (tmp_path / "two").read_text()) == ("x\n", "two")


def test_root_of_a_container_cannot_remount_what_is_read_only(
    microvm: Runtime, make_bundle: MakeBundle, tmp_path: Path
) -> None:
    (tmp_path / "file").write_text("kept")

    def change(spec: dict[str, Any]) -> None:
        every = [f"CAP_{name}" for name in ("SYS_ADMIN", "DAC_OVERRIDE", "CHOWN", "FOWNER", "MKNOD", "SYS_CHROOT")]
        spec["process"]["capabilities"] = dict.fromkeys(("bounding", "effective", "permitted"), every)
        spec["linux"].pop("seccomp", None)
        spec["mounts"].append(bind(tmp_path, "/d", "ro"))

    script = "mount -o remount,rw,bind /d && grep ' /d ' /proc/mounts; echo x > /d/file; rm /d/file; cat /d/file"
    done = microvm("run", make_bundle(["sh", "-c", script], change))
    assert " rw" in done.stdout  # the proof: it has remounted it, in the guest
    assert done.stdout.endswith("kept")
    assert done.stderr.count("Read-only file system") == 2
    assert (tmp_path / "file").read_text() == "kept"


@pytest.fixture
def below(tmp_path: Path) -> Iterator[Path]:
    """A directory with a tmpfs mounted in it."""
    (tmp_path / "source/below").mkdir(parents=True)
    subprocess.run(["mount", "-t", "tmpfs", "tmpfs", tmp_path / "source/below"], check=True)
    (tmp_path / "source/below/file").write_text("below")
    yield tmp_path / "source"
    subprocess.run(["umount", tmp_path / "source/below"], check=True)


def test_a_recursive_bind_has_what_is_mounted_below_it(either: Runtime, make_bundle: MakeBundle, below: Path) -> None:
    done = run(
        either, make_bundle, "ls /whole/below /alone/below; echo x > /frozen/below/file",
        bind(below, "/whole", "rbind"), bind(below, "/alone"), bind(below, "/frozen", "rbind", "rro"),
    )  # fmt: skip
    assert done.stdout == "/alone/below:\n\n/whole/below:\nfile\n", done.stderr
    assert "Read-only file system" in done.stderr
    assert (below / "below/file").read_text() == "below"


def test_a_source_in_the_rootfs_shows_what_was_mounted_there(
    either: Runtime, make_bundle: MakeBundle, tmp_path: Path
) -> None:
    (tmp_path / "file").write_text("mounted")
    done = run(
        either, make_bundle, "cat /copy/file", bind(tmp_path, "/first"), bind("rootfs/first", "/copy", "rbind"),
    )  # fmt: skip
    assert done.stdout == "mounted", done.stderr


def test_a_file_system_of_the_hosts_is_mounted(either: Runtime, make_bundle: MakeBundle, tmp_path: Path) -> None:
    for name in ("lower", "upper", "work"):
        (tmp_path / name).mkdir()
    (tmp_path / "lower/file").write_text("lower")
    options = [f"{name}dir={tmp_path}/{name}" for name in ("lower", "upper", "work")]
    overlay = {"destination": "/o", "type": "overlay", "source": "overlay", "options": options}
    done = run(either, make_bundle, "cat /o/file; echo x > /o/new", overlay)
    assert done.stdout == "lower", done.stderr
    assert (tmp_path / "upper/new").read_text() == "x\n"


def test_an_id_mapped_bind_shows_other_owners(either: Runtime, make_bundle: MakeBundle, tmp_path: Path) -> None:
    tmp_path.chmod(0o755)  # root is not mapped, and no power over what is not
    (tmp_path / "file").write_text("")
    os.chown(tmp_path / "file", 1000, 1000)
    maps = [{"containerID": 1000, "hostID": 5000, "size": 10}]
    mount = bind(tmp_path, "/d", "idmap", uidMappings=maps, gidMappings=maps)
    done = run(either, make_bundle, "stat -c %u:%g /d/file", mount)
    assert done.stdout == "5000:5000\n", done.stderr


def test_a_source_that_is_not_there_is_named(either: Runtime, make_bundle: MakeBundle, tmp_path: Path) -> None:
    done = run(either, make_bundle, "true", bind(tmp_path / "nowhere", "/d"))
    assert done.returncode == 1
    assert f"{tmp_path}/nowhere" in done.stderr
    assert "no such file or directory" in done.stderr


def test_what_is_the_machine_itself_is_the_guests(microvm: Runtime, make_bundle: MakeBundle) -> None:
    done = run(microvm, make_bundle, "ls /p | grep -c '^[0-9]'; cat /p/version", bind("/proc", "/p", "rbind"))
    assert int(done.stdout.split()[0]) < 200, done.stderr
    assert os.uname().release not in done.stdout
