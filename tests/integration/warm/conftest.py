"""`sides`: one installation of the tests' own, with a server of its own, to be called cold and warm in turn."""

from __future__ import annotations

import os
import shutil
import tempfile
import uuid
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from precondition import requires
from runtime import eventually
from server import Servers, warm_up
from side import Sides, hierarchies

if TYPE_CHECKING:
    from collections.abc import Iterator

REPOSITORY = Path(__file__).parents[3]


@pytest.fixture(scope="session")
def warm_installation(busybox_rootfs: Path, launcher: Path) -> Iterator[Sides]:
    """A copy of all that `make install` would copy: nobody changes it while its server runs."""
    requires("root", "kernel 6.5")
    top = Path(tempfile.mkdtemp(prefix="psb-equal-"))
    top.chmod(0o755)
    ignored = shutil.ignore_patterns("__pycache__")
    shutil.copytree(REPOSITORY / "runtime_api/pysandbox", top / "lib/pysandbox", ignore=ignored)
    shutil.copytree(REPOSITORY / "backends/pysandbox_namespaces", top / "lib/pysandbox_namespaces", ignore=ignored)
    executor = REPOSITORY / "guest_agent/target/release/pysandbox-executor"
    (top / "lib/pysandbox/libexec").mkdir(exist_ok=True)
    shutil.copy(executor, top / "lib/pysandbox/libexec")
    (top / "bin").mkdir()
    shutil.copy(launcher, top / "bin/pysandbox")
    script = launcher.with_name("pysandbox-cold").read_text()
    script = script.replace(f'"{REPOSITORY}/runtime_api", "{REPOSITORY}/backends"', f'"{top}/lib"')
    assert str(REPOSITORY / "runtime_api") not in script
    (top / "bin/pysandbox-cold").write_text(script)
    (top / "bin/pysandbox-cold").chmod(0o755)
    (top / "server").mkdir(mode=0o700)
    servers = Servers(top / "server")
    warm_up(top / "bin/pysandbox", servers)
    yield Sides(top / "bin/pysandbox", servers, busybox_rootfs)
    servers.stop()
    shutil.rmtree(top)


@pytest.fixture
def sides(warm_installation: Sides) -> Sides:
    """The installation, with its server running."""
    warm_installation.settle()
    return warm_installation


@pytest.fixture
def own_cgroup() -> Iterator[str]:
    """A cgroup of the test's own in every hierarchy; its path below each."""
    requires("root")
    name = f"psb-test-{uuid.uuid4().hex[:8]}"
    made = []
    for top in hierarchies():
        (top / name).mkdir()
        for inherited in ("cpuset.cpus", "cpuset.mems"):
            if (top / name / inherited).exists() and top != Path("/sys/fs/cgroup"):
                (top / name / inherited).write_text((top / inherited).read_text())
        made.append(top / name)
    yield name
    for directory in made:
        for below, _, _ in os.walk(directory, topdown=False):
            eventually(partial(_remove, below), f"{below} is removed")


def _remove(directory: str) -> bool:
    try:
        os.rmdir(directory)
    except OSError:
        return not os.path.exists(directory)
    return True
