"""What of this host the backend would use, each piece with its version, and the remedy where it is missing."""

from __future__ import annotations

import os
import subprocess

from pysandbox.backend import Finding
from pysandbox.errors import SandboxError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping
    from typing import Any

MIB = 1024 * 1024
#: Bytes: two templates of the smallest size class, and QEMU's and virtiofsd's messages.
LEAST_SPACE = 256 * MIB
#: Seconds for a program to tell its version.
VERSION_LIMIT = 10.0
#: The oldest QEMU whose machines this was tested with.
LEAST_QEMU = (7, 2)


def findings(settings: Mapping[str, Any]) -> list[Finding]:
    """Return all findings; changes nothing, boots nothing."""
    looks: dict[str, Callable[[], Iterator[Finding]]] = {
        "settings": lambda: _settings(settings),
        "user": _user,
        "accelerator": lambda: _accelerator(settings),
        "qemu": lambda: _qemu(settings),
        "qemu.qmp": _client,
        "virtiofsd": lambda: _file_server(settings),
        "image": lambda: _image(settings),
        "directory": lambda: _directory(settings),
        "machine": lambda: _memory(settings),
        "network": _network,
    }
    found: list[Finding] = []
    for subject, look in looks.items():
        try:
            found += look()
        except (SandboxError, OSError, subprocess.SubprocessError) as error:
            what, _, remedy = str(error).partition("; remedy: ")
            found.append(Finding("problem", subject, what, remedy))
    return found


def _settings(settings: Mapping[str, Any]) -> Iterator[Finding]:
    from pysandbox_microvm.settings import check_settings

    check_settings(settings)
    said = ", ".join(f"{name} = {value!r}" for name, value in settings.items())
    yield Finding("ok", "settings", said or "none: all as it comes")


def _user() -> Iterator[Finding]:
    if os.geteuid() != 0:
        yield Finding("problem", "user", f"uid {os.geteuid()}, not root", "run as root: rootless use is not supported")


def _accelerator(settings: Mapping[str, Any]) -> Iterator[Finding]:
    from pysandbox_microvm.accelerator import DEVICE, TCG, read_processor

    processor = read_processor()
    wanted = settings.get("accelerator", "auto")
    virtual = sorted(processor.flags & {"vmx", "svm"})
    if wanted == TCG:
        yield _emulated("the setting accelerator says so")
    elif not virtual and wanted != "kvm":
        yield _emulated("the processor offers no virtualisation: neither vmx nor svm")
    elif not os.path.exists(DEVICE):
        if wanted == "kvm":
            yield Finding("problem", "accelerator", f"{DEVICE}: there is none", 'the setting accelerator = "auto"')
        else:
            yield _emulated(f"{DEVICE}: there is none")
    else:
        hint = virtual[0] if virtual else "without vmx and svm"
        yield Finding("ok", "accelerator", f"KVM ({hint}), if the trial boot of the first machine proves it")


def _emulated(reason: str) -> Finding:
    return Finding("note", "accelerator", f"emulation (tcg), of which QEMU promises no isolation: {reason}")


def _qemu(settings: Mapping[str, Any]) -> Iterator[Finding]:
    from pysandbox_microvm.provision import find_qemu

    path = find_qemu(settings)
    text = _said([path, "--version"])
    version = next((word for word in text.split() if word[:1].isdigit()), "")
    if tuple(int(part) for part in version.split(".")[:2] if part.isdigit()) < LEAST_QEMU:
        wanted = ".".join(map(str, LEAST_QEMU))
        yield Finding("problem", "qemu", f"{path}: {version or text[:80]!r} is older than {wanted}", "a newer QEMU")
    else:
        yield Finding("ok", "qemu", f"{version} ({path})")


def _said(argv: list[str]) -> str:
    """Return what a program says of itself. Raises OSError, SubprocessError."""
    environment = {"PATH": "/usr/sbin:/usr/bin:/sbin:/bin", "LC_ALL": "C"}
    done = subprocess.run(argv, capture_output=True, timeout=VERSION_LIMIT, env=environment, check=True)
    return done.stdout[:4096].decode("utf-8", "replace")


def _client() -> Iterator[Finding]:
    from importlib.metadata import PackageNotFoundError, version

    try:
        yield Finding("ok", "qemu.qmp", version("qemu.qmp"))
    except PackageNotFoundError:
        yield Finding("problem", "qemu.qmp", "this Python has none", "pip install 'pysandbox[microvm]'")


def _file_server(settings: Mapping[str, Any]) -> Iterator[Finding]:
    from pysandbox_microvm.virtiofsd import find_server

    server = find_server(settings.get("virtiofsd", ""))
    kind = "virtiofsd's own" if server.rust else "QEMU's"
    yield Finding("ok", "virtiofsd", f"{server.program.path} ({kind})")


def _image(settings: Mapping[str, Any]) -> Iterator[Finding]:
    from pysandbox_microvm.image import find_image

    image = find_image(settings)
    image.verify()
    yield Finding("ok", "image", f"Linux {image.release}, digest {image.digest[:12]} ({os.path.dirname(image.initrd)})")


def _directory(settings: Mapping[str, Any]) -> Iterator[Finding]:
    from pysandbox_microvm.image import directory_of

    path = directory_of(settings)
    there = path
    while not os.path.isdir(there):
        there = os.path.dirname(there)
    status = os.statvfs(there)
    free = status.f_bavail * status.f_frsize
    if free < LEAST_SPACE:
        yield Finding("problem", "directory", f"{path}: {free // MIB} MiB free", "make room, or the setting directory")
    elif not os.access(there, os.W_OK):
        yield Finding("problem", "directory", f"{there}: cannot be written", "the setting directory")
    else:
        yield Finding("ok", "directory", f"{path}: {free // MIB} MiB free for images and templates")


def _memory(settings: Mapping[str, Any]) -> Iterator[Finding]:
    from pysandbox.environment import memory
    from pysandbox_microvm.settings import overhead
    from pysandbox_microvm.size import DEFAULT_MEMORY, LEAST_MEMORY, setting

    own = overhead(settings)
    wanted = setting(settings, "memory", DEFAULT_MEMORY // MIB, 1 << 24) * MIB + own
    available = memory("MemAvailable")
    verdict = "ok" if available >= wanted else "note" if available >= LEAST_MEMORY + own else "problem"
    text = f"{available // MIB} MiB available, of which one whose spec says nothing takes up to {wanted // MIB} MiB"
    yield Finding(verdict, "machine", text, "" if verdict == "ok" else "free memory, or the setting memory")


def _network() -> Iterator[Finding]:
    if os.path.exists("/dev/net/tun"):
        yield Finding("ok", "network", "/dev/net/tun")
    else:
        yield Finding("note", "network", "no /dev/net/tun: machines have loopback only", "modprobe tun")
