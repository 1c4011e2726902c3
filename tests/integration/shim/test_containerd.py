"""containerd itself, by ctr, with our shim."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from daemon import image
from daemon.containerd import Containerd
from daemon.process import Daemon, running
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


@pytest.fixture
def own_containerd(layer: Path, tmp_path: Path, shim_program: Path) -> Iterator[Ctr]:
    """A containerd that the test may kill."""
    directory = Path(tempfile.mkdtemp(prefix="psb-"))
    directory.chmod(0o711)
    containerd = Containerd(directory, Path("/usr/bin/false"))
    archive = tmp_path / "image.tar"
    image.oci_archive(layer, archive)
    containerd.ok("image", "import", str(archive))
    yield Ctr(containerd, shim_program)
    containerd.close()
    shutil.rmtree(f"/run/pysandbox-containerd/{containerd.namespace}", ignore_errors=True)


def test_tasks_survive_containerd_and_no_exit_is_lost(own_containerd: Ctr) -> None:
    containerd = own_containerd.containerd
    names = [f"live{number}" for number in range(4)]
    for name in names:
        own_containerd.run(name, "sleep", "100", options=("--detach", "--null-io"))
    own_containerd.run("ended", "sh", "-c", "sleep 1; exit 5", options=("--detach", "--null-io"))
    pids = {name: containerd.task(name)[0] for name in (*names, "ended")}
    containerd.daemon.process.kill()
    containerd.daemon.process.wait(10)
    eventually(lambda: not running(pids["ended"]))
    events = containerd.directory / "events"
    command = ["containerd", "--config", str(containerd.directory / "config.toml")]
    containerd.daemon = Daemon(
        command, containerd.directory / "log", lambda: containerd("version").returncode == 0, os.environ
    )
    with (
        events.open("wb") as output,
        subprocess.Popen(containerd._ctr(["events"]), stdout=output, stderr=subprocess.DEVNULL) as listening,
    ):
        assert {name: containerd.task(name) for name in names} == {name: (pids[name], "RUNNING") for name in names}
        assert containerd.task("ended") == (pids["ended"], "STOPPED")
        done = containerd("task", "delete", "ended")
        assert "exit with non-zero exit code 5" in done.stderr
        assert containerd.exec("live0", "sh", "-c", "exit 4").returncode == 4
        for name in names:
            containerd.ok("task", "kill", "--signal", "KILL", name)
        eventually(lambda: [containerd.task(name)[1] for name in names] == ["STOPPED"] * 4)
        eventually(lambda: all(f'"id":"{name}"' in events.read_text() for name in names))
        listening.terminate()
