"""Attack programs: C sources of tests/data/attack, compiled static when a test asks for them."""

from __future__ import annotations

import os
import shutil
import subprocess
from pathlib import Path

SOURCES = Path(__file__).resolve().parents[2] / "data" / "attack"


class Compiler:
    """Compiles each program once into `directory`."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory

    def program(self, name: str) -> Path:
        """Static executable of `<name>.c`."""
        return self._compile(name, name, "-static")

    def library(self, name: str) -> Path:
        """Shared object of `<name>.c`."""
        return self._compile(name, f"{name}.so", "-shared", "-fPIC")

    def _compile(self, name: str, output: str, *flags: str) -> Path:
        target = self.directory / output
        if not target.exists():
            compiler = shutil.which("gcc") or "cc"
            source = os.fspath(SOURCES / f"{name}.c")
            subprocess.run([compiler, "-O1", "-Wall", "-Werror", *flags, "-o", os.fspath(target), source], check=True)
        return target
