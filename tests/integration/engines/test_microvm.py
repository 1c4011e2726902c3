"""Containers of docker and podman in virtual machines: what they do instead of what conftest's `MICROVM` lists."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

import pytest
from daemon.process import running
from runtime import eventually

if TYPE_CHECKING:
    from daemon.engine import Engine

pytestmark = pytest.mark.parametrize("started_engine", ["docker microvm", "podman microvm"], indirect=True)


def _limits(engine: Engine, container: str, *files: str) -> list[str]:
    # Without a cgroup namespace, as docker has it on hosts with version 1, a container sees where its own is.
    own = "/sys/fs/cgroup$(cut -d : -f 3 /proc/self/cgroup)"
    return engine.ok("exec", container, "sh", "-c", f"cd {own}; cat {' '.join(files)}").splitlines()


def test_the_kernel_is_the_guests_own(engine: Engine) -> None:
    assert engine.shell("uname -r") != os.uname().release


def test_limits_hold_in_the_guest(engine: Engine) -> None:
    container = engine.start(
        ["sleep", "1000"], "--memory", "32m", "--memory-swap", "32m", "--pids-limit", "20", "--cpus", "0.5"
    )

    files = ("memory.max", "pids.max", "cpu.max")
    assert _limits(engine, container, *files) == [str(32 << 20), "20", "50000 100000"]


def test_an_update_reaches_the_guest(engine: Engine) -> None:
    container = engine.start(["sleep", "1000"], "--memory", "32m", "--memory-swap", "32m", "--pids-limit", "20")

    engine.ok("update", "--memory", "64m", "--memory-swap", "64m", "--cpu-shares", "512", container)

    assert _limits(engine, container, "memory.max", "cpu.weight", "pids.max") == [str(64 << 20), "59", "20"]


def test_more_memory_than_allowed_ends_the_program(engine: Engine) -> None:
    container = engine.start(["tail", "/dev/zero"], "--memory", "16m", "--memory-swap", "16m")

    assert engine.wait(container) == 137


def test_processes_are_seen_from_inside(engine: Engine) -> None:
    container = engine.start(["sleep", "1234"])

    assert "sleep 1234" in engine.ok("exec", container, "ps")


def test_kill_ends_the_machine(engine: Engine) -> None:
    container = engine.start(["sleep", "1000"])
    engine.ok("exec", "--detach", container, "sleep", "2000")
    pid = engine.pid(container)

    engine.ok("kill", container)

    assert engine.wait(container) == 137
    eventually(lambda: not running(pid), "the sandbox process has ended")


def test_the_hosts_network_is_refused_with_the_remedy(engine: Engine) -> None:
    refused = engine.run(["true"], "--net", "host")

    assert refused.returncode != 0
    assert "host's network" in refused.stderr
    assert "give " in refused.stderr, "what to do about it"


@pytest.mark.parametrize("kind", ["pid", "ipc"])
def test_another_containers_namespace_is_refused(engine: Engine, kind: str) -> None:
    first = engine.start(["sleep", "1234"], *(["--ipc", "shareable"] if kind == "ipc" else []))

    refused = engine.run(["true"], f"--{kind}", f"container:{first}")

    assert refused.returncode != 0
    assert "not a namespace of another container in the same machine" in refused.stderr
    assert engine.inspect(first, "State.Running") == "true"


def test_another_containers_network_is_refused(engine: Engine) -> None:
    first = engine.start(["sleep", "1234"])

    refused = engine.run(["true"], "--net", f"container:{first}")

    assert refused.returncode != 0
    assert "another sandbox has this network namespace" in refused.stderr
    assert engine.inspect(first, "State.Running") == "true"
