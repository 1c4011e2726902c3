"""Namespaces: which are new, which are joined, and in what order.

Joins come first, because a path names a namespace only as long as the mount namespace is the caller's. Among them the
user namespace comes last: root of the host may join any namespace, but after joining a user namespace it may join only
those which that one owns, and a container's network namespace is often the host's (runc ≥ 1.2 does the same). A *new*
user namespace comes before the other new ones, so that it owns them. The cgroup namespace is made in the container's
init, after the caller has put it into its cgroup: that is what becomes the namespace's root.
"""

from __future__ import annotations

from pysandbox.errors import InvalidArgument
from pysandbox.oci.linux_rules import NAMESPACES
from pysandbox.plan import operation as op
from pysandbox.record import dataclass

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from pysandbox.oci.types import IdMapping, Linux, Spec
    from pysandbox.plan.operation import Operation


@dataclass(frozen=True, slots=True)
class Namespaces:
    """Path by kind, in the spec's order; an empty path stands for a new namespace."""

    paths: Mapping[str, str]

    def has(self, kind: str) -> bool:
        """Say whether the container has its own or joins one."""
        return kind in self.paths

    def is_new(self, kind: str) -> bool:
        """Say whether a new one is made."""
        return self.paths.get(kind) == ""


def read_namespaces(linux: Linux) -> Namespaces:
    """Take `linux.namespaces` apart. Raises InvalidArgument for an unknown or repeated kind."""
    paths: dict[str, str] = {}
    for index, namespace in enumerate(linux.get("namespaces") or ()):
        kind = namespace["type"]
        if kind not in NAMESPACES:
            raise InvalidArgument(f"linux.namespaces[{index}].type: namespace {kind!r} does not exist")
        if kind in paths:
            raise InvalidArgument(f"linux.namespaces[{index}].type: duplicated namespace {kind!r}")
        paths[kind] = namespace.get("path") or ""
    return Namespaces(paths)


def enter(namespaces: Namespaces, linux: Linux) -> list[Operation]:
    """Join and unshare in the outer process; pid and time take effect at `clone`."""
    joined = [(kind, path) for kind, path in namespaces.paths.items() if path]
    joined.sort(key=lambda pair: pair[0] == "user")
    operations = [op.join(kind, path) for kind, path in joined]
    if namespaces.is_new("user"):
        _check_root_mapped(linux)
        operations += [op.unshare(["user"]), op.stop("id_maps")]
    if namespaces.has("user"):
        operations.append(op.become_root())
    new = [kind for kind in namespaces.paths if namespaces.is_new(kind) and kind not in ("user", "cgroup")]
    if new:
        operations.append(op.unshare(new))
    return operations + _time_offsets(namespaces, linux)


def makes_network(spec: Spec) -> bool:
    """Say whether a plan makes a network namespace in the caller's user namespace, so that it can be made before it."""
    namespaces = read_namespaces(spec.get("linux") or {})
    return namespaces.is_new("network") and not namespaces.has("user")


def _check_root_mapped(linux: Linux) -> None:
    for key, mappings in (("uid", linux.get("uidMappings")), ("gid", linux.get("gidMappings"))):
        if not is_mapped(id_maps(mappings), 0):
            raise InvalidArgument(f"linux.{key}Mappings: root of the container (0) is not mapped to an id of the host")


def _time_offsets(namespaces: Namespaces, linux: Linux) -> list[Operation]:
    """Set the clocks of a new time namespace, before any process is in it.

    In a user namespace the file belongs to root of the host, since the process is not dumpable: the caller writes it.
    """
    offsets = linux.get("timeOffsets") or {}
    if not offsets:
        return []
    if not namespaces.is_new("time"):
        raise InvalidArgument("linux.timeOffsets: needs a new time namespace")
    if namespaces.has("user"):
        return [op.stop("time_offsets")]
    return [op.time_offsets(_offset_values(linux))]


def _offset_values(linux: Linux) -> list[tuple[str, int, int]]:
    offsets = linux.get("timeOffsets") or {}
    return [(clock, value.get("secs") or 0, value.get("nanosecs") or 0) for clock, value in offsets.items()]


def offsets_text(linux: Linux) -> str:
    """Return the lines for /proc/PID/timens_offsets: clock, seconds, nanoseconds."""
    return "".join(f"{clock} {seconds} {nanoseconds}\n" for clock, seconds, nanoseconds in _offset_values(linux))


def id_maps(mappings: Sequence[IdMapping] | None) -> list[tuple[int, int, int]]:
    """Return maps as an operation takes them: container id, host id, size."""
    return [(entry["containerID"], entry["hostID"], entry["size"]) for entry in mappings or ()]


def is_mapped(maps: Sequence[tuple[int, int, int]], number: int) -> bool:
    """Say whether an id of the container exists on the host."""
    return any(inside <= number < inside + size for inside, _, size in maps)
