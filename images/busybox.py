"""A root file system made of one static busybox: what the demo and the tests run in."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

DIRECTORIES = ("bin", "dev", "etc", "home", "proc", "root", "run", "sbin", "sys", "tmp", "usr/bin", "usr/sbin", "var")

USERS = """\
root:x:0:0:root:/root:/bin/sh
daemon:x:1:1:daemon:/:/bin/false
user:x:1000:1000:user:/home:/bin/sh
"""

GROUPS = """\
root:x:0:
daemon:x:1:
user:x:1000:
"""


def find_busybox() -> str:
    """Return the path of a busybox on this host; raise FileNotFoundError naming the package that holds it."""
    found = shutil.which("busybox", path="/bin:/usr/bin:/usr/local/bin")
    if found is None:
        raise FileNotFoundError("no busybox in /bin, /usr/bin, /usr/local/bin (Debian: apt-get install busybox-static)")
    return found


def build(rootfs: Path) -> None:
    """Make the root file system in the new directory `rootfs`: busybox, a link for each of its commands, two users."""
    for directory in DIRECTORIES:
        (rootfs / directory).mkdir(parents=True)
    (rootfs / "tmp").chmod(0o1777)
    (rootfs / "root").chmod(0o700)
    (rootfs / "etc/passwd").write_text(USERS)
    (rootfs / "etc/group").write_text(GROUPS)
    busybox = find_busybox()
    shutil.copy2(busybox, rootfs / "bin/busybox")
    for command in _commands(busybox):
        link = rootfs / command
        if not link.is_symlink() and not link.exists():
            link.symlink_to(os.path.relpath(rootfs / "bin/busybox", link.parent))


def _commands(busybox: str) -> list[str]:
    """Return where busybox wants its commands: `bin/ls`, `usr/bin/env`, …"""
    listed = subprocess.run([busybox, "--list-full"], stdout=subprocess.PIPE, text=True, check=True)
    return [line for line in listed.stdout.split() if line.startswith(("bin/", "sbin/", "usr/bin/", "usr/sbin/"))]


if __name__ == "__main__":
    build(Path(sys.argv[1]))
