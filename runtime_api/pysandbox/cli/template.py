"""`pysandbox template`: make, list and remove the saved machines that microVMs are cloned from."""

from __future__ import annotations

import os
import sys
import time

from pysandbox.caller import current
from pysandbox.cli.flags import Command, Flag, UsageError
from pysandbox.errors import InvalidArgument, PermissionDenied

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

    from pysandbox.cli.invocation import Invocation

COMMAND = Command(
    "template",
    "make, list and remove the templates of microVMs",
    "create | list | rm KEY...",
    (
        Flag("vcpus", "create: virtual processors (default: what a container without limits gets)", "int"),
        Flag("memory", "create: MiB of memory (default: what a container without limits gets)", "int"),
        Flag("devices", "create: file systems, interfaces and disks that can be plugged in", "int", default=2),
        Flag("disk", "create: for containers whose root is a disk image"),
        Flag("all", "rm: all of them", alias="a"),
        Flag("format", "of the list: table or json", "string", "f", "table"),
    ),
    at_most=None,
    details="""
A container makes the template of its size by itself, the first time; the next start from it. A template is made anew
when the image, QEMU, the settings or the host's boot are others than its own. Removing one harms no machine.
""",
)
BACKEND = "microvm"
_COLUMNS = ("template", "vcpus", "memory", "ports", "disk", "accelerator", "size", "created")
_MIB = 1024 * 1024


def run(invocation: Invocation) -> int:
    """Do what the first argument says."""
    match invocation.parsed.arguments:
        case ["create"]:
            return _create(invocation)
        case ["list"]:
            return _list(invocation)
        case ["rm", *keys] if bool(keys) is not invocation.parsed["all"]:
            return _remove(invocation, keys)
    raise UsageError('pysandbox: "template" requires create, list, or rm and a key or --all')


def _stock(invocation: Invocation) -> Any:
    from pysandbox.plugins import load_part

    if os.geteuid() != 0:
        raise PermissionDenied("templates are root's: run as root")
    return load_part(BACKEND, "stock").Stock(invocation.config().backends.get(BACKEND, {}))


def _create(invocation: Invocation) -> int:
    numbers = {name: invocation.parsed[name] for name in ("vcpus", "memory", "devices")}
    for name, number in numbers.items():
        if not 0 <= number <= 1 << 24:
            raise InvalidArgument(f"--{name} {number}: must not be negative, or so large")
    current().require_cold("a machine is started, which is to be this very process's child")
    made = _stock(invocation).create(**numbers, disk=invocation.parsed["disk"])
    sys.stdout.write(f"{made.key}\n")
    return 0


def _list(invocation: Invocation) -> int:
    from pysandbox.cli.list import show

    show(invocation.parsed["format"], _stock(invocation).list(), _COLUMNS, _row)
    return 0


def _row(one: Any) -> list[str]:
    created = time.strftime("%Y-%m-%d %H:%M", time.localtime(one.created))
    memory, size = f"{one.memory // _MIB} MiB", f"{one.size / _MIB:.0f} MiB"
    return [one.key, str(one.vcpus), memory, str(one.ports), "yes" if one.disk else "", one.accelerator, size, created]


def _remove(invocation: Invocation, keys: list[str]) -> int:
    stock = _stock(invocation)
    for key in keys or [one.key for one in stock.list()]:
        stock.remove(key)
    return 0
