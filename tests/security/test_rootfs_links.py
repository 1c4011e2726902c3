"""Symbolic links and odd files of an image do not lead the runtime to the host."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
from harness.bundle import Bundle
from harness.host import CONTENT, Canary, mounts
from harness.runtime import Runtime

RACES = int(os.environ.get("PYSANDBOX_ATTACK_RACES", "25"))


def replace(path: Path, target: str) -> None:
    """Put a symbolic link where the image had a directory."""
    shutil.rmtree(path, ignore_errors=True)
    path.symlink_to(target)


@pytest.mark.parametrize(
    ("name", "target"),
    [("proc", "/tmp"), ("proc", "tmp"), ("proc", "/sys"), ("sys", "/proc"), ("sys", "tmp"), ("proc", "/proc")],
)
def test_proc_and_sys_of_an_image_must_be_directories(runtime: Runtime, bundle: Bundle, name: str, target: str) -> None:
    """CVE-2019-19921, CVE-2023-27561: masks and labels would go to files of the image."""
    replace(bundle.rootfs / name, target)

    answer = runtime.run(bundle)

    answer.assert_one_clear_line(f"/{name}")


def test_proc_of_an_image_must_not_be_a_file(runtime: Runtime, bundle: Bundle) -> None:
    (bundle.rootfs / "proc").rmdir()
    (bundle.rootfs / "proc").write_text("not a directory")

    assert runtime.run(bundle).refused


def bind_a_directory_on_proc(bundle: Bundle, source: Path) -> None:
    bundle.without_mount("/proc")
    bundle.bind(source, "/proc")


def mount_tmpfs_on_attributes(bundle: Bundle, source: Path) -> None:
    bundle.mounts.append({"destination": "/proc/self/attr", "type": "tmpfs", "source": "tmpfs"})


def bind_a_volume_on_self(bundle: Bundle, source: Path) -> None:
    bundle.bind(source, "/proc/self")


def bind_sysrq_on_exec_label(bundle: Bundle, source: Path) -> None:
    bundle.bind(Path("/proc/sysrq-trigger"), "/proc/self/attr/exec")


def bind_on_proc_by_dots(bundle: Bundle, source: Path) -> None:
    bundle.bind(source, "/tmp/../proc/./self/../1/attr")


def bind_on_proc_by_a_link(bundle: Bundle, source: Path) -> None:
    (bundle.rootfs / "innocent").symlink_to("/proc/self/attr")
    bundle.bind(source, "/innocent")


@pytest.mark.parametrize(
    "poison",
    [
        bind_a_directory_on_proc, mount_tmpfs_on_attributes, bind_a_volume_on_self, bind_sysrq_on_exec_label,
        bind_on_proc_by_dots, bind_on_proc_by_a_link,
    ],
)  # fmt: skip
def test_nothing_but_procfs_is_mounted_in_proc(
    runtime: Runtime, bundle: Bundle, canary: Canary, poison: Callable[[Bundle, Path], None]
) -> None:
    """CVE-2023-28642, CVE-2025-52881: what is written to /proc/self/attr must reach the kernel."""
    poison(bundle, canary.path)

    answer = runtime.run(bundle)

    answer.assert_one_clear_line("/proc")


def dev_is_a_link_to_the_host(runtime: Runtime, bundle: Bundle, canary: Canary) -> None:
    """CVE-2026-41579, CVE-2026-47766: default nodes and links made through rootfs/dev."""
    replace(bundle.rootfs / "dev", os.fspath(canary.path))
    bundle.without_mount("/dev", "/dev/pts", "/dev/shm", "/dev/mqueue")

    runtime.run(bundle)

    canary.assert_unchanged()


def test_a_dev_that_is_a_link_to_the_host_changes_nothing_there(
    runtime: Runtime, bundle: Bundle, canary: Canary
) -> None:
    dev_is_a_link_to_the_host(runtime, bundle, canary)


def test_a_dev_that_is_a_link_to_the_host_fails_on_runc_1_1_5(runc: Runtime, succeeds: Callable[..., None]) -> None:
    succeeds(dev_is_a_link_to_the_host, runc)


@pytest.mark.parametrize(
    "name",
    ["etc/hosts", "etc/hostname", "etc/resolv.conf", "etc/mtab", "etc/passwd", ".pysandbox", ".pysandbox.json", "dev"],
)
def test_files_of_an_image_that_are_links_to_the_host_are_not_written_through(
    runtime: Runtime, bundle: Bundle, canary: Canary, name: str
) -> None:
    """CVE-2025-24965: a configuration file written into the rootfs by name."""
    path = bundle.rootfs / name
    if path.is_dir():
        shutil.rmtree(path)
    path.unlink(missing_ok=True)
    path.symlink_to(canary.path / "host-only" if name != "dev" else canary.path)

    runtime.run(bundle)

    canary.assert_unchanged()


def read_through_a_source_that_is_a_link(runtime: Runtime, bundle: Bundle, canary: Canary) -> None:
    """A directory of the image is bound to another place in it: the image put a link to the host there."""
    (bundle.rootfs / "data").symlink_to(canary.path)
    bundle.bind(bundle.rootfs / "data", "/mnt")
    bundle.script("cat /mnt/host-only")

    answer = runtime.run(bundle)

    assert CONTENT not in answer.out, answer


def test_a_source_in_the_rootfs_that_is_a_link_does_not_lead_to_the_host(
    runtime: Runtime, bundle: Bundle, canary: Canary
) -> None:
    read_through_a_source_that_is_a_link(runtime, bundle, canary)


def test_a_source_in_the_rootfs_that_is_a_link_fails_on_runc_1_1_5(
    runc: Runtime, succeeds: Callable[..., None]
) -> None:
    succeeds(read_through_a_source_that_is_a_link, runc)


@pytest.mark.parametrize(
    "destination", ["/../../../{canary}", "/a/../../../..{canary}", "/link/sub", "/link/new/deep", "link/sub"]
)
def test_a_mount_stays_below_the_root(runtime: Runtime, bundle: Bundle, canary: Canary, destination: str) -> None:
    """CVE-2022-23648, docker CVE-2018-15664."""
    (bundle.rootfs / "link").symlink_to(canary.path)
    bundle.mounts.append({"destination": destination.format(canary=canary.path), "type": "tmpfs", "source": "tmpfs"})
    bundle.script("cat /proc/self/mountinfo")

    answer = runtime.run(bundle)

    canary.assert_unchanged()
    assert not os.path.ismount(canary.path / "sub")
    assert answer.code == 0 or answer.refused, answer


def share_a_volume_that_is_exchanged(bundle: Bundle, canary: Canary, exchanging: Callable[[Path, Path], None]) -> None:
    """CVE-2021-30465, CVE-2024-45310: mounts and directories made through a link that a peer exchanged."""
    volume = canary.path.with_name("volume")
    (volume / "dir").mkdir(parents=True)
    (volume / "link").symlink_to(canary.path)
    bundle.bind(volume, "/vol")
    bundle.mounts.append({"destination": "/vol/dir/nested/deep", "type": "tmpfs", "source": "tmpfs"})
    bundle.bind(volume, "/vol/dir/bound")
    exchanging(volume / "dir", volume / "link")


def test_a_volume_whose_directory_is_exchanged_for_a_link_leads_nowhere(
    runtime: Runtime, bundle: Bundle, canary: Canary, exchanging: Callable[[Path, Path], None]
) -> None:
    share_a_volume_that_is_exchanged(bundle, canary, exchanging)

    made = [runtime.run(bundle) for _ in range(RACES)]

    canary.assert_unchanged()
    assert mounts(os.fspath(canary.path)) == []
    for answer in made:
        assert answer.code == 0 or answer.refused, answer
        assert "Traceback" not in answer.err


def test_a_volume_whose_directory_is_exchanged_for_a_link_fails_on_runc_1_1_5(
    runc: Runtime, bundle: Bundle, canary: Canary, exchanging: Callable[[Path, Path], None]
) -> None:
    """A race: it is lost sometimes, so there are many tries."""
    share_a_volume_that_is_exchanged(bundle, canary, exchanging)

    for _ in range(200):
        runc.run(bundle)
        if {entry.name for entry in canary.path.iterdir()} != {"host-only", "ptmx", "sub"}:
            canary.remember()
            return

    pytest.skip("positive control: the race was not won in 200 tries")
