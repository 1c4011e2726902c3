"""Which version of the runtime specification a document needs: what it says it is may be more.

runtime-spec, config.md "Specification version": a runtime of 1.0 need not take a document of 1.1, and crun before 1.9
refuses it by its number alone. A document that uses nothing younger than 1.0.2 is one of 1.0.2 as well, so that is what
the runtime is told. What is younger is in the specification's change log, by field.
"""

from __future__ import annotations

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Mapping
    from typing import Any

OLDEST = "1.0.2"
#: Members that came with 1.1, 1.2 or 1.3, by the object that they are in.
_YOUNG: Mapping[str, frozenset[str]] = {
    "": frozenset({"domainname"}),
    "process": frozenset({"scheduler", "ioPriority", "execCPUAffinity"}),
    "linux": frozenset({"timeOffsets", "netDevices", "memoryPolicy"}),
    "linux.seccomp": frozenset({"listenerPath", "listenerMetadata"}),
    "linux.resources": frozenset({"unified"}),
    "linux.resources.memory": frozenset({"checkBeforeUpdate"}),
    "linux.resources.cpu": frozenset({"idle", "burst"}),
    "linux.intelRdt": frozenset({"schemata", "enableCMT", "enableMBM", "enableMonitoring"}),
}
_YOUNG_OF_MOUNTS = frozenset({"uidMappings", "gidMappings"})
_YOUNG_OPTIONS = frozenset(
    """
    idmap ridmap rro rrw rnosuid rsuid rnodev rdev rnoexec rexec rnodiratime rdiratime rrelatime rnorelatime rnoatime
    ratime rstrictatime rnostrictatime rnosymfollow rsymfollow
    """.split()
)


def needed_version(spec: Mapping[str, Any]) -> str:
    """Return the version to declare: OLDEST where nothing in the document is younger, else its own."""
    own: str = spec["ociVersion"]
    return own if own.startswith("1.0") or _is_young(spec) else OLDEST


def _is_young(spec: Mapping[str, Any]) -> bool:
    linux = spec.get("linux") or {}
    return (
        any(not young.isdisjoint(_object(spec, path)) for path, young in _YOUNG.items())
        or any(namespace.get("type") == "time" for namespace in linux.get("namespaces") or ())
        or any(_is_young_mount(mount) for mount in spec.get("mounts") or ())
    )


def _is_young_mount(mount: Mapping[str, Any]) -> bool:
    return not _YOUNG_OF_MOUNTS.isdisjoint(mount) or not _YOUNG_OPTIONS.isdisjoint(mount.get("options") or ())


def _object(spec: Mapping[str, Any], path: str) -> Mapping[str, Any]:
    found: Any = spec
    for name in path.split(".") if path else ():
        found = found.get(name) or {}
    return found  # type: ignore[no-any-return]
