"""What on this host would stop the backend: each finding with its remedy."""

from __future__ import annotations

import os

from pysandbox.backend import Problem
from pysandbox.errors import SandboxError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping, Sequence
    from typing import Any

#: Debian's packages of the programs that a machine is made of.
_PACKAGES = {"qemu": "qemu-system-x86", "virtiofsd": "virtiofsd (Debian 12: qemu-system-common)"}


def problems(settings: Mapping[str, Any]) -> Sequence[Problem]:
    """Return every problem found; changes nothing, boots nothing."""
    return [*_privilege(), *_programs(settings), *_image(settings)]


def _privilege() -> Iterator[Problem]:
    if os.geteuid() != 0:
        yield Problem(what="not run as root", remedy="run as root: rootless use is not supported")


def _programs(settings: Mapping[str, Any]) -> Iterator[Problem]:
    from pysandbox_microvm.provision import find_qemu
    from pysandbox_microvm.virtiofsd import find_server

    yield from _found(lambda: find_qemu(settings), f"apt-get install {_PACKAGES['qemu']}")
    yield from _found(lambda: find_server(settings.get("virtiofsd", "")), f"apt-get install {_PACKAGES['virtiofsd']}")


def _image(settings: Mapping[str, Any]) -> Iterator[Problem]:
    from pysandbox_microvm.image import REMEDY, find_image

    yield from _found(lambda: find_image(settings), REMEDY)


def _found(look: Callable[[], object], remedy: str) -> Iterator[Problem]:
    try:
        look()
    except (SandboxError, OSError) as error:
        yield Problem(what=str(error).partition("; remedy: ")[0], remedy=remedy)
