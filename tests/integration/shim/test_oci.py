"""containerd, our shim, and under it an installed runtime: `backend = "oci:runc"` in the settings."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from daemon import image
from integration.shim.conftest import eventually
from precondition import requires

if TYPE_CHECKING:
    from daemon.containerd import Containerd

RUNTIME = "io.containerd.pysandbox.v2"


@pytest.fixture
def options(tmp_path: Path) -> list[str]:
    """What has ctr's containers made by runc, under our shim."""
    requires("command runc")
    settings = tmp_path / "settings.toml"
    settings.write_text('backend = "oci:runc"\n')
    settings.chmod(0o600)
    return ["--runtime", RUNTIME, "--runtime-config-path", str(settings)]


def words(containerd: Containerd, options: list[str], *more: str) -> list[str]:
    containerd.containers.append("web")
    return ["run", *options, *more, image.NAME, "web"]


def test_exit_code_and_streams(containerd: Containerd, options: list[str]) -> None:
    done = containerd(*words(containerd, options, "--rm"), "sh", "-c", "cat; echo err >&2; exit 7", stdin="in\n")

    assert (done.returncode, done.stdout, done.stderr) == (7, "in\n", "err\n")


def test_a_life_in_the_background(containerd: Containerd, options: list[str]) -> None:
    containerd.ok(*words(containerd, options, "--detach", "--null-io"), "sleep", "100")
    pid, status = containerd.task("web")
    assert status == "RUNNING"
    assert Path(f"/proc/{pid}/comm").read_text() == "sleep\n"

    done = containerd.exec("web", "sh", "-c", "cat; exit 3", stdin="input\n")
    assert (done.returncode, done.stdout) == (3, "input\n")
    assert json.loads(containerd.ok("task", "metrics", "--format", "json", "web"))["pids"]["current"] == 1
    assert str(pid) in containerd.ok("task", "ps", "web")
    containerd.ok("task", "pause", "web")
    assert containerd.task("web")[1] == "PAUSED"
    containerd.ok("task", "resume", "web")

    containerd.ok("task", "kill", "--signal", "KILL", "web")
    eventually(lambda: containerd.task("web")[1] == "STOPPED")
    containerd("task", "delete", "web")  # it exits with the program's code
    assert not os.path.exists(f"/proc/{pid}")


def test_a_terminal(containerd: Containerd, options: list[str]) -> None:
    script = "test -t 0; read line; echo got $line; exit 6"
    with containerd.terminal(*words(containerd, options, "--rm", "--tty"), "sh", "-c", script) as terminal:
        terminal.type("words\n")
        terminal.expect("got words")

        assert terminal.wait() == 6


def test_a_program_that_is_not_there_leaves_nothing(containerd: Containerd, options: list[str]) -> None:
    done = containerd(*words(containerd, options, "--rm"), "nosuchprogram")

    assert done.returncode != 0
    assert '"nosuchprogram": executable file not found' in done.stderr
    assert "web" not in containerd.ok("task", "list")
