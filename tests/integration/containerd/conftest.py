"""`containerd`: our containerd with the image loaded; the test's containers are removed after it."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest
from daemon import image

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from daemon.containerd import Containerd


@pytest.fixture(scope="session")
def loaded_containerd(
    containerd_daemon: Containerd, layer: Path, tmp_path_factory: pytest.TempPathFactory
) -> Containerd:
    archive = tmp_path_factory.mktemp("oci") / "image.tar"
    image.oci_archive(layer, archive)
    containerd_daemon.ok("image", "import", str(archive))
    return containerd_daemon


@pytest.fixture
def containerd(loaded_containerd: Containerd) -> Iterator[Containerd]:
    yield loaded_containerd
    loaded_containerd.remove_containers()
