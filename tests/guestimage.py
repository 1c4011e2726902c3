"""The guest image that tests boot, and the settings of the microvm backend that go with it.

The image is built once and kept by content below ~/.cache/pysandbox; PYSANDBOX_TEST_KERNEL names a kernel that need not
be built. Templates are the session's own.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

if TYPE_CHECKING:
    from collections.abc import Mapping

CACHE = Path("~/.cache/pysandbox/microvm").expanduser()


class Quiet:
    """Nobody watches a build of the tests."""

    def step(self, text: str) -> None:
        print(text)

    def share(self, done: int, total: int) -> None:
        pass


def settings(directory: Path) -> Mapping[str, Any]:
    """Return settings with an image of this checkout's agent, and `directory` for templates; skip where none can be."""
    from pysandbox.errors import SandboxError
    from pysandbox_microvm.provision import find_qemu
    from pysandbox_microvm.store import Store
    from pysandbox_microvm.virtiofsd import find_server

    found: dict[str, Any] = {"directory": str(CACHE)}
    kernel = os.environ.get("PYSANDBOX_TEST_KERNEL")
    if kernel:
        found["kernel"] = kernel
    try:
        find_qemu(found)
        find_server()
        CACHE.mkdir(mode=0o700, parents=True, exist_ok=True)
        Store(found).build(Quiet())
    except SandboxError as missing:
        pytest.skip(f"no microVMs here: {missing}")
    directory.mkdir(mode=0o700, exist_ok=True)
    return {**found, "images": str(CACHE / "images"), "directory": str(directory)}
