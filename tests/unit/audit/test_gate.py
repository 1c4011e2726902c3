"""Evidence is kept for a while, and not without end."""

from __future__ import annotations

import os
import time
from pathlib import Path

import pytest

from pysandbox.audit.gate import LIFETIME, MOST, _prune
from pysandbox.config import Config, overlaid
from pysandbox.errors import InvalidArgument


def test_what_counts_no_longer_is_removed_and_the_newest_are_kept(tmp_path: Path) -> None:
    now = time.time()
    for index in range(MOST + 20):
        (tmp_path / f"{index}").touch()
        os.utime(tmp_path / f"{index}", (now - index, now - index))
    (tmp_path / "old").touch()
    os.utime(tmp_path / "old", (now - LIFETIME - 5, now - LIFETIME - 5))

    _prune(str(tmp_path))

    assert {entry.name for entry in tmp_path.iterdir()} == {str(index) for index in range(MOST)}


def test_settings_that_are_added_add_demands_and_take_none_away() -> None:
    base = overlaid(Config(), {"require": ["seccomp.mode"]}, "settings")

    assert overlaid(base, {"require": []}, "options").require == ("seccomp.mode",)
    assert overlaid(base, {"backend": "b"}, "options").require == ("seccomp.mode",)
    assert overlaid(base, {"require": ["group:escape"]}, "options").require == ("seccomp.mode", "group:escape")


@pytest.mark.parametrize("require", ["seccomp.mode", [1], {}])
def test_requirements_are_a_list_of_strings(require: object) -> None:
    with pytest.raises(InvalidArgument, match="require should be a list of strings"):
        overlaid(Config(), {"require": require}, "settings")
