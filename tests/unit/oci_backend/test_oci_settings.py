"""The settings `[backends.oci]`: each is known, bounded and of the right kind, or refused by name."""

from __future__ import annotations

import tomllib
from typing import Any

import pytest

from pysandbox.errors import InvalidArgument
from pysandbox_oci import settings
from pysandbox_oci.settings import arguments, check_settings, timeout


def test_the_example_in_the_documentation_passes() -> None:
    assert settings.__doc__
    example = tomllib.loads(settings.__doc__.split("```toml\n")[1].split("```")[0])["backends"]["oci"]

    check_settings(example)

    assert arguments(example, "runsc") == ["--ignore-cgroups", "--network=none"]
    assert arguments(example, "runc") == ()
    assert timeout(example) == 60.0


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ({"roots": "/run/x"}, "unknown setting 'roots'"),
        ({"root": "relative"}, "backends.oci.root: must be an absolute path"),
        ({"root": "/"}, "backends.oci.root"),
        ({"root": "/run/../etc"}, "backends.oci.root"),
        ({"root": "/run/\n"}, "backends.oci.root"),
        ({"root": 1}, "backends.oci.root"),
        ({"timeout": 0}, "backends.oci.timeout: must be a number from 1 to 3600"),
        ({"timeout": True}, "backends.oci.timeout"),
        ({"timeout": 3601}, "backends.oci.timeout"),
        ({"args": []}, "backends.oci.args: must be a table"),
        ({"args": {"../runc": []}}, "backends.oci.args: .*a name or an absolute path"),
        ({"args": {"runc": "--debug"}}, "backends.oci.args.runc: must be a list"),
        ({"args": {"runc": ["--debug"] * 65}}, "at most 64"),
        ({"args": {"runc": ["-" + "x" * 4096]}}, "at most 4096 bytes"),
        ({"args": {"runc": ["delete"]}}, "must be a flag"),
        ({"args": {"runc": ["--"]}}, "must be a flag"),
        ({"args": {"runc": ["--x=\n"]}}, "printable"),
        ({"args": {"runc": [1]}}, "printable"),
        ({"args": {"runc": ["--root=/elsewhere"]}}, "pysandbox itself gives the runtime this flag"),
        ({"args": {"runc": ["-root"]}}, "pysandbox itself"),
        ({"args": {"runc": ["--log", "--debug"]}}, "pysandbox itself"),
        ({"args": {f"r{number}": [] for number in range(65)}}, "at most 64"),
    ],
)
def test_what_is_wrong_is_named(given: dict[str, Any], said: str) -> None:
    with pytest.raises(InvalidArgument, match=said):
        check_settings(given)
