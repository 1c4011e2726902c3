"""`stop`, `kill`, `pause`, `restart`: signals and the freezer."""

from __future__ import annotations

import time
from pathlib import Path
from typing import TYPE_CHECKING

from daemon.process import running
from runtime import eventually

if TYPE_CHECKING:
    from daemon.engine import Engine

OBEYS_TERM = ["sh", "-c", "trap 'exit 9' TERM; touch /tmp/ready; while :; do sleep 0.1; done"]
IGNORES_TERM = ["sh", "-c", "trap '' TERM; touch /tmp/ready; while :; do sleep 0.1; done"]


def _ready(engine: Engine, container: str) -> None:
    eventually(lambda: engine("exec", container, "test", "-e", "/tmp/ready").returncode == 0, "its trap is set")


def test_stop_sends_sigterm(engine: Engine) -> None:
    container = engine.start(OBEYS_TERM)
    _ready(engine, container)

    engine.ok("stop", "--time", "20", container)

    assert engine.inspect(container, "State.ExitCode") == "9"


def test_stop_kills_what_does_not_obey(engine: Engine) -> None:
    container = engine.start(IGNORES_TERM)
    _ready(engine, container)

    engine.ok("stop", "--time", "1", container)

    assert engine.inspect(container, "State.ExitCode") == "137"


def test_kill_sends_the_named_signal(engine: Engine) -> None:
    container = engine.start(["sh", "-c", "trap 'exit 11' USR1; touch /tmp/ready; while :; do sleep 0.1; done"])
    _ready(engine, container)

    engine.ok("kill", "--signal", "USR1", container)

    assert engine.wait(container) == 11


def test_kill_takes_every_process_of_the_container(engine: Engine) -> None:
    container = engine.start(["sleep", "1000"])
    engine.ok("exec", "--detach", container, "sleep", "2000")
    pids = _pids(engine, container)
    assert len(pids) == 2

    engine.ok("kill", container)

    assert engine.wait(container) == 137
    eventually(lambda: not any(running(pid) for pid in pids), "all have ended")


def _pids(engine: Engine, container: str) -> list[int]:
    """The host's pids of a container, by its cgroup."""
    pid = engine.pid(container)
    lines = Path(f"/proc/{pid}/cgroup").read_text().splitlines()
    line = next(line for line in lines if ":pids:" in line or line.startswith("0::"))
    hierarchy, _, path = line.split(":", 2)
    top = "/sys/fs/cgroup" if hierarchy == "0" else "/sys/fs/cgroup/pids"
    return [int(word) for word in Path(f"{top}{path}/cgroup.procs").read_text().split()]


def test_pause_freezes_and_unpause_thaws(engine: Engine) -> None:
    container = engine.start(["sh", "-c", "while :; do echo x; sleep 0.02; done"])
    engine.ok("pause", container)
    assert engine.inspect(container, "State.Status") == "paused"
    frozen = len(engine.ok("logs", container))
    time.sleep(0.3)
    assert len(engine.ok("logs", container)) == frozen

    engine.ok("unpause", container)

    assert engine.inspect(container, "State.Status") == "running"
    eventually(lambda: len(engine.ok("logs", container)) > frozen, "it runs on")


def test_a_paused_container_can_be_killed(engine: Engine) -> None:
    # podman refuses to kill what is paused; removing by force is what both do.
    container = engine.start(["sleep", "1000"])
    pid = engine.pid(container)
    engine.ok("pause", container)

    engine.ok("rm", "--force", container)

    assert not running(pid)


def test_restart_gives_a_new_init_with_the_same_files(engine: Engine) -> None:
    container = engine.start(["sh", "-c", "echo run >> /tmp/runs; exec sleep 1000"])
    eventually(lambda: engine("exec", container, "test", "-e", "/tmp/runs").returncode == 0, "it ran once")
    first = engine.pid(container)

    engine.ok("restart", "--time", "0", container)

    assert engine.pid(container) != first
    eventually(lambda: engine.ok("exec", container, "cat", "/tmp/runs").split() == ["run"] * 2, "it ran twice")
