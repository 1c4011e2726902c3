"""Masked paths are masked with the host's null, whatever the container's /dev/null is (CVE-2025-31133)."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

import pytest
from harness.bundle import Bundle
from harness.host import Canary
from harness.runtime import Runtime

RACES = int(os.environ.get("PYSANDBOX_ATTACK_RACES", "25"))


def dev_from_the_host(bundle: Bundle, volume: Path) -> Path:
    """Make /dev of the container a bind of a directory that the attacker controls."""
    volume.mkdir()
    bundle.without_mount("/dev", "/dev/pts", "/dev/shm", "/dev/mqueue")
    bundle.bind(volume, "/dev")
    return volume


def assert_masked(out: str, err: str) -> None:
    """/proc/keys reads empty, and what lies on it is no file of procfs."""
    mounts = [line.split() for line in out.splitlines() if " /proc/keys " in line]
    contents = [line for line in out.splitlines() if line.startswith("content:")]
    assert contents == ["content:"], (out, err)
    assert mounts, (out, err)
    assert all(mount[3].endswith("null") for mount in mounts), mounts


def null_is_a_link(target: str) -> Callable[[Runtime, Bundle, Canary], None]:
    """The attack with one target of the link."""

    def attack(runtime: Runtime, bundle: Bundle, canary: Canary) -> None:
        volume = dev_from_the_host(bundle, canary.path.parent / f"dev-{runtime.name}")
        (volume / "null").symlink_to(target)
        bundle.linux["maskedPaths"] = ["/proc/keys"]
        bundle.script("exec 2>&1; echo content:$(cat /proc/keys); grep ' /proc/keys ' /proc/self/mountinfo")
        answer = runtime.run(bundle)
        if not answer.refused:
            assert_masked(answer.out, answer.err)

    return attack


@pytest.mark.parametrize(
    "target", ["/proc/sys/kernel/hostname", "/proc/sys/kernel/core_pattern", "/proc/self/status", "/etc/passwd"]
)
def test_a_null_that_is_a_link_unmasks_nothing(runtime: Runtime, bundle: Bundle, canary: Canary, target: str) -> None:
    null_is_a_link(target)(runtime, bundle, canary)


def test_a_null_that_is_a_link_fails_on_runc_1_1_5(runc: Runtime, succeeds: Callable[..., None]) -> None:
    succeeds(null_is_a_link("/proc/sys/kernel/hostname"), runc)


def test_a_null_that_is_another_device_unmasks_nothing(runtime: Runtime, bundle: Bundle, place: Path) -> None:
    volume = dev_from_the_host(bundle, place / "dev")
    os.mknod(volume / "null", 0o020666, os.makedev(1, 5))  # /dev/zero
    bundle.linux["maskedPaths"] = ["/proc/keys"]
    bundle.script("exec 2>&1; echo content:$(head -c 8 /proc/keys); grep ' /proc/keys ' /proc/self/mountinfo")

    answer = runtime.run(bundle)

    if not answer.refused:
        mount = next(line.split() for line in answer.out.splitlines() if " /proc/keys " in line)
        assert mount[3] == "/null", answer


def test_a_null_that_is_exchanged_for_a_link_unmasks_nothing(
    runtime: Runtime, bundle: Bundle, place: Path, exchanging: Callable[[Path, Path], None]
) -> None:
    volume = dev_from_the_host(bundle, place / "dev")
    os.mknod(volume / "null", 0o020666, os.makedev(1, 3))
    (volume / "link").symlink_to("/proc/sys/kernel/hostname")
    bundle.linux["maskedPaths"] = ["/proc/keys"]
    bundle.script("exec 2>&1; echo content:$(cat /proc/keys); grep ' /proc/keys ' /proc/self/mountinfo")
    exchanging(volume / "null", volume / "link")

    for _ in range(RACES):
        answer = runtime.run(bundle)
        if not answer.refused:
            assert_masked(answer.out, answer.err)


def test_a_masked_directory_is_empty_and_read_only(runtime: Runtime, bundle: Bundle) -> None:
    bundle.linux["maskedPaths"] = ["/proc/bus", "/etc"]
    bundle.script("echo content:$(ls /etc); touch /etc/x && echo written; exit 0")

    answer = runtime.run(bundle)

    assert answer.out.splitlines() == ["content:"], answer


def test_a_masked_path_that_is_a_link_masks_no_file_of_the_host(
    runtime: Runtime, bundle: Bundle, canary: Canary
) -> None:
    (bundle.rootfs / "secret").symlink_to(canary.path / "host-only")
    bundle.linux["maskedPaths"] = ["/secret", f"/../../../..{canary.path}/host-only"]
    bundle.script("exit 0")

    runtime.run(bundle)

    assert not os.path.ismount(canary.path / "host-only")


def test_read_only_paths_cannot_be_written(runtime: Runtime, bundle: Bundle) -> None:
    bundle.script(
        "for f in /proc/sys/kernel/core_pattern /proc/sysrq-trigger; do (echo x > $f) 2>/dev/null && echo written $f; done; exit 0"
    )

    answer = runtime.run(bundle)

    assert answer.code == 0, answer
    assert answer.out == ""
