"""containerd itself, by ctr, with our shim."""

from __future__ import annotations

import os
import shutil
import signal
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from daemon import image
from daemon.process import running
from integration.shim.conftest import eventually

if TYPE_CHECKING:
    from collections.abc import Iterator

    from daemon.containerd import Containerd


class Ctr:
    """ctr with our shim as the runtime."""

    def __init__(self, containerd: Containerd, program: Path) -> None:
        self.containerd, self.program = containerd, program

    def run(
        self, name: str, *command: str, options: tuple[str, ...] = ("--rm",), stdin: str | None = None
    ) -> tuple[int, str, str]:
        self.containerd.containers.append(name)
        done = self.containerd("run", *options, "--runtime", str(self.program), image.NAME, name, *command, stdin=stdin)
        return done.returncode, done.stdout, done.stderr


@pytest.fixture
def ctr(containerd_daemon: Containerd, layer: Path, tmp_path: Path, shim_program: Path) -> Iterator[Ctr]:
    archive = tmp_path / "image.tar"
    image.oci_archive(layer, archive)
    containerd_daemon.ok("image", "import", str(archive))
    yield Ctr(containerd_daemon, shim_program)
    containerd_daemon.remove_containers()
    shutil.rmtree(f"/run/pysandbox-containerd/{containerd_daemon.namespace}", ignore_errors=True)


def test_run(ctr: Ctr) -> None:
    assert ctr.run("web", "sh", "-c", "echo out; echo err >&2; exit 7") == (7, "out\n", "err\n")


def test_input_reaches_the_program_and_ends(ctr: Ctr) -> None:
    assert ctr.run("web", "cat", stdin="some\nlines\n")[:2] == (0, "some\nlines\n")


def test_a_detached_container(ctr: Ctr) -> None:
    containerd = ctr.containerd
    assert ctr.run("web", "sleep", "100", options=("--detach", "--null-io"))[0] == 0
    assert containerd.task("web")[1] == "RUNNING"
    done = containerd.exec("web", "sh", "-c", "echo in exec; exit 3")
    assert (done.returncode, done.stdout) == (3, "in exec\n")
    assert "pids.current" in containerd.ok("task", "metrics", "web")
    containerd.ok("task", "pause", "web")
    assert containerd.task("web")[1] == "PAUSED"
    containerd.ok("task", "resume", "web")
    containerd.ok("task", "kill", "--signal", "KILL", "web")

    eventually(lambda: containerd.task("web")[1] == "STOPPED")


def test_a_program_that_is_not_there_leaves_nothing(ctr: Ctr) -> None:
    code, _, error = ctr.run("web", "nosuchprogram")

    assert code != 0
    assert '"nosuchprogram": executable file not found' in error
    assert "web" not in ctr.containerd.ok("task", "list")


def test_containerd_cleans_up_after_a_killed_shim(ctr: Ctr) -> None:
    ctr.run("web", "sleep", "100", options=("--detach", "--null-io"))
    pid, _ = ctr.containerd.task("web")
    shim = int(Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[1])
    assert "containerd-shim-pysandbox-v2" in Path(f"/proc/{shim}/cmdline").read_text()
    os.kill(shim, signal.SIGKILL)

    eventually(lambda: not running(pid), 5)
    eventually(lambda: "web" not in ctr.containerd.ok("task", "list"), 5)
