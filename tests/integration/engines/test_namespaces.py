"""Namespaces: a container's own, another container's, the host's."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from daemon.engine import Engine


@pytest.mark.parametrize("kind", ["pid", "mnt", "ipc", "uts", "net"])
def test_its_own_by_default(engine: Engine, kind: str) -> None:
    assert engine.shell(f"readlink /proc/self/ns/{kind}") != os.readlink(f"/proc/self/ns/{kind}")


@pytest.mark.parametrize(("option", "kind"), [("--net", "net"), ("--uts", "uts"), ("--pid", "pid"), ("--ipc", "ipc")])
def test_the_host_s(engine: Engine, option: str, kind: str) -> None:
    assert engine.shell(f"readlink /proc/self/ns/{kind}", option, "host") == os.readlink(f"/proc/self/ns/{kind}")


@pytest.mark.parametrize(("option", "kind"), [("--net", "net"), ("--pid", "pid"), ("--ipc", "ipc")])
def test_another_container_s(engine: Engine, option: str, kind: str) -> None:
    ipc = ["--ipc", "shareable"] if kind == "ipc" else []
    first = engine.start(["sleep", "1234"], *ipc)
    namespace = engine.ok("exec", first, "readlink", f"/proc/self/ns/{kind}")

    assert engine.shell(f"readlink /proc/self/ns/{kind}", option, f"container:{first}") == namespace


def test_processes_of_a_joined_container_are_seen_and_can_be_signalled(engine: Engine) -> None:
    first = engine.start(["sleep", "1234"])

    engine.shell("ps | grep -q '[s]leep 1234' && kill -TERM 1 && kill -KILL -1 || true", "--pid", f"container:{first}")

    assert engine.inspect(first, "State.Running") == "true"  # pid 1 of a namespace ignores signals from inside


def test_an_exec_in_a_joined_namespace_ends_with_its_container(engine: Engine) -> None:
    first = engine.start(["sleep", "1234"])
    second = engine.start(["sleep", "4321"], "--pid", f"container:{first}")

    engine.ok("kill", second)

    assert engine.wait(second) == 137
    assert engine.inspect(first, "State.Running") == "true"
