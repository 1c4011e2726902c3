"""A headless browser with a profile of its own and no way to any network."""

from __future__ import annotations

import os
import subprocess
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from pathlib import Path

ARGUMENTS = [
    "--headless", "--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage", "--no-first-run", "--disable-extensions",
    "--host-resolver-rules=MAP * ~NOTFOUND", "--proxy-server=127.0.0.1:9", "--hide-scrollbars",
    "--virtual-time-budget=10000", "--window-size=1280,2400",
]  # fmt: skip


def _browse(page: Path, profile: Path, *more: str) -> str:
    argv = ["chromium", *ARGUMENTS, f"--user-data-dir={profile}", *more, f"file://{page}"]
    environment = {"PATH": os.defpath, "HOME": str(profile), "LC_ALL": "C.UTF-8"}
    done = subprocess.run(argv, env=environment, capture_output=True, text=True, timeout=90, check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout


def dump(page: Path, profile: Path) -> str:
    """Return the document as it is after its scripts have run."""
    return _browse(page, profile, "--dump-dom")


def picture(page: Path, profile: Path, target: Path) -> bytes:
    """Return the page as a PNG image."""
    _browse(page, profile, f"--screenshot={target}")
    return target.read_bytes()
