"""What a test needs of the host: `requires("root", "cgroup v1 memory")` at its head skips it, saying why."""

from __future__ import annotations

import os
import platform
import shutil
from pathlib import Path

import pytest


def requires(*preconditions: str) -> None:
    """Skip the test, with the reason, unless all hold.

    `root` · `command NAME` · `kernel MAJOR.MINOR` · `cgroup v1 CONTROLLER` · `cgroup v2 CONTROLLER` · `file PATH` ·
    `capability NUMBER` · `systemd` · `apparmor`
    """
    for precondition in preconditions:
        kind, _, argument = precondition.partition(" ")
        reason = _CHECKS[kind](argument)
        if reason:
            pytest.skip(f"requires {precondition}: {reason}")


def _root(_: str) -> str:
    return "" if os.geteuid() == 0 else f"running as uid {os.geteuid()}"


def _command(name: str) -> str:
    return "" if shutil.which(name) else "not installed"


def _kernel(version: str) -> str:
    release = platform.release()
    have = tuple(int(part) for part in release.split("-")[0].split(".")[:2])
    want = tuple(int(part) for part in version.split("."))
    return "" if have >= want else f"this is {release}"


def _file(path: str) -> str:
    return "" if Path(path).exists() else "missing"


def _cgroup(argument: str) -> str:
    version, controller = argument.split()
    if version == "v1":
        return "" if Path("/sys/fs/cgroup", controller, "tasks").exists() else "not mounted"
    for mount in ("/sys/fs/cgroup", "/sys/fs/cgroup/unified"):
        controllers = Path(mount, "cgroup.controllers")
        if controllers.exists() and controller in controllers.read_text().split():
            return ""
    return "no cgroup2 mount has it"


def _capability(number: str) -> str:
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith("CapEff:") and int(line.split()[1], 16) >> int(number) & 1:
            return ""
    return "not in the effective set"


def _systemd(_: str) -> str:
    return (
        ""
        if Path("/run/systemd/system").is_dir()
        else "systemd does not run this host (the guest of `make soak` has it)"
    )


def _apparmor(_: str) -> str:
    enabled = Path("/sys/module/apparmor/parameters/enabled")
    on = enabled.exists() and enabled.read_text().startswith("Y")
    return "" if on else "this kernel has none (the guest of `make soak` has it)"


_CHECKS = {
    "root": _root,
    "command": _command,
    "kernel": _kernel,
    "file": _file,
    "cgroup": _cgroup,
    "capability": _capability,
    "systemd": _systemd,
    "apparmor": _apparmor,
}
