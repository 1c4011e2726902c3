"""What a shim is put through, in numbers that the caller chooses: small in the tests, large in the soak."""

from __future__ import annotations

import _socket
import contextlib
import hashlib
import os
import random
import select
import struct
import subprocess
import time
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from integration.shim.conftest import Shim, eventually
from integration.shim.test_containerd import start

from pysandbox.shim.messages import task as messages
from pysandbox.ttrpc.message import Message
from pysandbox.ttrpc.messages.request import Request

if TYPE_CHECKING:
    from daemon.containerd import Containerd

#: What each exec writes, after its number.
WORDS = 20_000
#: Seconds for idle threads of a shim to end.
IDLE = 25.0
_CHUNK = 64 * 1024


@dataclass(frozen=True)
class Footprint:
    """What a shim has: descriptors, threads, and KiB of memory that nobody shares with it."""

    descriptors: int
    threads: int
    private: int


def footprint(shim: Shim) -> Footprint:
    """Return what keeper and serving process have together; the shim, where it is one process."""
    while True:
        with contextlib.suppress(FileNotFoundError, ProcessLookupError):  # who serves has ended meanwhile
            return _footprint(shim)


def _footprint(shim: Shim) -> Footprint:
    processes = [Path(f"/proc/{pid}") for pid in {shim.pid, shim.serving()}]
    lines = [line for each in processes for line in (each / "smaps_rollup").read_text().splitlines()]
    private = sum(int(line.split()[1]) for line in lines if line.startswith("Private_"))
    descriptors, threads = (sum(len(os.listdir(each / name)) for each in processes) for name in ("fd", "task"))
    return Footprint(descriptors, threads, private)


def assert_flat(shim: Shim, before: Footprint, mebibytes: int) -> None:
    """Idle threads end after a while; memory may have grown by so much."""
    eventually(lambda: footprint(shim).threads <= before.threads, IDLE)
    eventually(lambda: footprint(shim).descriptors <= before.descriptors)
    grown = footprint(shim).private - before.private
    assert grown <= mebibytes * 1024, f"{grown} KiB more than before"


class Execs:
    """Execs with an output and an exit code of their own each."""

    def __init__(self, shim: Shim, first: int, count: int) -> None:
        self.shim, self.numbers = shim, range(first, first + count)
        self.paths = {number: shim.fifo("stdout") for number in self.numbers}
        self.clients = {number: os.open(path, os.O_RDONLY | os.O_NONBLOCK) for number, path in self.paths.items()}

    def run(self) -> None:
        """Add and start them all, without waiting for one another; every byte and every exit code has to be right."""
        client, container = self.shim.client, self.shim.id
        for number, path in self.paths.items():
            script = f"echo {number}; yes | head -c {WORDS}; exit {number % 256}"
            self.shim.exec(f"e{number}", "sh", "-c", script, stdout=path)
        starts = [self._begin("Start", messages.StartRequest, number) for number in self.numbers]
        waits = [self._begin("Wait", messages.WaitRequest, number) for number in self.numbers]
        assert all(each.result().pid for each in starts)
        codes = {number: wait.result().exit_status for number, wait in zip(self.numbers, waits, strict=True)}
        assert codes == {number: number % 256 for number in self.numbers}
        for number in self.numbers:
            deleted = client.call(
                messages.Task, "Delete", messages.DeleteRequest(id=container, exec_id=f"e{number}"), timeout=30
            )
            assert deleted.exit_status == number % 256
            assert self._output(number) == f"{number}\n".encode() + b"y\n" * (WORDS // 2)

    def _begin(self, method: str, kind: Any, number: int) -> Any:
        return self.shim.client.begin(messages.Task, method, kind(id=self.shim.id, exec_id=f"e{number}"), timeout=120)

    def _output(self, number: int) -> bytes:
        descriptor, text = self.clients.pop(number), b""
        while piece := os.read(descriptor, _CHUNK):
            text += piece
        os.close(descriptor)
        os.unlink(self.paths[number])
        return text


def execs(shim: Shim, count: int, at_once: int = 1) -> None:
    """Run so many execs on a running container, so many of them at a time."""
    for first in range(0, count, at_once):
        Execs(shim, first, min(at_once, count - first)).run()


def slow_reader(shim: Shim, size: int, *, terminal: bool) -> None:
    """Have a program write so many bytes, all different, to a reader that begins late and reads slowly."""
    script = f"seq 1 {size} | head -c {size}"
    expected = subprocess.run(
        ["busybox", "sh", "-c", f"{script} | sha256sum"], capture_output=True, text=True, check=True
    ).stdout.split()[0]
    stdout = shim.fifo("stdout")
    client = os.open(stdout, os.O_RDONLY | os.O_NONBLOCK)
    raw = "stty -opost; " if terminal else ""
    shim.exec("slow", "sh", "-c", f"{raw}{script}", stdout=stdout, terminal=terminal)
    before = footprint(shim)
    shim.start("slow")
    time.sleep(1)
    assert shim.state("slow").exited_at is None
    largest, digest, count = before.private, hashlib.sha256(), 0
    poll = select.poll()
    poll.register(client, select.POLLIN)
    while count < size:
        assert poll.poll(30_000), f"nothing more after {count} bytes"
        piece = os.read(client, _CHUNK)
        digest.update(piece)
        if (count + len(piece)) >> 20 > count >> 20:
            time.sleep(0.0005)
        if (count + len(piece)) >> 26 > count >> 26:
            largest = max(largest, footprint(shim).private)
        count += len(piece)
    assert count == size
    assert digest.hexdigest() == expected
    assert shim.wait("slow") == 0
    largest = max(largest, footprint(shim).private)
    shim.delete("slow")
    os.close(client)
    assert largest - before.private <= 16 * 1024


# -- fuzzing -----------------------------------------------------------------------------------------------------------


class Fuzz:
    """Wrong frames and wrong requests to a shim; a right one after each."""

    def __init__(self, shim: Shim, seed: int) -> None:
        self.shim, self.chance = shim, random.Random(seed)
        self.path = shim.started.stdout.decode().removeprefix("unix://")

    def connections(self, count: int) -> None:
        """Open so many connections, one after the other, and send nonsense on each."""
        for _ in range(count):
            text = self.chance.choice((self._noise, self._frames, self._requests))()
            with _socket_to(self.path) as peer:
                try:
                    peer.settimeout(0.2)
                    peer.sendall(text)
                    if self.chance.random() < 0.5:
                        peer.recv(_CHUNK)
                except OSError:
                    pass  # it may hang up
            assert self.shim.state().pid

    def _noise(self) -> bytes:
        return self.chance.randbytes(self.chance.randrange(1, 4096))

    def _frames(self) -> bytes:
        """Headers that mean something, with lengths, streams, types and flags that do not fit."""
        return b"".join(self._frame(self.chance.randbytes(self.chance.randrange(64))) for _ in range(20))

    def _frame(self, payload: bytes) -> bytes:
        length = self.chance.choice((len(payload),) * 4 + (0, 1, 4 << 20, (4 << 20) + 1, 2**32 - 1))
        stream = self.chance.choice((0, 1, 2, 3, 2**31, 2**32 - 1, self.chance.randrange(2**32)))
        kind, flags = self.chance.choice((1, 1, 2, 3, self.chance.randrange(256))), self.chance.randrange(8)
        return struct.pack(">IIBB", length, stream, kind, flags) + payload

    def _requests(self) -> bytes:
        """Requests to every method, with fields that were made up and then damaged."""
        frames = []
        for number in range(20):
            method = self.chance.choice(list(messages.Task.methods.values()))
            payload = self._damaged(self._made_up(method.request).encode())
            request = Request(service=messages.Task.name, method=method.name, payload=payload).encode()
            if self.chance.random() < 0.2:
                request = self._damaged(request)
            frames.append(struct.pack(">IIBB", len(request), 2 * number + 1, 1, 0) + request)
        return b"".join(frames)

    def _made_up(self, kind: type[Message]) -> Message:
        """Fill the fields that are text. No container has such an id."""
        values: dict[str, Any] = {}
        probe = kind()
        for _, name, *_ in kind.FIELDS:
            if getattr(probe, name) == "":
                values[name] = self.chance.choice(("fuzz", "", "../fuzz", "f" * 5000, "/nosuch\0", "binary:///x", "é"))
        return kind(**values)

    def _damaged(self, text: bytes) -> bytes:
        damaged = bytearray(text)
        for _ in range(self.chance.randrange(4)):
            at = self.chance.randrange(len(damaged) + 1)
            damaged[at : at + self.chance.randrange(3)] = self.chance.randbytes(self.chance.randrange(3))
        return bytes(damaged)


def _socket_to(path: str) -> Any:
    peer = _socket.socket(_socket.AF_UNIX, _socket.SOCK_STREAM | _socket.SOCK_CLOEXEC)
    peer.connect(path)
    return _Closing(peer)


class _Closing:
    def __init__(self, peer: _socket.socket) -> None:
        self.peer = peer

    def __enter__(self) -> _socket.socket:
        return self.peer

    def __exit__(self, *_: object) -> None:
        self.peer.close()


# -- containerd --------------------------------------------------------------------------------------------------------


def survive(containerd: Containerd, count: int, **how: Any) -> None:
    """Kill containerd, with -9, while so many containers live; all have to be there afterwards, and usable.

    `how` goes to `start`.
    """
    names = [f"live{number}" for number in range(count)]
    for name in names:
        start(containerd, name, "sleep", "1000", **how)
    before = _tasks(containerd)
    containerd.kill()
    began = time.monotonic()
    containerd.boot()
    print(f"{count} containers: containerd was back after {time.monotonic() - began:.1f} s")
    assert _tasks(containerd) == before
    assert sorted(before) == sorted(names)
    assert {status for _, status in before.values()} == {"RUNNING"}
    for number in range(0, count, max(1, count // 6)):
        assert containerd.exec(names[number], "sh", "-c", f"exit {number % 256}").returncode == number % 256
    for name in names:
        containerd.ok("task", "kill", "--signal", "KILL", name)
    eventually(lambda: {status for _, status in _tasks(containerd).values()} == {"STOPPED"}, 60)


def _tasks(containerd: Containerd) -> dict[str, tuple[int, str]]:
    lines = [line.split() for line in containerd.ok("task", "list").splitlines()[1:]]
    return {name: (int(pid), status) for name, pid, status in lines}
