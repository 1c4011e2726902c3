"""A container whose root is an image in a file, and mounts that are images: disks of its machine."""

from __future__ import annotations

import hashlib
import os
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from precondition import requires
from runtime import MakeBundle, Runtime

#: What the guest makes of nothing.
OWN = {"proc": "proc", "dev": "tmpfs"}

pytestmark = pytest.mark.usefixtures("leaks")


@pytest.fixture(scope="session")
def image(busybox_rootfs: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An ext4 image with busybox, made once and never written to."""
    requires("root", "command mkfs.ext4")
    path = tmp_path_factory.mktemp("image") / "root.ext4"
    make(path, busybox_rootfs)
    return path


def make(path: Path, content: Path | None = None, megabytes: int = 32) -> None:
    source = ["-d", str(content)] if content else []
    subprocess.run(["mkfs.ext4", "-q", *source, str(path), f"{megabytes}M"], check=True, capture_output=True)


def bundle_on(image: Path, make_bundle: MakeBundle, script: str, *mounts: dict[str, Any], **root: Any) -> Path:
    """Make a bundle whose root is a copy of the image; its only mounts are what a guest makes itself, and those given."""

    def change(spec: dict[str, Any]) -> None:
        spec["root"] = {"path": "root.ext4", **root}
        own = [{"destination": "/" + name, "type": kind, "source": kind} for name, kind in OWN.items()]
        spec["mounts"] = [*own, *mounts]

    bundle = Path(make_bundle(["sh", "-c", script], change))
    subprocess.run(["cp", "--sparse=always", image, bundle / "root.ext4"], check=True)
    return bundle


def digest(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()


def test_a_root_that_is_an_image_is_a_disk_of_the_machine(
    microvm: Runtime, make_bundle: MakeBundle, image: Path
) -> None:
    bundle = bundle_on(image, make_bundle, "grep ' / ' /proc/mounts; echo kept > /file; id -u")
    done = microvm("run", bundle)
    assert done.returncode == 0, done.stderr
    assert "ext4" in done.stdout
    seen = subprocess.run(
        ["debugfs", "-R", "cat /file", bundle / "root.ext4"], capture_output=True, text=True, check=True
    )
    assert seen.stdout == "kept\n"


def test_a_read_only_root_image_is_not_changed_by_a_bit(microvm: Runtime, make_bundle: MakeBundle, image: Path) -> None:
    bundle = bundle_on(image, make_bundle, "touch /file; mount -o remount,rw /; touch /file", readonly=True)
    before = digest(bundle / "root.ext4")
    done = microvm("run", bundle)
    assert "Read-only file system" in done.stderr
    assert digest(bundle / "root.ext4") == before


def test_an_image_that_looks_like_another_format_stays_raw(
    microvm: Runtime, make_bundle: MakeBundle, image: Path, tmp_path: Path
) -> None:
    """A qcow2 header that names a file of the host as its backing file: nobody looks for one (and ext4 leaves it be)."""
    canary = tmp_path / "canary"
    canary.write_text("SECRET" * 1000)
    bundle = bundle_on(image, make_bundle, "grep -c SECRET /dev/root /dev/vda 2>/dev/null; head -c 3 /proc/mounts")
    name = str(canary).encode()
    header = b"QFI\xfb\0\0\0\3" + (104).to_bytes(8) + len(name).to_bytes(4) + (16).to_bytes(4) + (32 << 20).to_bytes(8)
    with open(bundle / "root.ext4", "r+b") as file:
        file.write(header.ljust(104, b"\0") + name)
    done = microvm("run", bundle)
    assert done.returncode == 0, done.stderr
    assert "SECRET" not in done.stdout


def test_a_mount_with_loop_is_one_more_disk(microvm: Runtime, make_bundle: MakeBundle, image: Path) -> None:
    mounts = [
        {"destination": "/data", "type": "ext4", "source": "data.ext4", "options": ["loop", "noatime"]},
        {"destination": "/frozen", "type": "ext4", "source": "frozen.ext4", "options": ["loop", "ro"]},
    ]
    script = "grep -E '/data|/frozen' /proc/mounts; echo x > /data/file && touch /frozen/file"
    bundle = bundle_on(image, make_bundle, script, *mounts)
    for name in ("data", "frozen"):
        make(bundle / f"{name}.ext4", megabytes=8)
    before = digest(bundle / "frozen.ext4")
    done = microvm("run", bundle)
    assert "/data ext4 rw,noatime" in done.stdout, done.stderr
    assert "/frozen ext4 ro" in done.stdout
    assert "Read-only file system" in done.stderr
    assert digest(bundle / "frozen.ext4") == before
    seen = subprocess.run(
        ["debugfs", "-R", "cat /file", bundle / "data.ext4"], capture_output=True, text=True, check=True
    )
    assert seen.stdout == "x\n"


def test_an_image_root_and_shared_directories_go_together(
    microvm: Runtime, make_bundle: MakeBundle, image: Path, tmp_path: Path
) -> None:
    mount = {"destination": "/shared", "type": "bind", "source": str(tmp_path), "options": ["bind"]}
    done = microvm("run", bundle_on(image, make_bundle, "echo here > /shared/file; grep ' / ' /proc/mounts", mount))
    assert done.returncode == 0, done.stderr
    assert "ext4" in done.stdout
    assert (tmp_path / "file").read_text() == "here\n"


def test_an_exec_finds_the_root_on_its_disk(microvm: Runtime, make_bundle: MakeBundle, image: Path) -> None:
    container = microvm.run_detached(bundle_on(image, make_bundle, "sleep 100"))
    assert "ext4" in microvm.ok("exec", container, "sh", "-c", "grep ' / ' /proc/mounts")
    microvm.ok("delete", "--force", container)


@pytest.fixture
def loop(tmp_path: Path) -> Iterator[Path]:
    """A block device of the host, with a mark at its beginning."""
    requires("root", "command losetup", "file /dev/loop-control")
    image = tmp_path / "loop"
    image.write_bytes(b"MARK".ljust(8 << 20, b"\0"))
    done = subprocess.run(["losetup", "-f", "--show", image], capture_output=True, text=True, check=False)
    if done.returncode:
        pytest.skip(f"requires a loop device: {done.stderr.strip()}")
    device = Path(done.stdout.strip())
    yield device
    subprocess.run(["losetup", "-d", device], check=True)


@pytest.mark.parametrize("access", ["rwm", "r"])
def test_a_block_device_of_the_spec_is_one_of_the_guest(
    microvm: Runtime, make_bundle: MakeBundle, loop: Path, access: str
) -> None:
    numbers = {"major": os.major(loop.stat().st_rdev), "minor": os.minor(loop.stat().st_rdev)}

    def change(spec: dict[str, Any]) -> None:
        spec["linux"]["devices"] = [{"path": "/dev/data", "type": "b", **numbers, "fileMode": 0o640, "gid": 6}]
        rules = spec["linux"]["resources"].setdefault("devices", [])
        rules.append({"allow": True, "type": "b", **numbers, "access": access})

    script = "stat -c %a:%g /dev/data; head -c 4 /dev/data; printf DONE | dd of=/dev/data bs=4 conv=notrunc,fsync 2>&1"
    done = microvm("run", make_bundle(["sh", "-c", script], change))
    assert done.stdout.startswith("640:6\nMARK"), done.stderr
    with open(loop, "rb", buffering=0) as device:
        assert device.read(4) == (b"DONE" if "w" in access else b"MARK")


def test_a_block_device_that_the_host_does_not_have_is_refused(microvm: Runtime, make_bundle: MakeBundle) -> None:
    def change(spec: dict[str, Any]) -> None:
        spec["linux"]["devices"] = [{"path": "/dev/data", "type": "b", "major": 250, "minor": 77}]

    done = microvm("run", make_bundle(["true"], change))
    assert done.returncode == 1
    assert "linux.devices[0]: /dev/data: the host has no block device 250:77 there" in done.stderr


def test_one_image_is_not_written_by_two_machines(microvm: Runtime, make_bundle: MakeBundle, image: Path) -> None:
    bundle = bundle_on(image, make_bundle, "sleep 100")
    container = microvm.run_detached(bundle)
    done = microvm("run", bundle)
    microvm.ok("delete", "--force", container)
    assert done.returncode == 1
    assert "root.path" in done.stderr
    assert "in use by another machine" in done.stderr
