"""Containers in machines, through the command line.

`microvm` is the runtime with the microvm backend; `either` is that and, for what is to be the same, the namespaces
backend.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from runtime import Runtime, children, end_children


@pytest.fixture
def microvm(launcher: Path, settings_file: Path, root_dir: Path) -> Iterator[Runtime]:
    """The runtime under test, with machines."""
    yield from _runtime(launcher, settings_file, root_dir, "microvm")


@pytest.fixture(params=["namespaces", "microvm"])
def either(request: pytest.FixtureRequest, launcher: Path, settings_file: Path, root_dir: Path) -> Iterator[Runtime]:
    """The runtime under test, with each of its backends."""
    yield from _runtime(launcher, settings_file, root_dir, request.param)


def _runtime(launcher: Path, settings_file: Path, root: Path, backend: str) -> Iterator[Runtime]:
    known = set(children())
    runtime = Runtime([str(launcher), "--config", str(settings_file), "--backend", backend], root)
    yield runtime
    try:
        runtime.remove_all()
    finally:
        end_children(known)
        for line in runtime.log:
            print(line)
