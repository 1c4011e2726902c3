"""The QEMU of other Debian releases, each in a root directory of its own with all that it needs."""

from __future__ import annotations

import subprocess

import pytest
from daemon.release import Unavailable
from suiteroot import RELEASES as RELEASES
from suiteroot import root_of

from pysandbox.errors import SandboxError
from pysandbox_microvm.jail import Program, find_program

_PACKAGE = "qemu-system-x86"
_PROGRAM = "/usr/bin/qemu-system-x86_64"


def qemu_of(release: str) -> Program:
    """Return a release's QEMU; skip the test where it is not to be had."""
    try:
        if release == "installed":
            return find_program(_PROGRAM)
        return find_program(_PROGRAM, root=str(root_of(release, _PACKAGE, _PROGRAM)))
    except (Unavailable, SandboxError) as missing:
        pytest.skip(f"requires QEMU ({release}): {missing}")


def version_of(program: Program) -> tuple[int, ...]:
    """Ask a QEMU for its version, in its own root: `QEMU emulator version 10.0.2 (Debian …)`."""
    command = [_PROGRAM, "--version"] if program.root == "/" else ["chroot", program.root, _PROGRAM, "--version"]
    words = subprocess.run(command, check=True, capture_output=True, text=True, timeout=60).stdout.split()
    return tuple(int(part) for part in words[3].split(".")[:2])
