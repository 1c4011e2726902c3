"""The machine's disk: Debian with systemd, made by mmdebstrap, kept in a cache under a digest of its recipe."""

from __future__ import annotations

import hashlib
import os
import shutil
import subprocess
from dataclasses import dataclass
from pathlib import Path

PACKAGES = (
    "systemd", "systemd-sysv", "dbus", "apparmor", "python3-pytest", "python3-pytest-timeout", "python3-pluggy", "python3-jeepney",
    "python3-pyroute2", "libseccomp2", "busybox-static", "procps", "iproute2", "kmod", "util-linux", "runc",
    "linux-image-cloud-amd64", "initramfs-tools",
)  # fmt: skip
SUITE = "bookworm"
DISK_SIZE = "3G"

#: Runs what is on the second disk, says how it ended on the serial console, and turns the machine off.
UNIT = """\
[Unit]
Description=tests of pysandbox
After=basic.target dbus.service apparmor.service

[Service]
Type=oneshot
StandardOutput=tty
StandardError=tty
TTYPath=/dev/ttyS0
Environment=HOME=/root LC_ALL=C.UTF-8
Delegate=yes
ExecStart=/bin/sh -c 'mkdir -p /srv/checkout && tar -xf /dev/vdb -C /srv/checkout && cd /srv/checkout && sh ./guest-command; echo PYSANDBOX-GUEST-EXIT $?; sync'
ExecStopPost=/sbin/poweroff -f
TimeoutStartSec=infinity

[Install]
WantedBy=multi-user.target
"""


@dataclass(frozen=True)
class Image:
    """A bootable disk and what QEMU needs to boot it directly."""

    disk: Path
    kernel: Path
    initrd: Path


def cache_directory() -> Path:
    """Return where built images are kept: outside the tree, never required to be there."""
    return Path(os.environ.get("XDG_CACHE_HOME", Path.home() / ".cache")) / "pysandbox"


def build_image() -> Image:
    """Return the image, building it if the cache has none of this recipe. Takes about two minutes and 2 GB."""
    recipe = hashlib.sha256("\n".join([SUITE, DISK_SIZE, *PACKAGES, UNIT]).encode()).hexdigest()[:16]
    folder = cache_directory() / f"debian-guest-{recipe}"
    image = Image(folder / "disk.ext4", folder / "vmlinuz", folder / "initrd.img")
    if not image.disk.exists():
        print(f"building a Debian {SUITE} machine ({len(PACKAGES)} packages and what they need)", flush=True)
        _build(folder, image)
    return image


def _build(folder: Path, image: Image) -> None:
    shutil.rmtree(folder, ignore_errors=True)
    root = folder / "root"
    folder.mkdir(parents=True)
    _run("mmdebstrap", "--variant=minbase", "--include=" + ",".join(PACKAGES), SUITE, str(root))
    _configure(root)
    shutil.copy(next((root / "boot").glob("vmlinuz-*")), image.kernel)
    shutil.copy(next((root / "boot").glob("initrd.img-*")), image.initrd)
    unfinished = folder / "disk.unfinished"
    _run("mke2fs", "-q", "-t", "ext4", "-d", str(root), str(unfinished), DISK_SIZE)
    unfinished.rename(image.disk)
    shutil.rmtree(root)


def _configure(root: Path) -> None:
    (root / "etc/fstab").write_text("/dev/vda / ext4 defaults 0 0\n")
    (root / "etc/hostname").write_text("guest\n")
    (root / "etc/systemd/system/pysandbox-tests.service").write_text(UNIT)
    wants = root / "etc/systemd/system/multi-user.target.wants"
    wants.mkdir(parents=True, exist_ok=True)
    (wants / "pysandbox-tests.service").symlink_to("../pysandbox-tests.service")
    for unit in (
        "serial-getty@ttyS0.service",
        "apt-daily.timer",
        "apt-daily-upgrade.timer",
        "systemd-timesyncd.service",
    ):
        (root / "etc/systemd/system" / unit).symlink_to("/dev/null")


def _run(*command: str) -> None:
    subprocess.run(command, check=True, stdout=subprocess.DEVNULL)
