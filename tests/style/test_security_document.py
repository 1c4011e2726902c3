"""Every test that docs/security.md names is there."""

from __future__ import annotations

import re
from pathlib import Path


def test_every_promise_names_a_test_that_exists(repository: Path) -> None:
    text = (repository / "docs/security.md").read_text()
    named = set(re.findall(r"(test_\w+\.py)::(test_\w+)", text))
    sources = {path.name: path.read_text() for path in (repository / "tests").rglob("test_*.py")}

    assert len(named) > 10
    assert [f"{file}::{test}" for file, test in sorted(named) if f"def {test}(" not in sources.get(file, "")] == []
