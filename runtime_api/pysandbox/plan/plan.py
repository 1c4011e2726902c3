"""A plan: the operations in order, and what goes with them. Python's part ends with it; the executor does the rest."""

from __future__ import annotations

import json

from pysandbox.oci import mountoptions
from pysandbox.plan.operation import PLAN_VERSION
from pysandbox.record import dataclass

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence
    from typing import Any

    from pysandbox.plan.operation import Operation


def _constants(prefix: str) -> tuple[tuple[int, str], ...]:
    return tuple((value, name) for name, value in vars(mountoptions).items() if name.startswith(prefix) and value)


_ATTRIBUTES = _constants("MOUNT_ATTR_")
_MOUNT_FLAGS = _constants("MS_")
_SECCOMP_FLAGS = (
    (1 << 0, "SECCOMP_FILTER_FLAG_TSYNC"),
    (1 << 1, "SECCOMP_FILTER_FLAG_LOG"),
    (1 << 2, "SECCOMP_FILTER_FLAG_SPEC_ALLOW"),
    (1 << 3, "SECCOMP_FILTER_FLAG_NEW_LISTENER"),
    (1 << 5, "SECCOMP_FILTER_FLAG_WAIT_KILLABLE_RECV"),
)
#: Arguments that are bit masks: (operation or "", argument) → names of the bits.
_MASKS = {
    ("", "attributes"): _ATTRIBUTES,
    ("", "set"): _ATTRIBUTES,
    ("", "clear"): _ATTRIBUTES,
    ("", "recursive_set"): _ATTRIBUTES,
    ("", "recursive_clear"): _ATTRIBUTES,
    ("", "propagation"): _MOUNT_FLAGS,
    ("", "legacy_flags"): _MOUNT_FLAGS,
    ("root_propagation", "flags"): _MOUNT_FLAGS,
    ("seccomp", "flags"): _SECCOMP_FLAGS,
}
_OCTAL = {"mode", "value"}  # of make_device, make_directory; `value` only of umask
_CAPABILITY_SETS = {"bounding", "effective", "permitted", "inheritable", "ambient"}


@dataclass(frozen=True, slots=True, kw_only=True)
class Plan:
    """Operations for one executor.

    `warnings` are for the log: what the spec asks for and the host cannot give, where runc goes on too. `debug` are
    lines for `--debug`. `time_offsets` is what the caller writes to /proc/PID/timens_offsets at the stop of that name.
    """

    operations: Sequence[Operation]
    trace: bool = False
    warnings: Sequence[str] = ()
    debug: Sequence[str] = ()
    time_offsets: str = ""

    def documents(self) -> list[dict[str, Any]]:
        """Return each operation as the executor reads it: its name as `op`, its arguments beside it."""
        return [{"op": operation.name, **operation.arguments} for operation in self.operations]

    def to_json(self) -> bytes:
        """Return the document that the executor reads from slot `plan`."""
        document = {"version": PLAN_VERSION, "trace": self.trace, "operations": self.documents()}
        return json.dumps(document, separators=(",", ":")).encode()

    def describe(self) -> list[str]:
        """Return one readable line for each operation; arguments that say nothing (False, None, empty) are left out."""
        return [_describe(operation) for operation in self.operations]


def _describe(operation: Operation) -> str:
    words = [operation.name]
    for name, value in operation.arguments.items():
        text = _argument(operation.name, name, value)
        if text:
            words.append(text)
    return " ".join(words)


def _argument(operation: str, name: str, value: Any) -> str:
    if name == "follow":
        return "" if value else "nofollow"
    if (value is None or value is False or value in ("", [], (), {})) and operation != "dumpable":
        return ""
    if value is True:
        return name
    bits = _MASKS.get((operation, name)) or _MASKS.get(("", name))
    if bits:
        return f"{name}={'|'.join(_bit_names(value, bits))}" if value else ""
    if (operation == "credentials" and name in _CAPABILITY_SETS) or operation == "keyring":
        return f"{name}={value}" if isinstance(value, str) else f"{name}={value:#x}"
    if name in _OCTAL and operation in ("umask", "make_device", "make_directory"):
        return f"{name}={value:04o}"
    if operation == "seccomp" and name == "program":
        return f"program={len(value) * 3 // 4 // 8} instructions"
    if isinstance(value, str):
        return f"{name}={value}"
    return f"{name}={json.dumps(value, separators=(',', ':'), ensure_ascii=False)}"


def _bit_names(mask: int, bits: Sequence[tuple[int, str]]) -> Iterator[str]:
    """Name the bits of a mask; a field of several bits stands before its parts and takes them with it."""
    for bit, name in bits:
        if mask & bit == bit:
            yield name
            mask &= ~bit
    if mask:
        yield f"{mask:#x}"
