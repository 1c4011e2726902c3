"""A bundle on disk: the directory, its config.json, its root file system."""

from __future__ import annotations

import os
import stat

from pysandbox.errors import InvalidArgument
from pysandbox.oci.document import open_document, open_stream, read_object
from pysandbox.oci.validate import validate, validate_process, validate_resources
from pysandbox.record import dataclass, replace

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator
    from typing import Any

    from pysandbox.oci.types import Mount, Process, Resources, Spec

CONFIG = "config.json"
#: Namespaces in which a spec changes settings, and their files in /proc/PID/ns.
_NAMESPACE_FILES = {"network": "net", "ipc": "ipc", "uts": "uts"}


@dataclass(frozen=True, slots=True)
class Bundle:
    """A bundle that passed every check. `path` and `rootfs` are absolute and free of symbolic links.

    With `image` the rootfs is a file or block device with a file system in it, for backends that can boot from one.
    """

    path: str
    spec: Spec
    rootfs: str
    image: bool = False

    def extended(self, environment: Iterable[str] = (), mounts: Iterable[Mount] = ()) -> Bundle:
        """Return the bundle with more environment for its process, and more mounts."""
        spec = self.spec.copy()
        spec["mounts"] = [*spec.get("mounts", ()), *mounts]
        spec["process"] = spec["process"].copy()
        spec["process"]["env"] = [*spec["process"].get("env", ()), *environment]
        return replace(self, spec=spec)


def load_bundle(path: str, config: str = CONFIG) -> Bundle:
    """Read and check the bundle in a directory. `config` is the file of the spec, from there on.

    Raises InvalidArgument, whose text names the file or the JSON path. What the spec leaves out and every reader would
    have to guess is filled in: `process.user` with its uid and gid (0, as for runc).
    """
    directory = _directory(path)
    spec = _read_config(directory, config)
    validate(spec)
    _refuse_host_settings(spec)
    _refuse_other_maps(spec)
    _fill_in(spec["process"])
    return Bundle(directory, spec, *_rootfs(directory, spec["root"]["path"]))


def load_process(path: str) -> Process:
    """Read and check the file of `exec --process`: one process object. A pipe will do, for `--process <(…)`."""
    process: Any = _read_stream(path)
    validate_process(process, "process")
    _fill_in(process)
    return process  # type: ignore[no-any-return]


def load_resources(path: str) -> Resources:
    """Read and check the file of `update --resources`: one resources object; `-` is standard input."""
    resources: Any = read_object(0, "standard input") if path == "-" else _read_stream(path)
    validate_resources(resources, "resources")
    return resources  # type: ignore[no-any-return]


def _directory(path: str) -> str:
    try:
        directory = os.path.realpath(path or ".", strict=True)
        mode = os.stat(directory).st_mode
    except (OSError, ValueError) as error:
        raise InvalidArgument(f"chdir {path}: {_reason(error)}") from None
    if not stat.S_ISDIR(mode):
        raise InvalidArgument(f"chdir {path}: not a directory")
    return directory


def _read_config(directory: str, name: str) -> Spec:
    try:
        descriptor = open_document(os.path.join(directory, name), name)
    except FileNotFoundError:
        raise InvalidArgument(f"JSON specification file {name} not found") from None
    try:
        return read_object(descriptor, name)  # type: ignore[return-value]
    finally:
        os.close(descriptor)


def _read_stream(path: str) -> dict[str, Any]:
    descriptor = open_stream(path, path)
    try:
        return read_object(descriptor, path)
    finally:
        os.close(descriptor)


def no_directory(path: str) -> InvalidArgument:
    """Return the refusal of a root that is no directory."""
    return InvalidArgument(f"invalid rootfs: {path}: not a directory")


def _rootfs(directory: str, path: str) -> tuple[str, bool]:
    """Find the root file system: an existing directory, or an image, with no symbolic link on the way to it.

    A link would let whoever may write beside the bundle choose the root after it was checked.
    """
    joined = os.path.normpath(path if path.startswith("/") else f"{directory}/{path}")
    try:
        mode = os.stat(joined).st_mode
        real = os.path.realpath(joined, strict=True)
    except (OSError, ValueError) as error:
        raise InvalidArgument(f"invalid rootfs: stat {joined}: {_reason(error)}") from None
    image = stat.S_ISREG(mode) or stat.S_ISBLK(mode)
    if not (stat.S_ISDIR(mode) or image):
        raise no_directory(joined)
    if os.path.normpath(real) != joined:
        raise InvalidArgument(f"invalid rootfs: {joined}: not an absolute path, or a symlink")
    return joined, image


def _fill_in(process: Process) -> None:
    user = process.setdefault("user", {"uid": 0, "gid": 0})
    user.setdefault("uid", 0)
    user.setdefault("gid", 0)


def _refuse_host_settings(spec: Spec) -> None:
    """Refuse what would change the host: joining our own namespace by its path is no private one."""
    linux = spec.get("linux", {})
    for index, namespace in enumerate(linux.get("namespaces", ())):
        kind, path = namespace["type"], namespace.get("path", "")
        changes = list(_changes(spec, kind))
        if changes and path and _is_ours(path, _NAMESPACE_FILES[kind], f"linux.namespaces[{index}].path"):
            raise InvalidArgument(changes[0])


def _changes(spec: Spec, kind: str) -> Iterator[str]:
    """Yield why a namespace of this kind must be private: what the spec would change in it."""
    linux = spec.get("linux", {})
    if kind == "network" and linux.get("netDevices"):
        yield "linux.netDevices: unable to move network devices without a private NET namespace"
    for key in linux.get("sysctl", ()):
        if _namespace_of_sysctl(key.replace("/", ".")) == kind:
            yield f'linux.sysctl: sysctl "{key}" not allowed in host {kind} namespace'
    for name in ("hostname", "domainname"):
        if kind == "uts" and spec.get(name) and spec[name] != os.uname().nodename:
            yield f"{name}: unable to set {name} without a private UTS namespace"


def _namespace_of_sysctl(key: str) -> str:
    """Return the kind of namespace that a permitted sysctl belongs to."""
    if key.startswith("net."):
        return "network"
    return "uts" if key == "kernel.domainname" else "ipc"


def _refuse_other_maps(spec: Spec) -> None:
    """Refuse maps that are not those of the user namespace that is joined: half of what is set up would be wrong.

    Seen only where the path names a process: of a pinned namespace nobody can tell the maps from outside.
    """
    linux = spec.get("linux", {})
    for namespace in linux.get("namespaces", ()):
        parts = namespace.get("path", "").split("/")
        if namespace["type"] != "user" or len(parts) != 5 or [parts[1], *parts[3:]] != ["proc", "ns", "user"]:
            continue
        for name, file in (("uidMappings", "uid_map"), ("gidMappings", "gid_map")):
            mappings: Any = linux.get(name)
            if mappings and _maps_of(f"/proc/{parts[2]}/{file}") != {
                (mapping["containerID"], mapping["hostID"], mapping["size"]) for mapping in mappings
            }:
                raise InvalidArgument(
                    f"linux.{name}: user namespaces enabled, but both namespace path and non-matching mapping specified"
                    " -- you may only provide one"
                )


def _maps_of(path: str) -> set[tuple[int, ...]]:
    try:
        with open(path, encoding="ascii") as file:
            return {tuple(map(int, text.split())) for text in file}
    except OSError as error:
        raise InvalidArgument(f"{path}: {_reason(error)}") from None


def _is_ours(path: str, own: str, place: str) -> bool:
    try:
        return os.path.samefile(path, f"/proc/self/ns/{own}")
    except OSError as error:
        raise InvalidArgument(f"{place}: {path}: {_reason(error)}") from None


def _reason(error: OSError | ValueError) -> str:
    return (getattr(error, "strerror", None) or str(error)).lower()
