"""A containerd of the bench's own, its client ctr, and its Tasks service by gRPC."""

from __future__ import annotations

import json
import os
import secrets
import shutil
import signal
import subprocess
import time
from typing import TYPE_CHECKING, Any

from pysandbox.compare import measure
from pysandbox.compare.contender import ENVIRONMENT

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path
    from typing import Self

#: Seconds for containerd to answer, and for one call of its API.
LIMIT = 20.0
_CONFIGURATION = """version = 2
root = "{place}/root"
state = "{place}/state"
disabled_plugins = ["io.containerd.grpc.v1.cri"]
oom_score = 0
[grpc]
address = "{place}/c.sock"
[ttrpc]
address = "{place}/c.sock.ttrpc"
"""
_PROCESS = "types.containerd.io/opencontainers/runtime-spec/1/Process"


class Containerd:
    """Started with the environment that its shims inherit; ended with all of its containers."""

    def __init__(self, place: Path, environment: Mapping[str, str]) -> None:
        self.place, self.address = place, f"{place}/c.sock"
        self.namespace = f"bench-{secrets.token_hex(4)}"
        self.environment = environment
        self._output = os.memfd_create("output")
        self._ctr = shutil.which("ctr") or "/usr/bin/ctr"
        self._process: subprocess.Popen[bytes] | None = None

    def __enter__(self) -> Self:
        """Start it. Raises Failed if it does not answer."""
        (self.place / "config.toml").write_text(_CONFIGURATION.format(place=self.place))
        program = shutil.which("containerd")
        if program is None:
            raise measure.Failed("containerd is not installed (Debian: apt-get install containerd)")
        with (self.place / "log").open("wb") as log:
            self._process = subprocess.Popen(
                [program, "--config", str(self.place / "config.toml")], env=self.environment, stdout=log, stderr=log
            )
        deadline = time.monotonic() + LIMIT
        while True:
            try:
                self.ctr("version")
                return self
            except measure.Failed:
                if time.monotonic() > deadline:
                    raise
                time.sleep(0.05)

    def __exit__(self, *_: object) -> None:
        """End all containers, then containerd."""
        for line in self.lines("task", "list")[1:]:
            self.ctr("task", "delete", "--force", line.split()[0])
        for line in self.lines("container", "list", "--quiet"):
            self.ctr("container", "delete", line)
        if self._process is not None:
            self._process.send_signal(signal.SIGTERM)
            self._process.wait(LIMIT)
        os.close(self._output)

    def ctr(self, *words: str, output: int | None = None) -> float:
        """Run one command of ctr and return its milliseconds. Raises Failed."""
        argv = [self._ctr, "--address", self.address, "--namespace", self.namespace, *words]
        return measure.run(argv, ENVIRONMENT, self._output if output is None else output)

    def lines(self, *words: str) -> list[str]:
        """Return what a command of ctr prints."""
        self.ctr(*words)
        return os.pread(self._output, 1 << 20, 0).decode().splitlines()

    def pids(self) -> dict[str, int]:
        """Return the pid of each task's init."""
        return {line.split()[0]: int(line.split()[1]) for line in self.lines("task", "list")[1:]}


def channel(containerd: Containerd) -> Any:
    """Return a gRPC channel. Raises Failed where there is no grpcio."""
    try:
        import grpc  # type: ignore[import-untyped]
    except ImportError:
        raise measure.Failed("grpcio is not installed: pip install 'pysandbox[containerd]'") from None
    return grpc.insecure_channel(f"unix://{containerd.address}")


class Tasks:
    """containerd.services.tasks.v1.Tasks: what the bench calls, with the public field numbers."""

    def __init__(self, containerd: Containerd) -> None:
        self._channel = channel(containerd)
        self._metadata = (("containerd-namespace", containerd.namespace),)
        self._calls: dict[str, Any] = {}

    def close(self) -> None:
        """Close the connection."""
        self._channel.close()

    def create(self, container: str) -> None:
        """Make a container's task, without streams."""
        self._call("Create", {1: container})

    def start(self, container: str, exec_id: str = "") -> None:
        """Start init or an exec."""
        self._call("Start", {1: container, 2: exec_id})

    def wait(self, container: str, exec_id: str = "") -> None:
        """Wait for its end, which must be 0. Raises Failed."""
        answer = self._call("Wait", {1: container, 2: exec_id})
        if answer.startswith(b"\x08"):  # field 1, exit_status: 0 is not sent
            raise measure.Failed(f"{container} {exec_id}: exit code {answer[1]}")

    def delete(self, container: str) -> None:
        """Remove an ended task."""
        self._call("Delete", {1: container})

    def exec(self, container: str, exec_id: str, process: Mapping[str, Any]) -> None:
        """Add a process."""
        spec = encode({1: _PROCESS, 2: json.dumps(process)})
        self._call("Exec", {1: container, 6: spec, 7: exec_id})

    def delete_process(self, container: str, exec_id: str) -> None:
        """Remove an ended exec."""
        self._call("DeleteProcess", {1: container, 2: exec_id})

    def _call(self, method: str, fields: Mapping[int, str | bytes | int]) -> bytes:
        if method not in self._calls:
            self._calls[method] = self._channel.unary_unary(f"/containerd.services.tasks.v1.Tasks/{method}")
        answer: bytes = self._calls[method](encode(fields), timeout=LIMIT, metadata=self._metadata)
        return answer


def encode(fields: Mapping[int, str | bytes | int]) -> bytes:
    """Return a protobuf message of strings, messages and whole numbers, by field number; empty ones are not sent."""
    message = b""
    for number, value in fields.items():
        if isinstance(value, int):
            message += bytes([number << 3]) + _varint(value) if value else b""
            continue
        payload = value.encode() if isinstance(value, str) else value
        if payload:
            message += bytes([number << 3 | 2]) + _varint(len(payload)) + payload
    return message


def _varint(number: int) -> bytes:
    groups = bytearray()
    while number > 0x7F:
        groups.append(number & 0x7F | 0x80)
        number >>= 7
    return bytes([*groups, number])


def first_number(message: bytes) -> int:
    """Return the whole number that is field 1 of an answer: pid or exit status. 0, which is not sent, if it is absent.

    A number of protobuf has at most ten bytes; what is longer is none of ours.
    """
    number = 0
    if message[:1] == b"\x08":
        for place, byte in enumerate(message[1:11]):
            number |= (byte & 0x7F) << 7 * place
            if byte < 0x80:
                return number
    return 0
