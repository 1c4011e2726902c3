"""The runtime as a single program, and images: what docker, podman and containerd are given.

`--runtime PATH`, or PYSANDBOX_TEST_RUNTIME in the environment, puts another runtime in ours's place: every test here has
to pass with runc first.
"""

from __future__ import annotations

import os
import shlex
import shutil
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from daemon import image
from daemon.containerd import Containerd
from precondition import requires

if TYPE_CHECKING:
    from collections.abc import Iterator


@pytest.fixture(scope="session")
def runtime_program(request: pytest.FixtureRequest) -> Path:
    """The path of the runtime under test."""
    chosen = request.config.getoption("--runtime") or os.environ.get("PYSANDBOX_TEST_RUNTIME")
    if chosen is None:
        return Path(request.getfixturevalue("launcher"))
    found = shutil.which(chosen)
    assert found, f"{chosen} is not a program"
    return Path(found).resolve()


@pytest.fixture(scope="session")
def told_program(runtime_program: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The same for who does not pass an environment on: conmon starts a runtime with one of its own making."""
    program = tmp_path_factory.mktemp("told") / runtime_program.name
    warm = os.environ["PYSANDBOX_WARM"]
    program.write_text(f'#!/bin/sh\nPYSANDBOX_WARM={shlex.quote(warm)} exec {shlex.quote(str(runtime_program))} "$@"\n')
    program.chmod(0o755)
    return program


@pytest.fixture(scope="session")
def layer(busybox_rootfs: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The root file system of every image, as a tar archive."""
    archive = tmp_path_factory.mktemp("image") / "layer.tar"
    image.layer(busybox_rootfs, archive)
    return archive


def _short_directory() -> Path:
    """Make a directory whose sockets stay below the 108 bytes of a sun_path; pytest's own are too deep."""
    directory = Path(tempfile.mkdtemp(prefix="psb-"))
    directory.chmod(0o711)  # root of a user namespace has to reach its root file system
    return directory


@pytest.fixture(scope="session")
def containerd_daemon(runtime_program: Path) -> Iterator[Containerd]:
    """A containerd of our own, for ctr and for dockerd."""
    requires("root", "command containerd", "command ctr", "command containerd-shim-runc-v2")
    daemon = Containerd(_short_directory(), runtime_program)
    yield daemon
    daemon.close()
