"""Carrying out a list of writes."""

from __future__ import annotations

import errno

from pysandbox.cgroup import directory
from pysandbox.cgroup.directory import GONE, CgroupError
from pysandbox.errors import FailedPrecondition, Unavailable

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Container, Iterable, Mapping

    from pysandbox.cgroup.resources import Write


def check_controllers(writes: Iterable[Write], controllers: Container[str]) -> None:
    """Raise Unavailable for the first limit that nothing on this host can enforce."""
    for write in writes:
        if write.controller not in controllers and not write.optional:
            raise Unavailable(
                f"{write.path}: cannot set {write.controller} limit: "
                f"this host has no {write.controller} cgroup controller"
            )


def perform(writes: Iterable[Write], directories: Mapping[str, str]) -> None:
    """Write each value into the directory of its controller. Raises CgroupError, which names file and value."""
    later: list[Write] = []
    for write in writes:
        try:
            _perform(write, directories)
        except CgroupError as error:
            if not (write.again and error.errno == errno.EINVAL):
                raise
            later.append(write)
    for write in later:
        _perform(write, directories)


def _perform(write: Write, directories: Mapping[str, str]) -> None:
    path = directories.get(write.controller)
    if path is None:
        return  # check_controllers let it pass: optional
    try:
        directory.write(path, write.file, write.value)
    except CgroupError as error:
        if write.optional and error.errno in GONE:
            return
        if error.errno == errno.EBUSY and write.file == "memory.limit_in_bytes":
            raise FailedPrecondition(_too_low(write, path)) from None
        error.action = f"{write.path}: {error.action}"
        raise


def _too_low(write: Write, path: str) -> str:
    usage = directory.read(path, "memory.usage_in_bytes").strip()
    peak = directory.read(path, "memory.max_usage_in_bytes").strip()
    return f"{write.path}: unable to set memory limit to {write.value} (current usage: {usage}, peak usage: {peak})"
