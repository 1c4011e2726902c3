"""The features document of runtime-spec: what this program knows, whatever the host has (features.md)."""

from __future__ import annotations

from pysandbox import VERSION
from pysandbox.linux import kernel_version
from pysandbox.oci.capabilities import CAPABILITIES
from pysandbox.oci.default import OCI_VERSION
from pysandbox.oci.linux_rules import MEMORY_POLICY_FLAGS, MEMORY_POLICY_MODES, NAMESPACES
from pysandbox.oci.mountoptions import MOUNT_OPTIONS
from pysandbox.oci.seccomp_rules import ACTIONS, ARCHITECTURES, FLAGS, OPERATORS
from pysandbox.oci.validate import HOOKS, OTHER_PLATFORMS

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Mapping
    from typing import Any

    from pysandbox.backend import Features

#: Annotations that change what happens on the host; whoever passes on annotations of others should hold these back.
UNSAFE_ANNOTATIONS = ("io.pysandbox.",)

#: What the front end does, whatever the backend.
_FRONT_END = frozenset({"ociVersion", "annotations", "hooks"})

#: The part of a spec that a feature of the document stands for.
_FIELDS = {
    "apparmor": "process.apparmorProfile",
    "selinux": "process.selinuxLabel",
    "intelRdt": "linux.intelRdt",
    "netDevices": "linux.netDevices",
}


def features_document(backend_features: Features) -> dict[str, Any]:
    """Return the document for one backend, in the spec's order of members.

    A feature counts as enabled where the backend enforces its field or leaves it to the guest.
    """
    fields = backend_features.fields
    return {
        "ociVersionMin": "1.0.0",
        "ociVersionMax": OCI_VERSION,
        "hooks": list(HOOKS),
        "mountOptions": sorted(MOUNT_OPTIONS),
        "linux": _linux(fields),
        "annotations": {**_annotations(), **backend_features.annotations},
        "potentiallyUnsafeConfigAnnotations": list(UNSAFE_ANNOTATIONS),
    }


def treatment(fields: Mapping[str, str], path: str) -> str:
    """Say what a backend does with a field: the longest of its patterns that the path begins with decides.

    Paths are without indexes: `mounts.options`. What no pattern covers is `ignored`, unless it is the front end's.
    """
    if path in OTHER_PLATFORMS:
        return "ignored"
    prefix = path
    while prefix:
        if prefix in fields:
            return fields[prefix]
        prefix = prefix.rpartition(".")[0]
    return "enforced" if path.partition(".")[0] in _FRONT_END else "ignored"


def _linux(fields: Mapping[str, str]) -> dict[str, Any]:
    enabled = {name: {"enabled": _done(fields, path)} for name, path in _FIELDS.items()}
    return {
        "namespaces": sorted(NAMESPACES),
        "capabilities": list(CAPABILITIES),
        "cgroup": {"v1": True, "v2": True, "systemd": True, "systemdUser": False, "rdma": True},
        "seccomp": _seccomp(fields),
        **enabled,
        "memoryPolicy": {"modes": sorted(MEMORY_POLICY_MODES), "flags": sorted(MEMORY_POLICY_FLAGS)},
        "mountExtensions": {"idmap": {"enabled": _done(fields, "mounts.uidMappings")}},
    }


def _seccomp(fields: Mapping[str, str]) -> dict[str, Any]:
    return {
        "enabled": _done(fields, "linux.seccomp"),
        "actions": sorted(ACTIONS),
        "operators": sorted(OPERATORS),
        "archs": sorted(ARCHITECTURES),
        "knownFlags": sorted(FLAGS),
        "supportedFlags": sorted(_supported_flags()),
    }


def _done(fields: Mapping[str, str], path: str) -> bool:
    return treatment(fields, path) in {"enforced", "guest"}


def _supported_flags() -> frozenset[str]:
    """Leave out what this kernel is too old for: all others are older than 5.12, the oldest that is supported."""
    return FLAGS if kernel_version() >= (5, 19) else FLAGS - {"SECCOMP_FILTER_FLAG_WAIT_KILLABLE_RECV"}


def _annotations() -> dict[str, str]:
    annotations = {"io.pysandbox.version": VERSION}
    libseccomp = _libseccomp_version()
    if libseccomp:
        annotations["io.github.seccomp.libseccomp.version"] = libseccomp
    return annotations


def _libseccomp_version() -> str:
    import ctypes

    class Version(ctypes.Structure):
        """struct scmp_version."""

        _fields_ = [("major", ctypes.c_uint), ("minor", ctypes.c_uint), ("micro", ctypes.c_uint)]

    try:
        library = ctypes.CDLL("libseccomp.so.2")
    except OSError:
        return ""
    library.seccomp_version.restype = ctypes.POINTER(Version)
    version = library.seccomp_version().contents
    return f"{version.major}.{version.minor}.{version.micro}"
