"""One list of tests for docker and podman: `engine` is each of them in turn."""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from daemon.engine import Engine, start_docker, start_podman
from precondition import requires

if TYPE_CHECKING:
    from collections.abc import Iterator

    from daemon.containerd import Containerd


@pytest.fixture(scope="session", params=["docker", "podman"])
def started_engine(request: pytest.FixtureRequest, runtime_program: Path, layer: Path) -> Iterator[Engine]:
    directory = Path(tempfile.mkdtemp(prefix="psb-"))
    if request.param == "docker":
        requires("root", "command dockerd", "command docker")
        containerd: Containerd = request.getfixturevalue("containerd_daemon")
        started = start_docker(directory, runtime_program, containerd.address)
    else:
        requires("root", "command podman", "command conmon")
        started = start_podman(directory, request.getfixturevalue("told_program"))
    started.import_image(layer)
    yield started
    started.close()


@pytest.fixture
def engine(started_engine: Engine) -> Iterator[Engine]:
    """A running engine. Its containers are removed after the test."""
    yield started_engine
    started_engine.remove_containers()
