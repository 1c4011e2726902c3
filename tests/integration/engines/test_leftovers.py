"""After `rm` nothing of a container is left on the host."""

from __future__ import annotations

import os
import signal
from typing import TYPE_CHECKING

import pytest
from daemon.engine import gone
from daemon.process import cgroups_named, running
from runtime import eventually

if TYPE_CHECKING:
    from daemon.engine import Engine


def test_a_running_container_has_cgroups_and_a_removed_one_has_none(engine: Engine) -> None:
    container = engine.start(["sleep", "1000"], "--memory", "32m")
    engine.ok("exec", "--detach", container, "sleep", "2000")
    pid = engine.pid(container)
    assert cgroups_named(engine.cgroup_parent)

    engine.remove_containers()

    eventually(lambda: not running(pid), "its init has ended")
    gone(engine)


@pytest.mark.parametrize("command", ["no-such-program", "/etc/passwd", "true"])
def test_one_that_failed_or_ended_by_itself_leaves_nothing(engine: Engine, command: str) -> None:
    engine.run([command], "--volume", "/tmp:/host:ro")

    engine.remove_containers()

    gone(engine)


def test_one_whose_init_was_killed_behind_the_engine_s_back(engine: Engine) -> None:
    container = engine.start(["sleep", "1000"])
    os.kill(engine.pid(container), signal.SIGKILL)

    assert engine.wait(container) == 137
    engine.remove_containers()
    gone(engine)
