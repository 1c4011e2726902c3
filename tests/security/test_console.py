"""The terminal is the pty that the runtime made, whatever the image put in its place (CVE-2025-52565)."""

from __future__ import annotations

import os
import select
import socket
import time
from collections.abc import Callable
from pathlib import Path

import pytest
from harness.bundle import Bundle
from harness.host import Canary
from harness.runtime import Result, Runtime

SHOW = "stat -c 'console %F %t' /dev/console; readlink /proc/self/fd/0; grep ' /dev/console ' /proc/self/mountinfo; echo end"


def create_with_console(runtime: Runtime, bundle: Bundle, place: Path) -> tuple[str, Result, int | None]:
    """Create with `--console-socket`; returns the id, how it went and the master, if one came."""
    path = place / "console.sock"
    bundle.process["terminal"] = True
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as listener:
        listener.bind(os.fspath(path))
        listener.listen(1)
        container, answer = runtime.create(bundle, "--console-socket", os.fspath(path), limit=30)
        listener.settimeout(5)
        try:
            with listener.accept()[0] as connection:
                _, descriptors, _, _ = socket.recv_fds(connection, 4096, 1)
        except TimeoutError:
            descriptors = []
    return container, answer, descriptors[0] if descriptors else None


def read_terminal(master: int, until: str, seconds: float = 10) -> str:
    """What the container wrote to its terminal."""
    text, end = "", time.monotonic() + seconds
    while until not in text and time.monotonic() < end:
        if select.select([master], [], [], 0.2)[0]:
            try:
                text += os.read(master, 65536).decode(errors="replace")
            except OSError:
                break
    return text


@pytest.fixture
def shown(runtime: Runtime, bundle: Bundle, place: Path) -> Callable[[], tuple[str, Result]]:
    """Runs the bundle with a terminal and returns what it wrote, or how it was refused."""

    def show() -> tuple[str, Result]:
        container, answer, master = create_with_console(runtime, bundle.script(SHOW), place)
        if answer.code != 0:
            return "", answer
        assert master is not None
        try:
            assert runtime.call("start", container).code == 0
            return read_terminal(master, "\nend"), answer
        finally:
            os.close(master)

    return show


def assert_real_console(text: str, answer: Result) -> None:
    """/dev/console is a pty slave (major 136, 0x88) of the container's own devpts, or the container was refused."""
    if answer.code != 0:
        assert answer.refused
        return
    assert "console character special file 88" in text, text
    assert "/sys/kernel" not in text
    assert "/dev/pts/" in text or "/dev/console" in text, text


def test_a_terminal_is_a_pty(shown: Callable[[], tuple[str, Result]]) -> None:
    text, answer = shown()

    assert answer.code == 0, answer
    assert_real_console(text, answer)


@pytest.mark.parametrize("name", ["console", "pts/0", "ptmx", "tty"])
@pytest.mark.parametrize("target", ["/proc/sys/kernel/core_pattern", "{canary}/host-only", "/proc/self/mem"])
def test_links_in_a_dev_of_the_image_catch_no_terminal(
    bundle: Bundle, canary: Canary, place: Path, shown: Callable[[], tuple[str, Result]], name: str, target: str
) -> None:
    volume = place / "dev"
    (volume / "pts").mkdir(parents=True)
    (volume / name).symlink_to(target.format(canary=canary.path))
    bundle.without_mount("/dev", "/dev/shm", "/dev/mqueue", *(["/dev/pts"] if name.startswith("pts") else []))
    bundle.mounts.insert(1, {"destination": "/dev", "type": "bind", "source": os.fspath(volume), "options": ["rbind"]})
    bundle.linux["readonlyPaths"] = []

    text, answer = shown()

    assert_real_console(text, answer)
    canary.assert_unchanged()


@pytest.mark.parametrize("kind", ["missing", "file", "directory"])
def test_a_console_socket_that_is_none_is_refused(runtime: Runtime, bundle: Bundle, place: Path, kind: str) -> None:
    path = place / "socket"
    {"missing": lambda: None, "file": path.touch, "directory": path.mkdir}[kind]()
    bundle.process["terminal"] = True

    _, answer = runtime.create(bundle, "--console-socket", os.fspath(path), limit=20)

    answer.assert_one_clear_line()


def test_a_console_socket_that_nobody_reads_holds_nothing_up(runtime: Runtime, bundle: Bundle, place: Path) -> None:
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as listener:
        listener.bind(os.fspath(place / "socket"))
        listener.listen(1)
        bundle.process["terminal"] = True

        container, answer = runtime.create(bundle, "--console-socket", os.fspath(place / "socket"), limit=30)

    assert answer.code == 0 or answer.refused, answer
    runtime.call("delete", "--force", container)
