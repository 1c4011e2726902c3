"""A small real bundle: busybox as the root file system, the spec that `runc spec` would write."""

from __future__ import annotations

import copy
import json
import os
import shutil
from pathlib import Path
from typing import Any

APPLETS = (
    "awk cat chmod cp cut dd echo env false find grep head hostname id kill ln ls mkdir mknod mount mv ps pwd readlink "
    "rm sed seq sh sleep stat sync tail tar test touch true umount uname wc"
)
DIRECTORIES = "bin dev etc home proc root run sys tmp usr var"

CAPABILITIES = (
    "CAP_CHOWN CAP_DAC_OVERRIDE CAP_FSETID CAP_FOWNER CAP_MKNOD CAP_NET_RAW CAP_SETGID CAP_SETUID CAP_SETFCAP "
    "CAP_SETPCAP CAP_NET_BIND_SERVICE CAP_SYS_CHROOT CAP_KILL CAP_AUDIT_WRITE"
).split()

MOUNTS: list[dict[str, Any]] = [
    {"destination": "/proc", "type": "proc", "source": "proc"},
    {"destination": "/dev", "type": "tmpfs", "source": "tmpfs", "options": ["nosuid", "strictatime", "mode=755", "size=65536k"]},
    {"destination": "/dev/pts", "type": "devpts", "source": "devpts", "options": ["nosuid", "noexec", "newinstance", "ptmxmode=0666", "mode=0620"]},
    {"destination": "/dev/shm", "type": "tmpfs", "source": "shm", "options": ["nosuid", "noexec", "nodev", "mode=1777", "size=65536k"]},
    {"destination": "/dev/mqueue", "type": "mqueue", "source": "mqueue", "options": ["nosuid", "noexec", "nodev"]},
    {"destination": "/sys", "type": "sysfs", "source": "sysfs", "options": ["nosuid", "noexec", "nodev", "ro"]},
]  # fmt: skip

MASKED = (
    "/proc/acpi /proc/asound /proc/kcore /proc/keys /proc/latency_stats /proc/timer_list /proc/timer_stats "
    "/proc/sched_debug /sys/firmware /proc/scsi"
).split()
READONLY = "/proc/bus /proc/fs /proc/irq /proc/sys /proc/sysrq-trigger".split()


def spec() -> dict[str, Any]:
    """The default spec: five new namespaces, docker's capabilities, masks, no seccomp."""
    return {
        "ociVersion": "1.0.2",
        "process": {
            "terminal": False,
            "user": {"uid": 0, "gid": 0},
            "args": ["/bin/true"],
            "env": ["PATH=/bin"],
            "cwd": "/",
            "capabilities": {kind: list(CAPABILITIES) for kind in ("bounding", "effective", "permitted")},
            "noNewPrivileges": True,
        },
        "root": {"path": "rootfs"},
        "hostname": "attacked",
        "mounts": copy.deepcopy(MOUNTS),
        "linux": {
            "namespaces": [{"type": kind} for kind in ("pid", "network", "ipc", "uts", "mount")],
            "maskedPaths": list(MASKED),
            "readonlyPaths": list(READONLY),
        },
    }


def make_rootfs(path: Path) -> None:
    """A root file system that holds busybox, its applets and the usual empty directories."""
    for name in DIRECTORIES.split():
        (path / name).mkdir(parents=True)
    (path / "tmp").chmod(0o1777)
    busybox = shutil.which("busybox")
    if busybox is None:
        raise RuntimeError("busybox (Debian package busybox-static) is not installed")
    shutil.copy(busybox, path / "bin/busybox")
    for applet in APPLETS.split():
        (path / "bin" / applet).symlink_to("busybox")
    (path / "etc/passwd").write_text("root:x:0:0::/root:/bin/sh\nuser:x:1000:1000::/home:/bin/sh\n")
    (path / "etc/group").write_text("root:x:0:\nuser:x:1000:\n")


class Bundle:
    """A bundle directory; `spec` is written to config.json by each command that a Runtime runs with it."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.rootfs = path / "rootfs"
        self.spec: dict[str, Any] = spec()
        make_rootfs(self.rootfs)

    @property
    def process(self) -> dict[str, Any]:
        """`process` of the spec."""
        found: dict[str, Any] = self.spec["process"]
        return found

    @property
    def linux(self) -> dict[str, Any]:
        """`linux` of the spec."""
        found: dict[str, Any] = self.spec["linux"]
        return found

    @property
    def mounts(self) -> list[dict[str, Any]]:
        """`mounts` of the spec."""
        found: list[dict[str, Any]] = self.spec["mounts"]
        return found

    def runs(self, *args: str) -> Bundle:
        """Set the program."""
        self.process["args"] = list(args)
        return self

    def script(self, text: str) -> Bundle:
        """Make a shell script the program."""
        return self.runs("/bin/sh", "-c", text)

    def bind(self, source: Path, destination: str, *options: str) -> None:
        """Add a bind mount."""
        self.mounts.append(
            {"destination": destination, "type": "bind", "source": os.fspath(source), "options": ["rbind", *options]}
        )

    def without_mount(self, *destinations: str) -> None:
        """Drop the mounts at these destinations."""
        self.spec["mounts"] = [mount for mount in self.mounts if mount["destination"] not in destinations]

    def install(self, program: Path) -> str:
        """Copy a program into /bin; return its path inside."""
        shutil.copy(program, self.rootfs / "bin" / program.name)
        return f"/bin/{program.name}"

    def write(self) -> Path:
        """Write config.json from `spec`."""
        (self.path / "config.json").write_text(json.dumps(self.spec))
        return self.path
