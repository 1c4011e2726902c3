"""The linters, as tests: what they find fails the suite, wherever it is run."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

BIN = Path(sys.executable).parent


def _run(command: list[str], directory: Path) -> None:
    done = subprocess.run(
        command, cwd=directory, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, check=False,
        env={**os.environ, "NO_COLOR": "1", "CARGO_TERM_COLOR": "never", "PYTHONPATH": "runtime_api:backends"},
    )  # fmt: skip
    if done.returncode != 0:
        pytest.fail(f"$ {' '.join(command)}\n{done.stdout}", pytrace=False)


def _python_tool(name: str) -> str:
    """Return a tool installed beside this interpreter. It is a dependency of the tests: missing is a failure."""
    tool = BIN / name
    assert tool.exists(), f"{name} is not in {BIN}: pip install -e '.[test,lint]'"
    return str(tool)


def _cargo() -> str:
    cargo = shutil.which("cargo") or pytest.skip("cargo is not installed (a package was installed, not a checkout)")
    return str(cargo)


def _cargo_component(name: str) -> None:
    # Debian's rustc-web comes without rustfmt and clippy; what they check does not depend on the machine.
    done = subprocess.run([_cargo(), name, "--version"], capture_output=True, text=True, check=False)
    if done.returncode != 0:
        pytest.skip(f"this cargo has no {name}: {done.stderr.strip().splitlines()[0]}")


def test_ruff_finds_nothing(repository: Path) -> None:
    _run([_python_tool("ruff"), "check", "--output-format", "concise", "."], repository)


def test_python_is_formatted(repository: Path) -> None:
    _run([_python_tool("ruff"), "format", "--check", "."], repository)


def test_types_are_strict_and_right(repository: Path) -> None:
    _run([_python_tool("mypy"), "--no-error-summary"], repository)


def test_layers_are_kept(repository: Path) -> None:
    _run([_python_tool("lint-imports"), "--no-cache"], repository)


def test_rust_is_formatted(repository: Path) -> None:
    _cargo_component("fmt")
    _run([_cargo(), "fmt", "--check"], repository / "guest_agent")


def test_clippy_finds_nothing(repository: Path) -> None:
    _cargo_component("clippy")
    _run(
        [_cargo(), "clippy", "--release", "--locked", "--all-targets", "--", "-D", "warnings"],
        repository / "guest_agent",
    )


def test_it_is_built_by_the_lowest_rust_that_it_promises(repository: Path) -> None:
    """Debian 13 has no newer one: what only a later compiler takes would be found by nobody else's tests."""
    crate = tomllib.loads((repository / "guest_agent/Cargo.toml").read_text())["package"]
    lowest = next((name for name in _toolchains() if name.startswith(crate["rust-version"] + ".")), None)
    if lowest is None:
        pytest.skip(f"rustup has no toolchain {crate['rust-version']} here (Debian 13's own rustc is one)")

    command = ["check", "--release", "--locked", "--all-targets", "--target-dir", "target/lowest"]
    _run([_cargo(), f"+{lowest}", *command], repository / "guest_agent")


def _toolchains() -> list[str]:
    rustup = shutil.which("rustup")
    if rustup is None:
        return []
    done = subprocess.run([rustup, "toolchain", "list"], capture_output=True, text=True, check=True)
    return [line.split()[0] for line in done.stdout.splitlines() if line.strip()]
