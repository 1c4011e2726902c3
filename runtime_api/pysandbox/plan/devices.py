"""Devices and links in /dev: the ones that every container gets, and the spec's own.

Nothing is made in a /dev that is a bind mount: it is the host's, and the container's owner filled it (runc's rule). A
spec's device of a default path replaces the default. In a user namespace mknod(2) is refused, so nodes are binds of the
host's; FIFOs can be made anywhere.
"""

from __future__ import annotations

import posixpath

from pysandbox.errors import InvalidArgument
from pysandbox.oci.mountoptions import is_bind
from pysandbox.plan import operation as op
from pysandbox.plan.steps import Steps

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Sequence

    from pysandbox.oci.types import Device, Spec
    from pysandbox.plan.host import Host
    from pysandbox.plan.operation import Operation

#: Path, major, minor: runtime-spec config-linux.md, "Default Devices". /dev/console comes with the terminal.
DEFAULT_DEVICES = (
    ("/dev/null", 1, 3),
    ("/dev/zero", 1, 5),
    ("/dev/full", 1, 7),
    ("/dev/random", 1, 8),
    ("/dev/urandom", 1, 9),
    ("/dev/tty", 5, 0),
)
DEFAULT_LINKS = (
    ("/dev/fd", "/proc/self/fd"),
    ("/dev/stdin", "/proc/self/fd/0"),
    ("/dev/stdout", "/proc/self/fd/1"),
    ("/dev/stderr", "/proc/self/fd/2"),
)


def fills_dev(spec: Spec) -> bool:
    """Say whether /dev is ours to fill: not where the spec binds something there."""
    return not any(is_bind(mount) and absolute(mount["destination"]) == "/dev" for mount in spec.get("mounts") or ())


def absolute(destination: str) -> str:
    """Return a destination cleaned and from the root: the spec still allows relative ones."""
    return "/" + posixpath.normpath("/" + destination).lstrip("/")


def plan_devices(spec: Spec, host: Host, *, user_namespace: bool) -> Steps:
    """Return what opens devices in the outer process, and what puts devices and links in place."""
    if not fills_dev(spec):
        return Steps()
    nodes = _nodes((spec.get("linux") or {}).get("devices") or ())
    steps = Steps()
    for number, (path, kind, major, minor, mode, uid, gid) in enumerate(nodes):
        if user_namespace and kind != "p":
            slot = f"device{number}"
            steps.outer.append(op.open_device(slot, path, kind, major, minor))
            steps.inner.append(op.mount_bind(slot, path))
        else:
            steps.inner.append(op.make_device(path, kind, major, minor, mode, uid, gid))
    steps.inner += _links(host)
    return steps


_Node = tuple[str, str, int, int, int, int, int]


def _nodes(devices: Sequence[Device]) -> list[_Node]:
    own = [_node(device, f"linux.devices[{index}]") for index, device in enumerate(devices)]
    by_path: dict[str, _Node] = {}
    for index, node in enumerate(own):
        if by_path.setdefault(node[0], node) != node:
            raise InvalidArgument(f"linux.devices[{index}].path: {node[0]} is there already, as another device")
    defaults = [(path, "c", major, minor, 0o666, 0, 0) for path, major, minor in DEFAULT_DEVICES if path not in by_path]
    return defaults + list(by_path.values())


def _node(device: Device, where: str) -> _Node:
    kind = {"c": "c", "u": "c", "b": "b", "p": "p"}.get(device["type"])
    if kind is None:
        raise InvalidArgument(f"{where}.type: invalid device type {device['type']!r}")
    mode = device.get("fileMode")
    return (
        absolute(device["path"]),
        kind,
        device.get("major") or 0,
        device.get("minor") or 0,
        0o666 if mode is None else mode & 0o7777,
        device.get("uid") or 0,
        device.get("gid") or 0,
    )


def _links(host: Host) -> list[Operation]:
    links = [op.make_link(path, target) for path, target in DEFAULT_LINKS]
    if host.kcore:
        links.append(op.make_link("/dev/core", "/proc/kcore"))
    return [*links, op.make_link("/dev/ptmx", "pts/ptmx", replace=True)]
