"""`pysandbox events`: print a container's usage every few seconds, and when the kernel killed for memory."""

from __future__ import annotations

import json
import os
import select
import sys

from pysandbox.cli.flags import Command, Flag
from pysandbox.errors import InvalidArgument, SandboxError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from threading import Thread
    from typing import Any

    from pysandbox.backend import Container
    from pysandbox.cli.invocation import Invocation
    from pysandbox.cli.log import Log

COMMAND = Command(
    "events",
    "display usage statistics and out-of-memory events of a container",
    "<container-id>",
    (
        Flag("interval", "time between two statistics: 500ms, 5s, 1m30s", "string", default="5s"),
        Flag("stats", "display the statistics once"),
    ),
)
_UNITS = {"h": 3600.0, "m": 60.0, "s": 1.0, "ms": 1e-3, "us": 1e-6, "µs": 1e-6, "ns": 1e-9}


def run(invocation: Invocation) -> int:
    """Print events, one JSON object a line, until the container has ended."""
    from pysandbox import lifecycle

    interval = duration(invocation.parsed["interval"])
    if interval <= 0:
        raise InvalidArgument("duration interval must be greater than 0")
    container = lifecycle.running(invocation.runtime(), invocation.container_id)
    if invocation.parsed["stats"]:
        _print("stats", container, container.stats())
        return 0
    watcher = _watch_memory(container, invocation.journal)
    try:
        pidfd = os.pidfd_open(container.init.pid)
    except ProcessLookupError:
        return 0
    with open(pidfd, "rb", buffering=0):
        _print_until_end(container, pidfd, interval, invocation.journal)
    watcher.join(timeout=1)
    return 0


def _print_until_end(container: Container, pidfd: int, interval: float, journal: Log) -> None:
    poll = select.poll()
    poll.register(pidfd, select.POLLIN)
    while not poll.poll(interval * 1000):
        try:
            _print("stats", container, container.stats())
        except (SandboxError, OSError) as error:
            journal.error(str(error))


def _watch_memory(container: Container, journal: Log) -> Thread:
    from threading import Thread

    def watch() -> None:
        try:
            while container.alive():
                container.wait_oom()
                if container.alive():
                    _print("oom", container, None)
        except (SandboxError, OSError) as error:
            journal.warning(f"no out-of-memory events: {error}")

    thread = Thread(target=watch, daemon=True)
    thread.start()
    return thread


def _print(kind: str, container: Container, data: Any) -> None:
    event = {"type": kind, "id": container.id}
    if data is not None:
        event["data"] = data
    sys.stdout.write(json.dumps(event, separators=(",", ":")) + "\n")
    sys.stdout.flush()


def duration(text: str) -> float:
    """Return the seconds of a Go duration: 1.5s, 100ms, 1m30s. Raises InvalidArgument."""
    seconds, rest = 0.0, text
    while rest:
        digits = rest[: len(rest) - len(rest.lstrip("0123456789."))]
        rest = rest[len(digits) :]
        unit = rest[: len(rest) - len(rest.lstrip("hmsuµn"))]
        rest = rest[len(unit) :]
        if unit not in _UNITS or digits.count(".") > 1 or not digits.strip("."):
            raise InvalidArgument(f'invalid value "{text}" for flag -interval: parse error')
        seconds += float(digits) * _UNITS[unit]
    return seconds
