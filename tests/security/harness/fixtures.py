"""Fixtures of the attacks and of the soak: a place, a bundle, a canary, the runtimes."""

from __future__ import annotations

import os
import shutil
import subprocess
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from server import Servers, warm_up

from harness.bundle import Bundle
from harness.host import Canary, leftovers, settled
from harness.program import Compiler
from harness.runtime import Runtime, command_of

Attack = Callable[[Runtime, Bundle, Canary], None]


@pytest.fixture(scope="session")
def compiler() -> Iterator[Compiler]:
    """Compiled attack programs, shared by the session."""
    with tempfile.TemporaryDirectory(prefix="attack-programs-") as directory:
        yield Compiler(Path(directory))


@pytest.fixture
def place() -> Iterator[Path]:
    """A directory that any user may enter: what is hidden in it is hidden by the runtime, not by pytest."""
    path = Path(tempfile.mkdtemp(prefix="attack-place-"))
    path.chmod(0o755)
    yield path
    shutil.rmtree(path, ignore_errors=True)


@pytest.fixture
def bundle(place: Path) -> Bundle:
    """A bundle of the test's own."""
    return Bundle(place / "bundle")


@pytest.fixture
def canary(place: Path) -> Iterator[Canary]:
    """The host's directory; compared when the test has ended."""
    watched = Canary(place / "canary")
    yield watched
    watched.assert_unchanged()


def _runtime(name: str, place: Path) -> Iterator[Runtime]:
    command, environment = command_of(name)
    os.environ.update(environment)
    driven = Runtime(name, command, place / f"state-{name}")
    yield driven
    driven.delete_all()
    left = settled(lambda: leftovers(driven, place))
    assert not left, "left behind:\n" + "\n".join(left)


@pytest.fixture(scope="session")
def warm(servers: Servers | None) -> None:
    """Have a server for what `make setup` installed, unless it is to run cold, or is not there."""
    (program, *_), _ = command_of("pysandbox")
    if servers and os.path.exists(f"{program}-cold"):
        warm_up(Path(program), servers)


@pytest.fixture
def runtime(place: Path, canary: Canary, warm: None) -> Iterator[Runtime]:
    """The runtime under test."""
    yield from _runtime(os.environ.get("PYSANDBOX_SECURITY_RUNTIME", "pysandbox"), place)


@pytest.fixture
def runc(place: Path, canary: Canary) -> Iterator[Runtime]:
    """runc 1.1.5, the positive control."""
    if shutil.which("runc") is None:
        pytest.skip("positive control: runc is not installed")
    first_line = subprocess.run(["runc", "--version"], capture_output=True, text=True, check=True).stdout.splitlines()[
        0
    ]
    if " 1.1.5" not in first_line:
        pytest.skip(f"positive control needs runc 1.1.5, this is {first_line}")
    yield from _runtime("runc", place)


@pytest.fixture
def succeeds(canary: Canary, bundle: Bundle) -> Callable[[Attack, Runtime], None]:
    """Asserts that an attack succeeds on a runtime, and forgives what it did to the canary."""

    def check(attack: Attack, on: Runtime) -> None:
        with pytest.raises(AssertionError):
            attack(on, bundle, canary)
        canary.remember()

    return check


@pytest.fixture
def exchanging(compiler: Compiler) -> Iterator[Callable[[Path, Path], None]]:
    """Starts a peer that exchanges two paths; ended by its pid when the test has ended."""
    running: list[subprocess.Popen[bytes]] = []

    def begin(first: Path, second: Path) -> None:
        running.append(subprocess.Popen([compiler.program("exchange"), first, second]))

    yield begin
    for peer in running:
        assert peer.poll() is None, "the attacker ended early: nothing was raced"
        peer.kill()
        peer.wait()
