"""What on this host would stop the backend."""

from __future__ import annotations

import os

from pysandbox.backend import Problem
from pysandbox.errors import SandboxError, Unavailable
from pysandbox.linux import kernel_version

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence


def problems(kernel_floor: tuple[int, int]) -> Sequence[Problem]:
    """Return every problem found; changes nothing."""
    return [*_kernel(kernel_floor), *_privilege(), *_executor(), *_libseccomp()]


def check_kernel(floor: tuple[int, int]) -> None:
    """Raise Unavailable on a kernel that is too old: half of what protects a container would fail in its middle."""
    for problem in _kernel(floor):
        raise Unavailable(f"{problem.what}: {problem.remedy}")


def _kernel(floor: tuple[int, int]) -> Iterator[Problem]:
    if kernel_version() < floor:
        wanted = ".".join(map(str, floor))
        yield Problem(
            what=f"kernel {os.uname().release} is older than {wanted}", remedy=f"boot kernel {wanted} or later"
        )


def _privilege() -> Iterator[Problem]:
    if os.geteuid() != 0:
        yield Problem(what="not run as root", remedy="run as root: rootless use is not supported")


def _executor() -> Iterator[Problem]:
    from pysandbox.executor import executor_path

    try:
        executor_path()
    except (SandboxError, OSError) as error:
        yield Problem(what=str(error), remedy="build it with make setup")


def _libseccomp() -> Iterator[Problem]:
    import ctypes

    try:
        ctypes.CDLL("libseccomp.so.2")
    except OSError:
        yield Problem(what="libseccomp.so.2 is not installed", remedy="apt-get install libseccomp2")
