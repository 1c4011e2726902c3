"""What stops the backend on a host."""

from __future__ import annotations

import pytest

from pysandbox.errors import Unavailable
from pysandbox.linux import kernel_version
from pysandbox_namespaces.backend import KERNEL_FLOOR
from pysandbox_namespaces.probe import check_kernel


@pytest.mark.parametrize(
    ("release", "version"),
    [
        ("6.1.0-18-amd64", (6, 1)),
        ("5.12.0", (5, 12)),
        ("6.18-rc3", (6, 18)),
        ("5.15.153.1-microsoft-standard", (5, 15)),
    ],
)
def test_a_release_names_its_version(release: str, version: tuple[int, int]) -> None:
    assert kernel_version(release) == version


def test_a_kernel_that_is_too_old_is_refused_in_one_line() -> None:
    check_kernel(KERNEL_FLOOR)

    with pytest.raises(Unavailable, match=r"^kernel \S+ is older than 99.0: boot kernel 99.0 or later$"):
        check_kernel((99, 0))
