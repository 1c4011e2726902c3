"""The settings `[backends.microvm]`: each is known, and of the right kind, or refused by name."""

from __future__ import annotations

import tomllib
from typing import Any

import pytest

from pysandbox.errors import InvalidArgument
from pysandbox_microvm import settings
from pysandbox_microvm.settings import check_settings, overhead


def test_the_example_in_the_documentation_passes() -> None:
    assert settings.__doc__
    example = tomllib.loads(settings.__doc__.split("```toml\n")[1].split("```")[0])

    check_settings(example["backends"]["microvm"])


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ({"templates": True}, "unknown setting 'templates'"),
        ({"template": "no"}, "backends.microvm.template: must be"),
        ({"directory": "relative"}, "backends.microvm.directory: must be an absolute path"),
        ({"qemu": "/usr/bin/\0"}, "backends.microvm.qemu: must be an absolute path"),
        ({"memory": 0}, "backends.microvm.memory: must be a number"),
        ({"vcpus": True}, "backends.microvm.vcpus: must be a number"),
        ({"cache": "fast"}, "backends.microvm.cache: must be a word, one of auto, none, always"),
        ({"first_uid": 0}, "backends.microvm.first_uid: must be a number"),
        ({"first_uid": 2**32 - 1}, "backends.microvm.first_uid: must be a number"),
        ({"accelerator": "xen"}, "backends.microvm.accelerator: must be a word"),
        ({"kernel_parameters": "quiet"}, "backends.microvm.kernel_parameters: must be a list of strings"),
    ],
)
def test_a_wrong_setting_is_named(given: Any, said: str) -> None:
    with pytest.raises(InvalidArgument, match=said):
        check_settings(given)


def test_the_overhead_is_in_mebibytes() -> None:
    assert overhead({"overhead": 3}) == 3 * 1024 * 1024
