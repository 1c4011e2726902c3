"""What an exec says, and what it leaves behind: nobody waits for ever for the end of an output, nothing said is lost."""

from __future__ import annotations

import os
import subprocess
import threading
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from integration.shim.conftest import eventually

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from integration.shim.conftest import Shim

    Make = Callable[[Path], Shim]


class Client:
    """Reads an output to its end, as containerd does."""

    def __init__(self, fifo: str) -> None:
        self.process = subprocess.Popen(["cat", fifo], stdout=subprocess.PIPE)

    def read(self, seconds: float) -> bytes:
        return self.process.communicate(timeout=seconds)[0]


@pytest.fixture
def listen() -> Iterator[Callable[[str], Client]]:
    clients: list[Client] = []

    def start(fifo: str) -> Client:
        clients.append(Client(fifo))
        return clients[-1]

    yield start
    for client in clients:
        client.process.kill()
        client.process.communicate()


@pytest.fixture
def shim(make_shim: Make, make_bundle: Any) -> Shim:
    shim = make_shim(make_bundle(["sleep", "100"]))
    shim.create()
    shim.start()
    return shim


def test_an_output_ends_at_delete_whoever_still_has_it(shim: Shim, listen: Callable[[str], Client]) -> None:
    client = listen(out := shim.fifo("out"))
    shim.exec("e", "sh", "-c", "echo said; sleep 100 &", stdout=out)
    shim.start("e")
    assert shim.wait("e") == 0
    with pytest.raises(subprocess.TimeoutExpired):
        client.read(0.3)

    shim.delete("e")

    assert client.read(5) == b"said\n"


def test_an_output_ends_when_the_last_of_an_exec_does(shim: Shim, listen: Callable[[str], Client]) -> None:
    client = listen(out := shim.fifo("out"))
    shim.exec("e", "sh", "-c", "(sleep 1; echo later) & echo first", stdout=out)
    shim.start("e")
    assert shim.wait("e") == 0

    assert client.read(10) == b"first\nlater\n"
    shim.delete("e")


def test_all_that_was_said_comes_before_the_end(shim: Shim, listen: Callable[[str], Client]) -> None:
    """More than pipe and FIFO hold, and a program that goes on talking; Delete is called at once."""
    out, err = shim.fifo("out"), shim.fifo("err")
    said, told = listen(out), listen(err)
    shim.exec("e", "sh", "-c", "seq 200000; seq 30000 >&2; yes &", stdout=out, stderr=err)
    shim.start("e")
    got: list[bytes] = []
    reader = threading.Thread(target=lambda: got.append(told.read(60)))
    reader.start()
    outs: list[bytes] = []
    other = threading.Thread(target=lambda: outs.append(said.read(60)))
    other.start()
    assert shim.wait("e") == 0
    shim.delete("e")
    reader.join(60)
    other.join(60)

    lines = b"".join(b"%d\n" % number for number in range(1, 200001))
    assert outs[0].startswith(lines)
    assert set(outs[0][len(lines) :]) <= set(b"y\n")
    assert got[0] == b"".join(b"%d\n" % number for number in range(1, 30001))


def test_nothing_is_left_open(shim: Shim, listen: Callable[[str], Client]) -> None:
    before = 0
    for number in range(4):
        client = listen(out := shim.fifo(f"out{number}"))
        shim.exec(f"e{number}", "sh", "-c", "sleep 100 &", stdout=out, stderr=shim.fifo(f"err{number}"))
        shim.start(f"e{number}")
        shim.wait(f"e{number}")
        shim.delete(f"e{number}")
        client.read(5)
        before = before or len(os.listdir(f"/proc/{shim.serving()}/fd"))  # the first opens the connection for events

    eventually(lambda: len(os.listdir(f"/proc/{shim.serving()}/fd")) <= before)
