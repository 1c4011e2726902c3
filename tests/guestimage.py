"""The guest image that tests boot, and the settings of the microvm backend that go with it.

The image is built once and kept by content below ~/.cache/pysandbox (`make test` does it before pytest starts);
PYSANDBOX_TEST_KERNEL names a kernel that need not be built. Templates are the session's own.
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
    from pysandbox.errors import NotFound, SandboxError
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
        store = Store(found)
        if not store.is_compiled():  # minutes, and a test's own time is limited
            raise NotFound(f"no kernel yet; remedy: make test, or pysandbox image build --directory {CACHE}")
        image = store.build(Quiet())
    except SandboxError as missing:
        missed = f"no microVMs here: {missing}"
        pytest.fail(missed) if "CI" in os.environ else pytest.skip(missed)
    _link(Path(image.kernel).parent, directory / "images")
    return {"directory": str(directory)}


def _link(image: Path, images: Path) -> None:
    """Make an image the current one of a session's own directory: another session may build, and remove, in the cache."""
    own = images / image.name
    own.mkdir(mode=0o700, parents=True)
    images.chmod(0o700)
    for path in image.iterdir():
        os.link(path, own / path.name)
    (images / "current").symlink_to(image.name)
