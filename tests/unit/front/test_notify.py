"""NOTIFY_SOCKET: a container says that it is ready, and the caller's manager learns that, and nothing else."""

from __future__ import annotations

import os
import socket
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from precondition import requires
from runtime import MakeBundle, Runtime

from pysandbox.notify import DIRECTORY, NotifySocket, with_socket


@pytest.fixture
def manager(tmp_path: Path) -> Iterator[socket.socket]:
    """What systemd listens on."""
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as listener:
        listener.bind(str(tmp_path / "manager"))
        listener.settimeout(20)
        yield listener


def acknowledge(manager: socket.socket) -> list[bytes]:
    """Take what is told, up to the barrier, and close what came with that."""
    told = []
    while True:
        data, descriptors, _, _ = socket.recv_fds(manager, 4096, 4)
        told.append(data)
        if descriptors:
            os.close(descriptors[0])
            return told


def test_a_container_gets_a_mount_and_the_sockets_name(bundle_of: Any) -> None:
    bundle = with_socket(bundle_of("true"), "/state")

    assert bundle.spec["process"]["env"][-1] == "NOTIFY_SOCKET=/run/notify/notify.sock"
    assert bundle.spec["mounts"][-1]["source"] == "/state/notify"
    assert "ro" in bundle.spec["mounts"][-1]["options"]


def test_only_readiness_is_passed_on(tmp_path: Path, manager: socket.socket) -> None:
    """A container must not tell the manager which pid to watch, or whatever else it can be told."""
    (tmp_path / DIRECTORY).mkdir()
    ours = NotifySocket(str(tmp_path), str(tmp_path / "manager"))
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as container:
        container.connect(str(tmp_path / DIRECTORY / "notify.sock"))
        container.send(b"STATUS=evil\nMAINPID=1")
        container.send(b"READY=0")
        container.send(b"READY=1\nMAINPID=1\nFDSTORE=1")
    child = subprocess.Popen(["sleep", "100"])
    try:
        answer: list[list[bytes]] = []
        from threading import Thread

        thread = Thread(target=lambda: answer.append(acknowledge(manager)))
        thread.start()
        ours.relay(child.pid)
        thread.join(20)
    finally:
        child.kill()
        child.wait()

    assert answer == [[b"READY=1\n", f"MAINPID={child.pid}\n".encode(), b"BARRIER=1"]]


def test_the_end_of_the_container_ends_the_waiting(tmp_path: Path, manager: socket.socket) -> None:
    (tmp_path / DIRECTORY).mkdir()
    with subprocess.Popen(["true"]) as child:
        NotifySocket(str(tmp_path), str(tmp_path / "manager")).relay(child.pid)


def test_a_long_state_directory_is_no_obstacle(tmp_path: Path, manager: socket.socket) -> None:
    deep = tmp_path / ("x" * 100)
    (deep / DIRECTORY).mkdir(parents=True)

    NotifySocket(str(deep), str(tmp_path / "manager")).close()

    assert (deep / DIRECTORY / "notify.sock").is_socket()


@pytest.mark.parametrize("way", ["run", "run --detach", "create start"])
def test_a_container_is_ready_when_it_says_so(
    pysandbox: Runtime, make_bundle: MakeBundle, manager: socket.socket, tmp_path: Path, way: str
) -> None:
    requires("root", "command python3")
    bundle = make_bundle(["sh", "-c", "test -S $NOTIFY_SOCKET && exec sleep 3"], rootfs=True)
    environment = {**os.environ, "NOTIFY_SOCKET": str(tmp_path / "manager")}
    container_id, null = pysandbox.new_id(), subprocess.DEVNULL
    quiet = {"env": environment, "stdin": null, "stdout": null, "stderr": null}
    words = ["create" if way == "create start" else way.split(maxsplit=1)[0], "--bundle", str(bundle), container_id]
    if "--detach" in way:
        words.insert(1, "--detach")
    process = subprocess.Popen(pysandbox.argv(*words), **quiet)
    if way == "create start":
        assert process.wait(30) == 0
        process = subprocess.Popen(pysandbox.argv("start", container_id), **quiet)
    path = pysandbox.root / container_id / DIRECTORY / "notify.sock"
    for _ in range(1000):
        if path.exists():
            break
        os.sched_yield()
        subprocess.run(["sleep", "0.01"], check=True)

    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as container:  # any process that reaches the socket will do
        container.connect(str(path))
        container.send(b"READY=1")

    assert acknowledge(manager)[0] == b"READY=1\n"
    assert process.wait(30) == 0


@pytest.mark.parametrize("flags", [[], ["--detach"]], ids=["", "detach"])
def test_a_manager_that_is_not_there_is_a_warning(
    pysandbox: Runtime, make_bundle: MakeBundle, tmp_path: Path, flags: list[str]
) -> None:
    requires("root")
    bundle = make_bundle(["true"])
    environment = {**os.environ, "NOTIFY_SOCKET": str(tmp_path / "nobody")}
    log = tmp_path / "log"

    words = ["--log", log, "run", *flags, "--bundle", bundle, pysandbox.new_id()]
    done = pysandbox(*words, env=environment, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)

    assert done.returncode == 0
    assert "level=warning" in log.read_text()
    assert f"NOTIFY_SOCKET={tmp_path}/nobody" in log.read_text()


def test_a_manager_that_goes_away_does_not_harm_the_container(tmp_path: Path, manager: socket.socket) -> None:
    (tmp_path / DIRECTORY).mkdir()
    ours = NotifySocket(str(tmp_path), str(tmp_path / "manager"))
    manager.close()
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as container:
        container.connect(str(tmp_path / DIRECTORY / "notify.sock"))
        container.send(b"READY=1")

    ours.relay(os.getpid())
