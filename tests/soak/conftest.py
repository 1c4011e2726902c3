"""The soak is collected only when it is named: `make soak`, or `pytest tests/soak`. Counts come from the environment."""

from __future__ import annotations

import os
import sys
from pathlib import Path

import pytest

sys.path.insert(0, os.path.join(os.path.dirname(__file__), "../security"))

from harness.fixtures import bundle, canary, compiler, exchanging, place, runc, runtime, succeeds, warm

__all__ = ["bundle", "canary", "compiler", "exchanging", "place", "runc", "runtime", "succeeds", "warm"]


def pytest_ignore_collect(collection_path: Path, config: pytest.Config) -> bool | None:
    """Leave the soak out of the ordinary run."""
    return None if any("soak" in argument for argument in config.args) else True
