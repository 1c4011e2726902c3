"""What mounts and id maps may say."""

from __future__ import annotations

from pysandbox.oci.document import quote
from pysandbox.oci.mountoptions import MS_REMOUNT, is_bind, parse_mount_options
from pysandbox.oci.schema import UINT32, Array, Bad, Integer, Object, Strings, filled, string, uint32

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

    from pysandbox.oci.mountoptions import ParsedOptions
    from pysandbox.oci.types import IdMapping, Mount, Spec

#: Lines that the kernel takes in /proc/PID/uid_map, since Linux 4.15.
_ID_MAP_LINES = 340


def _id_mapping(mapping: IdMapping) -> None:
    for name in ("containerID", "hostID"):
        # The kernel refuses a range that wraps; 2**32-1 is no id.
        if mapping[name] + mapping["size"] > UINT32:
            raise Bad(f"range of {mapping['size']} ids goes beyond {UINT32 - 1}", name)


_ID_MAPPINGS = Array(
    Object(
        {"containerID": uint32, "hostID": uint32, "size": Integer(1, UINT32)},
        ("containerID", "hostID", "size"),
        rule=_id_mapping,
    ),
    most=_ID_MAP_LINES,
)


def id_mappings(value: Any) -> None:
    """Id maps as user_namespaces(7) has them: no id twice, neither inside nor outside."""
    _ID_MAPPINGS(value)
    for name in ("containerID", "hostID"):
        end, last = -1, -1
        for start, size, index in sorted((mapping[name], mapping["size"], i) for i, mapping in enumerate(value)):
            if start < end:
                raise Bad(f"overlaps with entry {min(last, index)}", max(last, index), name)
            end, last = start + size, index


def _options(value: Any) -> None:
    Strings()(value)
    for index, option in enumerate(value):
        if option.startswith(("idmap=", "ridmap=")):
            raise Bad(f"use uidMappings and gidMappings, not mappings in an option: {quote(option)}", index)


def _mount(mount: Mount) -> None:
    options = parse_mount_options(mount.get("options", ()))
    if is_bind(mount):
        if options.data:
            # The kernel would ignore them without a word.
            raise Bad(
                f"bind mounts cannot have any filesystem-specific options applied: {quote(','.join(options.data))}",
                "options",
            )
        if not mount.get("source"):
            raise Bad("is required for a bind mount", "source")
    elif not mount.get("type") and not options.set_flags & MS_REMOUNT and not options.propagation:
        raise Bad("is required", "type")
    _check_id_map(mount, options)


def _check_id_map(mount: Mount, options: ParsedOptions) -> None:
    uid, gid = mount.get("uidMappings"), mount.get("gidMappings")
    if not (uid or gid or "idmap" in options.extensions or "ridmap" in options.extensions):
        return
    if not is_bind(mount):
        raise Bad("invalid mount: id-mapped mounts are only supported for bind-mounts")
    if options.set_flags & MS_REMOUNT:
        raise Bad("invalid mount: a remount cannot be id-mapped", "options")
    if bool(uid) != bool(gid):
        raise Bad(
            "invalid mount: id-mapped mounts must have both uid and gid mappings specified",
            "gidMappings" if uid else "uidMappings",
        )


#: The shape of `mounts`.
MOUNTS = Array(
    Object(
        {
            "destination": filled,
            "type": string,
            "source": string,
            "options": _options,
            "uidMappings": id_mappings,
            "gidMappings": id_mappings,
        },
        ("destination",),
        rule=_mount,
    )
)


def check_mounts(spec: Spec) -> None:
    """Refuse `idmap` without mappings where the container has no user namespace to take them from."""
    for index, mount in enumerate(spec.get("mounts", ())):
        options = mount.get("options", ())
        if ("idmap" in options or "ridmap" in options) and not mount.get("uidMappings"):
            kinds = [namespace["type"] for namespace in spec.get("linux", {}).get("namespaces", ())]
            if "user" not in kinds:
                raise Bad(
                    "invalid mount: id-mapped mounts must have both uid and gid mappings specified",
                    "mounts", index, "uidMappings",
                )  # fmt: skip
