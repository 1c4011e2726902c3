"""pysandbox-proxy: signals go through it, the exit code comes back, and it holds nothing."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from precondition import requires
from runtime import eventually

if TYPE_CHECKING:
    from collections.abc import Iterator

PROGRAM = Path(__file__).parents[3] / "guest_agent/target/release/pysandbox-proxy"


class Proxy:
    """One proxy, and the sandbox process's end of its socket."""

    def __init__(self) -> None:
        self.socket, theirs = socket.socketpair()
        self.socket.settimeout(10)
        # Its descriptor 3; under the other number it has the socket too, until it has closed that.
        number = theirs.fileno()
        command = ["bash", "-c", f'exec "$0" 3>&{number}', str(PROGRAM)]
        self.process = subprocess.Popen(command, pass_fds=[number], stderr=subprocess.PIPE)
        theirs.close()
        eventually(self.is_ready, "the proxy waits")

    def is_ready(self) -> bool:
        status = Path(f"/proc/{self.process.pid}/status").read_text()
        return "NoNewPrivs:\t1" in status and Path(f"/proc/{self.process.pid}/stat").read_text().split()[2] == "S"

    def status(self, name: str) -> str:
        lines = Path(f"/proc/{self.process.pid}/status").read_text().splitlines()
        return next(line.split(":")[1].strip() for line in lines if line.startswith(f"{name}:"))


@pytest.fixture
def proxy() -> Iterator[Proxy]:
    requires("root", f"file {PROGRAM}")
    proxy = Proxy()
    yield proxy
    proxy.socket.close()
    proxy.process.kill()
    proxy.process.communicate()


def test_it_exits_with_the_code_that_it_is_sent(proxy: Proxy) -> None:
    proxy.socket.send(bytes([137]))

    assert proxy.process.wait(10) == 137


def test_every_signal_that_can_be_is_passed_on(proxy: Proxy) -> None:
    impossible = {signal.SIGKILL, signal.SIGSTOP, signal.SIGCHLD}
    for number in sorted(signal.valid_signals() - impossible):
        proxy.process.send_signal(number)
        assert proxy.socket.recv(8) == bytes([number])

    assert proxy.process.poll() is None


def test_without_a_sandbox_process_it_says_so_and_exits_with_255(proxy: Proxy) -> None:
    proxy.socket.close()

    assert proxy.process.wait(10) == 255
    assert proxy.process.stderr is not None
    assert proxy.process.stderr.read() == b"pysandbox-proxy: the sandbox process has gone: broken pipe\n"


def test_its_death_ends_the_socket(proxy: Proxy) -> None:
    proxy.process.kill()

    assert proxy.socket.recv(8) == b""


def test_it_holds_no_other_descriptor_and_no_privilege(proxy: Proxy) -> None:
    numbers = sorted(os.listdir(f"/proc/{proxy.process.pid}/fd"), key=int)
    links = [os.readlink(f"/proc/{proxy.process.pid}/fd/{number}") for number in numbers]

    assert numbers[:4] == ["0", "1", "2", "3"]
    assert all(link == "anon_inode:[signalfd]" for link in links[4:])
    assert {proxy.status(name) for name in ("CapPrm", "CapEff", "CapInh")} == {"0" * 16}
    assert proxy.status("NoNewPrivs") == "1"
    assert os.readlink(f"/proc/{proxy.process.pid}/cwd") == "/"
