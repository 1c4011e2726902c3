"""What hooks that run inside make is as safe as what the caller's own programs make."""

from __future__ import annotations

import stat
from pathlib import Path

import pytest
from harness.bundle import Bundle
from harness.runtime import Runtime


@pytest.mark.parametrize("kind", ["createRuntime", "createContainer", "poststop"])
def test_a_file_that_a_hook_makes_is_not_for_everybody_to_write(
    runtime: Runtime, bundle: Bundle, place: Path, kind: str
) -> None:
    """The executor makes exact modes with a umask of 0: handed on, it opens a hook's files to every user of the host."""
    bundle.spec["hooks"] = {kind: [{"path": "/bin/sh", "args": ["sh", "-c", f"echo secret > {place}/made"]}]}

    answer = runtime.run(bundle, prefix=["sh", "-c", 'umask 027; exec "$@"', "sh"])

    assert answer.code == 0, answer
    assert stat.S_IMODE((place / "made").stat().st_mode) == 0o640
