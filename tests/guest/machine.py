"""Boot the machine with the checkout on its second disk and follow its serial console to the end."""

from __future__ import annotations

import re
import subprocess
import tarfile
import tempfile
import threading
from io import BytesIO
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from tests.guest.image import Image

#: Emulated, so slow: a boot takes about a minute.
MEMORY = "2048"
EXIT_LINE = re.compile(rb"PYSANDBOX-GUEST-EXIT (\d+)")
#: What the tests need of a checkout.
CARRIED = (
    "runtime_api",
    "backends",
    "tests",
    "images",
    "docs",
    "pyproject.toml",
    "guest_agent/target/release/pysandbox-executor",
)


def pack_checkout(checkout: Path, command: str, disk: Path) -> None:
    """Write the checkout and the command to run in it as a tar archive that serves as a raw disk."""
    with tarfile.open(disk, "w") as archive:
        for name in CARRIED:
            archive.add(checkout / name, name, filter=_leave_out)
        entry = tarfile.TarInfo("guest-command")
        entry.size = len(command.encode())
        archive.addfile(entry, BytesIO(command.encode()))
    with disk.open("ab") as file:  # disks are made of sectors
        file.truncate((file.tell() + 4095) // 4096 * 4096)


def _leave_out(entry: tarfile.TarInfo) -> tarfile.TarInfo | None:
    entry.uid = entry.gid = 0
    return None if "__pycache__" in entry.name else entry


def run_in_guest(image: Image, checkout: Path, command: str, timeout: float) -> int:
    """Run a shell command in the checkout inside the machine, its output on our stdout; return its exit code.

    255 when the machine ended, or was ended after `timeout` seconds, without saying how the command did.
    """
    with tempfile.TemporaryDirectory() as scratch:
        disk = Path(scratch) / "checkout.tar"
        pack_checkout(checkout, command, disk)
        overlay = Path(scratch) / "overlay.qcow2"
        backing = f"backing_file={image.disk},backing_fmt=raw"
        subprocess.run(["qemu-img", "create", "-q", "-f", "qcow2", "-o", backing, str(overlay)], check=True)
        return _follow(_qemu(image, overlay, disk), timeout)


def _qemu(image: Image, root: Path, checkout: Path) -> list[str]:
    return [
        "qemu-system-x86_64", "-M", "q35", "-accel", "tcg,thread=multi", "-cpu", "max", "-smp", "2", "-m", MEMORY,
        "-nodefaults", "-no-user-config", "-display", "none", "-no-reboot", "-serial", "stdio",
        "-kernel", str(image.kernel), "-initrd", str(image.initrd),
        "-append", f"root=/dev/vda rw console=ttyS0 quiet apparmor=1 security=apparmor tsc_early_khz={_tsc_khz()}",
        "-drive", f"if=virtio,format=qcow2,file={root}", "-drive", f"if=virtio,format=raw,readonly=on,file={checkout}",
        "-device", "virtio-rng-pci",
    ]  # fmt: skip


def _tsc_khz() -> int:
    """Return the host's TSC frequency as the kernel's bogomips tell it: under emulation a guest cannot calibrate."""
    match = re.search(r"bogomips\s*:\s*([\d.]+)", Path("/proc/cpuinfo").read_text())
    return int(float(match.group(1)) / 2 * 1000) if match else 2_500_000


def _follow(command: list[str], timeout: float) -> int:
    machine = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE)
    watchdog = threading.Timer(timeout, machine.kill)
    watchdog.start()
    code = 255
    try:
        assert machine.stdout is not None
        for line in machine.stdout:
            if match := EXIT_LINE.search(line):
                code = int(match.group(1))
            else:
                print(line.decode(errors="replace").rstrip("\r\n"), flush=True)
    finally:
        watchdog.cancel()
        machine.kill()
        machine.wait()
    return code
