"""The spec of a bundle: what `pysandbox spec` writes, changed as the image's configuration and the caller want it.

After image-spec's conversion.md. What an image says is never taken for more than it may say: its labels become
annotations, but none that a runtime obeys.
"""

from __future__ import annotations

from pysandbox.bundle.name import clean
from pysandbox.errors import InvalidArgument
from pysandbox.oci.capabilities import CAPABILITIES
from pysandbox.oci.default import default_spec
from pysandbox.oci.document import quote
from pysandbox.oci.features import UNSAFE_ANNOTATIONS
from pysandbox.oci.signals import parse_signal
from pysandbox.record import dataclass, field

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Iterable
    from typing import Any

    from pysandbox.oci.types import Mount, Spec

_PREFIX = "org.opencontainers.image."
#: What runtimes and engines obey in a container's annotations: never what an image may choose.
OBEYED = (
    *UNSAFE_ANNOTATIONS, "run.oci.", "org.systemd.property.", "io.katacontainers.", "dev.gvisor.", "io.kubernetes.",
    "io.containerd.", "io.podman.", "io.container.", "org.opencontainers.runtime.", "module.wasm.", "vm.", "krun.",
)  # fmt: skip
#: What docker gives every container: the capabilities that many images' first steps need (chown, su-like programs).
_DOCKER = """
    CHOWN DAC_OVERRIDE FSETID FOWNER MKNOD NET_RAW SETGID SETUID SETFCAP SETPCAP NET_BIND_SERVICE SYS_CHROOT KILL
    AUDIT_WRITE
"""
_VOLUMES = 128
#: Directories of the root that hold what the kernel says: a volume there would stand in for it.
_KERNELS = ("proc", "sys", "dev")


@dataclass(frozen=True, slots=True, kw_only=True)
class Wishes:
    """What the caller wants otherwise than the image. `entrypoint` and `user` None: as the image says."""

    args: list[str] = field(default_factory=list)
    entrypoint: str | None = None
    user: str | None = None
    env: list[str] = field(default_factory=list)
    capabilities: list[str] = field(default_factory=list)
    terminal: bool = False
    readonly: bool = False


class Configuration:
    """The `config` member of an image's configuration, its types checked. Raises InvalidArgument naming the member."""

    def __init__(self, document: dict[str, Any]) -> None:
        self.document = document
        self._config = document.get("config") or {}
        if type(self._config) is not dict:
            raise InvalidArgument("image configuration: config: must be an object")

    def text(self, key: str) -> str:
        """Return a string, "" where there is none."""
        value: str = _typed(self._config.get(key, ""), str, f"config.{key}", "a string")
        return value

    def texts(self, key: str) -> list[str]:
        """Return an array of strings, empty where there is none."""
        values = _typed(self._config.get(key, []), list, f"config.{key}", "an array of strings")
        return [_typed(value, str, f"config.{key}[{index}]", "a string") for index, value in enumerate(values)]

    def table(self, key: str) -> dict[str, Any]:
        """Return an object, empty where there is none."""
        value: dict[str, Any] = _typed(self._config.get(key, {}), dict, f"config.{key}", "an object")
        return value


def _typed(value: Any, kind: type, place: str, expected: str) -> Any:
    if type(value) is not kind:
        raise InvalidArgument(f"image configuration: {place}: must be {expected}")
    return value


def make_spec(
    document: dict[str, Any], wishes: Wishes, *, unified: bool, image: bool, warn: Callable[[str, str], None]
) -> Spec:
    """Return the spec; who the user is, only the root file system can tell. `image`: a command has to be there.

    `unified`: the host has cgroup v2 only. `warn` gets labels that were left out, as a kind and a name.
    """
    configuration = Configuration(document)
    spec = default_spec(cgroup_namespace=unified)
    process = spec["process"]
    process["terminal"] = wishes.terminal
    process["args"] = _args(configuration, wishes, process["args"] if not image else [])
    process["env"] = _environment(process["env"], configuration.texts("Env"), wishes)
    process["cwd"] = working_directory(configuration)
    _add_capabilities(process["capabilities"], wishes.capabilities)
    spec["root"]["readonly"] = wishes.readonly
    spec["hostname"] = configuration.text("Hostname") or spec["hostname"]
    if domain := configuration.text("Domainname"):
        spec["domainname"] = domain
    if wishes.readonly:
        spec["mounts"] += [_volume(path) for path in volumes(configuration)]
    if annotations := _annotations(configuration, warn):
        spec["annotations"] = annotations
    return spec


def _args(configuration: Configuration, wishes: Wishes, default: list[str]) -> list[str]:
    """Return the command, as `docker run --entrypoint E IMAGE ARGS` would have it."""
    if wishes.entrypoint is None:
        args = configuration.texts("Entrypoint") + (wishes.args or configuration.texts("Cmd"))
    else:
        args = ([wishes.entrypoint] if wishes.entrypoint else []) + wishes.args
    if not args and not default:
        raise InvalidArgument("image configuration: neither Entrypoint nor Cmd: name a command: -- COMMAND [ARGS...]")
    return args or default


def _environment(default: list[str], said: list[str], wishes: Wishes) -> list[str]:
    """Return one entry for each variable: the caller's before the image's before the template's."""
    variables: dict[str, str] = {}
    for place, entries in (("", default), ("image configuration: config.Env", said), ("--env", wishes.env)):
        for entry in entries:
            name, equals, _ = entry.partition("=")
            if not name or not equals:
                raise InvalidArgument(f"{place}: {quote(entry)}: must be NAME=VALUE")
            variables[name] = entry
    if not wishes.terminal and variables.get("TERM") in default:
        del variables["TERM"]
    return list(variables.values())


def working_directory(configuration: Configuration) -> str:
    """Return the working directory: an absolute path without `..`."""
    return _path(configuration.text("WorkingDir") or "/", "config.WorkingDir")


def volumes(configuration: Configuration) -> list[str]:
    """Return the places that the image wants to be writable, and to outlive a container."""
    found = sorted(configuration.table("Volumes"))
    if len(found) > _VOLUMES:
        raise InvalidArgument(f"image configuration: config.Volumes: more than {_VOLUMES}")
    paths = [_path(path, "config.Volumes") for path in found]
    for path in paths:
        if path == "/" or path.split("/")[1] in _KERNELS:
            raise InvalidArgument(f"image configuration: config.Volumes: {quote(path)}: no place for a volume")
    return paths


def _path(text: str, place: str) -> str:
    where = f"image configuration: {place}"
    if not text.startswith("/"):
        raise InvalidArgument(f"{where}: {quote(text)}: must be an absolute path")
    path = text.encode(errors="surrogateescape").lstrip(b"/")
    return "/" + clean(path, where).decode(errors="surrogateescape")


def _volume(path: str) -> Mount:
    return {
        "destination": path,
        "type": "tmpfs",
        "source": "tmpfs",
        "options": ["nosuid", "nodev", "mode=755", "tmpcopyup"],
    }


def _add_capabilities(sets: Any, wanted: Iterable[str]) -> None:
    for word in wanted:
        for name in _DOCKER.split() if word == "docker" else [word]:
            capability = f"CAP_{name.upper().removeprefix('CAP_')}"
            if capability not in CAPABILITIES:
                raise InvalidArgument(f"--cap-add {word}: no such capability (a name of capabilities(7), or docker)")
            for members in sets.values():
                if capability not in members:
                    members.append(capability)


def _annotations(configuration: Configuration, warn: Callable[[str, str], None]) -> dict[str, str]:
    """Return what the image says about itself: its labels, and what the specification makes of other members."""
    annotations = {}
    for member in ("os", "architecture", "variant", "author", "created"):
        if value := _typed(configuration.document.get(member, ""), str, member, "a string"):
            annotations[_PREFIX + member] = value
    if ports := sorted(configuration.table("ExposedPorts")):
        annotations[f"{_PREFIX}exposedPorts"] = ",".join(ports)
    if signal := configuration.text("StopSignal"):
        parse_signal(signal)
        annotations[f"{_PREFIX}stopSignal"] = signal
    for label, value in configuration.table("Labels").items():
        if not label or label.startswith(OBEYED):
            warn("labels that a runtime would obey", label)
        else:
            annotations[label] = _typed(value, str, f"config.Labels[{quote(label)}]", "a string")
    return annotations
