"""What on this host would stop the backend."""

from __future__ import annotations

import os

from pysandbox.backend import Problem
from pysandbox.errors import SandboxError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence


def problems(kernel_floor: tuple[int, int]) -> Sequence[Problem]:
    """Return every problem found; changes nothing."""
    return [*_kernel(kernel_floor), *_privilege(), *_executor(), *_libseccomp()]


def kernel_version(release: str) -> tuple[int, int]:
    """Return (major, minor) of a release such as `6.1.0-18-amd64`."""
    major, minor = release.split(".")[:2]
    return int(major), int("".join(character for character in minor if character.isdigit()) or 0)


def _kernel(floor: tuple[int, int]) -> Iterator[Problem]:
    release = os.uname().release
    if kernel_version(release) < floor:
        wanted = ".".join(map(str, floor))
        yield Problem(what=f"kernel {release} is older than {wanted}", remedy=f"boot kernel {wanted} or later")


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
