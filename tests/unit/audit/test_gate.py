"""Evidence is kept for a while, and not without end."""

from __future__ import annotations

import os
import time
from pathlib import Path

from pysandbox.audit.gate import LIFETIME, MOST, _prune


def test_what_counts_no_longer_is_removed_and_the_newest_are_kept(tmp_path: Path) -> None:
    now = time.time()
    for index in range(MOST + 20):
        (tmp_path / f"{index}").touch()
        os.utime(tmp_path / f"{index}", (now - index, now - index))
    (tmp_path / "old").touch()
    os.utime(tmp_path / "old", (now - LIFETIME - 5, now - LIFETIME - 5))

    _prune(str(tmp_path))

    assert {entry.name for entry in tmp_path.iterdir()} == {str(index) for index in range(MOST)}
