"""A jailed QEMU with a kernel of ours, hot-plugged file servers, and Python in it that does as it is told.

The host's /usr is the first thing that is shared with it, read-only: its Python comes from there.
"""

from __future__ import annotations

import array
import json
import os
import select
import socket
import time
from pathlib import Path
from typing import Any

import pytest
from busybox import find_busybox
from guestimage import CACHE

from pysandbox_microvm import initrd, jail, tree, virtiofsd
from pysandbox_microvm.identity import Identity

MEMORY = 256 << 20
PORTS = 15
DRIVER = Path(__file__).with_name("driver.py")
INIT = r"""#!/bin/busybox sh
b=/bin/busybox
$b mkdir -p /proc /sys /dev /usr /tmp /mnt /run
$b mount -t proc proc /proc; $b mount -t sysfs sysfs /sys; $b mount -t devtmpfs dev /dev; $b mount -t tmpfs tmpfs /tmp
$b ln -s usr/lib /lib; $b ln -s usr/lib64 /lib64
n=0
until $b mount -t virtiofs usr /run 2>/dev/null; do n=$((n+1)); [ $n -gt 200 ] && echo "no /usr" && exit; $b usleep 50000; done
$b mount --bind /run/rootfs /usr
for port in /sys/class/virtio-ports/*; do
  [ "$($b cat $port/name)" = agent.0 ] && exec /usr/bin/python3.11 -I -S /driver.py /dev/${port##*/}
done
echo "no port"
"""


def usr_tree() -> tree.Tree:
    """Share what Python needs, as a rootfs of its own."""
    return tree.host_tree({"ociVersion": "1.2.0", "root": {"path": "/usr"}}, "/")  # type: ignore[arg-type]


def write_initrd(path: Path) -> None:
    busybox = Path(find_busybox()).read_bytes()
    path.write_bytes(
        initrd.archive(
            [
                initrd.directory("bin"),
                initrd.directory("dev"),
                initrd.character_device("dev/console", 0o600, 5, 1),
                initrd.program("bin/busybox", busybox),
                initrd.program("init", INIT.encode()),
                initrd.program("driver.py", DRIVER.read_bytes()),
            ]
        )
    )


class GuestError(Exception):
    """Code failed in the guest; the text is its traceback."""


class Guest:
    """One machine. `server` is the file server of its /usr."""

    def __init__(self, kernel: Path, directory: Path, server: virtiofsd.Server | None = None) -> None:
        self.program = server or virtiofsd.find_server()
        archive = directory / "initrd"
        write_initrd(archive)
        self.servers: list[virtiofsd.FileServer] = []
        self._ports = iter(range(PORTS))
        self._rest = b""
        self.identity = Identity.take()
        program = jail.find_program("qemu-system-x86_64")
        self.qmp, qmp = socket.socketpair()
        self.port, port = socket.socketpair()
        self._console, console = os.pipe()
        with open(kernel, "rb") as image, open(archive, "rb") as first:
            memory = os.memfd_create("guest")
            os.ftruncate(memory, MEMORY)
            places = {
                1: console, 2: console, 3: qmp.fileno(), 4: port.fileno(), 6: memory, 7: image.fileno(), 8: first.fileno(),
            }  # fmt: skip
            self.qemu = jail.launch_jailed(
                jail.qemu_jail(program, self.identity.uid, largest_file=0), self._arguments(program.path), places
            )
        os.close(memory)
        os.close(console)
        for ours in (qmp, port):
            ours.close()
        self._command("qmp_capabilities")
        self.plug(virtiofsd.FileServer.start(usr_tree(), self.program), "usr")
        assert self._answer(180) == "ready"  # under emulation, on a busy host

    @staticmethod
    def _arguments(qemu: str) -> list[str]:
        hertz = next(line for line in Path("/proc/cpuinfo").read_text().splitlines() if line.startswith("cpu MHz"))
        khz = int(float(hertz.split(":")[1]) * 1000)
        words = f"console=ttyS0 quiet reboot=t panic=-1 tsc=reliable no_timer_check tsc_early_khz={khz} lpj={khz * 10}"
        ports = []
        for number in range(PORTS):
            ports += [
                "-device",
                f"pcie-root-port,id=root{number},chassis={number + 1},slot={number + 1},addr={4 + number}",
            ]
        return [
            qemu, "-M", "q35,memory-backend=m,smm=off,sata=off,smbus=off,usb=off,vmport=off,pic=off,pit=off",
            "-accel", "tcg", "-cpu", "max", "-smp", "1", "-m", f"size={MEMORY >> 20}m",
            "-object", f"memory-backend-file,id=m,size={MEMORY},mem-path=/proc/self/fd/6,share=on,prealloc=off",
            "-nodefaults", "-no-user-config", "-display", "none", "-no-reboot", "-bios", "qboot.rom",
            "-sandbox", "on,obsolete=deny,elevateprivileges=deny,spawn=deny,resourcecontrol=deny",
            "-kernel", "/proc/self/fd/7", "-initrd", "/proc/self/fd/8", "-append", words,
            "-chardev", "socket,id=qmp,fd=3", "-mon", "chardev=qmp,mode=control", "-serial", "stdio",
            "-device", "virtio-serial-pci,disable-legacy=on,id=vs", "-chardev", "socket,id=a,fd=4",
            "-device", "virtserialport,bus=vs.0,chardev=a,name=agent.0", *ports,
        ]  # fmt: skip

    # -- the monitor ---------------------------------------------------------------------------------------------------

    def _command(self, name: str, arguments: dict[str, Any] | None = None, descriptor: int | None = None) -> Any:
        """Execute one QMP command, with a descriptor if one is given; return what it returns."""
        message = json.dumps({"execute": name, "arguments": arguments or {}, "id": name}).encode()
        numbers = array.array("i", [] if descriptor is None else [descriptor])
        self.qmp.sendmsg([message], [(socket.SOL_SOCKET, socket.SCM_RIGHTS, numbers)] if numbers else [])
        self.qmp.settimeout(20)
        text = b""
        while True:
            text += self.qmp.recv(65536)
            *lines, text = text.split(b"\n")
            for line in lines:
                answer = json.loads(line)
                if answer.get("id") == name:
                    assert "return" in answer, answer
                    return answer["return"]

    def plug(self, server: virtiofsd.FileServer, tag: str) -> None:
        """Plug a file server's file system in."""
        number = next(self._ports)
        name = f"fs{number}"
        self.servers.append(server)
        self._command("getfd", {"fdname": name}, server.socket.fileno())
        data = {"addr": {"type": "fd", "data": {"str": name}}, "server": False}
        self._command("chardev-add", {"id": name, "backend": {"type": "socket", "data": data}})
        self._command(
            "device_add",
            {"driver": "vhost-user-fs-pci", "id": f"d{name}", "bus": f"root{number}", "chardev": name, "tag": tag},
        )

    def share(self, planned: tree.Tree, tag: str, cache: str = virtiofsd.DEFAULT_CACHE) -> virtiofsd.FileServer:
        """Serve a tree, and mount it at /mnt/TAG in the guest."""
        server = virtiofsd.FileServer.start(planned, self.program, cache=cache)
        self.plug(server, tag)
        self.run(
            f"""
os.makedirs("/mnt/{tag}", exist_ok=True)
for _ in range(200):
    if not attempt(mount, "{tag}", "/mnt/{tag}", "virtiofs"):
        break
    time.sleep(0.05)
else:
    raise TimeoutError("the file system has not appeared")
"""
        )
        return server

    # -- what it is asked to do ----------------------------------------------------------------------------------------

    def run(self, code: str, timeout: float = 60) -> Any:
        """Execute Python code in the guest, as its root; return what it leaves in `result`, as JSON takes it."""
        self.port.sendall(json.dumps(code).encode() + b"\n")
        return self._answer(timeout)

    def value(self, expression: str) -> Any:
        """Return what an expression is in the guest."""
        return self.run(f"result = {expression}")

    def _answer(self, timeout: float) -> Any:
        deadline = time.monotonic() + timeout
        while b"\n" not in self._rest:
            ready = select.select([self.port, self.qemu.pidfd], [], [], max(0, deadline - time.monotonic()))[0]
            assert self.qemu.pidfd not in ready, f"qemu has ended: {self.console()}"
            assert ready, f"the guest has not answered for {timeout} s: {self.console()}"
            self._rest += self.port.recv(65536)
        line, _, self._rest = self._rest.partition(b"\n")
        answer = json.loads(line)
        if "error" in answer:
            raise GuestError(answer["error"])
        return answer["value"]

    def console(self) -> str:
        """Return what console and QEMU have said since the last time."""
        os.set_blocking(self._console, False)
        try:
            return os.read(self._console, 65536).decode(errors="replace")
        except BlockingIOError:
            return ""

    def close(self) -> None:
        self.qemu.close()
        for server in self.servers:
            server.close()
        self.qmp.close()
        self.port.close()
        os.close(self._console)
        self.identity.close()


def guest_kernel() -> Path:
    """Return the kernel of the tests' image, or the one that PYSANDBOX_TEST_KERNEL names; skip without any."""
    from pysandbox.errors import SandboxError
    from pysandbox_microvm.image import find_image

    named = os.environ.get("PYSANDBOX_TEST_KERNEL")
    if named:
        return Path(named)
    try:
        return Path(find_image({"directory": str(CACHE)}).kernel)
    except SandboxError as missing:
        missed = f"requires a guest kernel: {missing}"
        pytest.fail(missed) if "CI" in os.environ else pytest.skip(missed)
