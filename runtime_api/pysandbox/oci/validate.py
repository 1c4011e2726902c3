"""The check of a whole spec against runtime-spec 1.2 and 1.3 for Linux, and against what runc refuses.

Unknown properties pass, sections of other platforms are not looked at. A value that is wrong, or that means something
this program does not do, is refused with its JSON path. Pure: nothing of the host is looked at.
"""

from __future__ import annotations

from pysandbox.oci.document import format_path, quote
from pysandbox.oci.linux_rules import LINUX, check_namespaced, check_user_namespace
from pysandbox.oci.mount_rules import MOUNTS, check_mounts
from pysandbox.oci.process_rules import PROCESS
from pysandbox.oci.resource_rules import RESOURCES
from pysandbox.oci.schema import (
    INT64,
    Array,
    Bad,
    Choice,
    Integer,
    Object,
    Strings,
    Table,
    absolute,
    boolean,
    filled,
    line,
    string,
    uint32,
    uint64,
)

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator
    from typing import Any

    from pysandbox.oci.schema import Shape
    from pysandbox.oci.types import Spec

#: Fields that mean nothing on Linux, and sections of other platforms.
OTHER_PLATFORMS = ("process.commandLine", "process.user.username", "windows", "solaris", "zos", "freebsd")

HOOKS = ("prestart", "createRuntime", "createContainer", "startContainer", "poststart", "poststop")


def validate(spec: Any) -> None:
    """Check a whole spec. Raises InvalidArgument: `linux.namespaces[2].type: unknown namespace "foo"`.

    Changes nothing but names of known properties in the wrong case, which get the right one.
    """
    try:
        SPEC(spec)
        check_mounts(spec)
        check_namespaced(spec)
        check_user_namespace(spec)
    except Bad as bad:
        raise bad.refusal() from None


def validate_process(process: Any, path: str) -> None:
    """Check one process object; `path` is its own JSON path, for errors."""
    try:
        PROCESS(process)
    except Bad as bad:
        raise bad.refusal(path) from None


def validate_resources(resources: Any, path: str) -> None:
    """Check one resources object; `path` is its own JSON path, for errors."""
    try:
        RESOURCES(resources)
    except Bad as bad:
        raise bad.refusal(path) from None


def warnings(spec: Spec) -> list[str]:
    """List what a valid spec says in vain, whatever the backend, or in a form that is going away: a line each."""
    return [f"{format_path(keys)}: {problem}" for keys, problem in _warnings(spec)]


def _version(value: Any) -> None:
    string(value)
    numbers = value.partition("+")[0].partition("-")[0].split(".")
    if len(numbers) != 3 or not all(_is_number(number) for number in numbers):
        raise Bad(f"must be a semantic version like 1.2.0, not {quote(value)}")
    suffix = value[len(".".join(numbers)) :]
    if suffix in {"-", "+"} or any(not (c.isascii() and (c.isalnum() or c in "-+.")) for c in suffix):
        raise Bad(f"must be a semantic version like 1.2.0, not {quote(value)}")
    if numbers[0] != "1":
        raise Bad(f"unsupported version {quote(value)}: this program implements runtime-spec 1.x")


def _is_number(text: str) -> bool:
    return text.isascii() and text.isdigit() and len(text) <= 9 and (text == "0" or text[0] != "0")


def _host_name(value: Any) -> None:
    line(value)
    if len(value.encode(errors="surrogateescape")) > 64:  # __NEW_UTS_LEN
        raise Bad(f"must not be longer than 64 bytes, but has {len(value.encode())}")


_HOOK = Object({"path": absolute, "args": Strings(), "env": Strings(), "timeout": Integer(1, INT64)}, ("path",))

_PROGRAM: dict[str, Shape] = {"path": absolute, "parameters": Strings()}

_VM = Object(
    {
        "hypervisor": Object(_PROGRAM, ("path",)),
        "kernel": Object({**_PROGRAM, "initrd": absolute}, ("path",)),
        "image": Object(
            {"path": absolute, "format": Choice("image format", ("raw", "qcow2", "vdi", "vmdk", "vhd"))},
            ("path", "format"),
        ),
        "hwConfig": Object(
            {
                "deviceTree": absolute,
                "vcpus": Integer(1, 4096),
                "memory": Integer(1, INT64),
                "dtdevs": Strings(),
                "iomems": Array(
                    Object({"firstGFN": uint64, "firstMFN": uint64, "nrMFNs": uint64}, ("firstMFN", "nrMFNs"))
                ),
                "irqs": Array(uint32),
            }
        ),
    }
)

#: The shape of config.json.
SPEC = Object(
    {
        "ociVersion": _version,
        "process": PROCESS,
        "root": Object({"path": filled, "readonly": boolean}, ("path",)),
        "hostname": _host_name,
        "domainname": _host_name,
        "mounts": MOUNTS,
        "hooks": Object(dict.fromkeys(HOOKS, Array(_HOOK))),
        "annotations": Table(filled, string),
        "linux": LINUX,
        "vm": _VM,
    },
    ("ociVersion", "process", "root"),
)


def _warnings(spec: Spec) -> Iterator[tuple[list[str | int], str]]:
    for index, mount in enumerate(spec.get("mounts", ())):
        if not mount["destination"].startswith("/"):
            yield ["mounts", index, "destination"], "relative destination path is deprecated, using it as relative to /"
    linux = spec.get("linux", {})
    for index, rule in enumerate(linux.get("resources", {}).get("devices", ())):
        if rule["access"].strip("rwm"):
            yield ["linux", "resources", "devices", index, "access"], "letters other than r, w and m are ignored"
    if linux.get("uidMappings") and any(n["type"] == "user" and n.get("path") for n in linux.get("namespaces", ())):
        yield ["linux", "uidMappings"], "ignored: the user namespace is joined by path and has mappings already"
    for path in OTHER_PLATFORMS:
        *way, name = path.split(".")
        section: Any = spec
        for key in way:
            section = section.get(key, {})
        if name in section:
            yield [*way, name], "ignored: of another platform"
