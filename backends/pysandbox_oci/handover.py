"""What a runtime is given: a bundle of its own with the container's spec, changed only where it has to be.

The document that pysandbox has checked is the one that the runtime reads, whatever becomes of the bundle meanwhile.
Three things differ: paths that are relative to the bundle are absolute; the version is the one that the document needs
(`age.py`); and hooks that pysandbox runs itself are gone (all that run in the runtime's namespaces; those of the
container's stay). In the place of prestart and createRuntime hooks stands the gate (`gate.py`).
"""

from __future__ import annotations

import json
import os

from pysandbox_oci.age import needed_version

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Mapping
    from typing import Any

    from pysandbox.oci.types import Spec

#: In the container's directory: the bundle that the runtime gets.
BUNDLE = "bundle"
#: Hooks that the front end runs, at the gate; and those that it runs before and after.
AT_THE_GATE = ("prestart", "createRuntime")
_OUTSIDE = (*AT_THE_GATE, "poststart", "poststop")
_BINDS = frozenset({"bind", "rbind"})


def needs_gate(spec: Mapping[str, Any]) -> bool:
    """Say whether there are hooks to be run while the namespaces stand and the root has not changed."""
    hooks = spec.get("hooks") or {}
    return any(hooks.get(kind) for kind in AT_THE_GATE)


def derived(spec: Spec, bundle: str, gate: Mapping[str, Any] | None) -> dict[str, Any]:
    """Return the document for the runtime. `gate` is the hook that takes the place of those at the gate."""
    document: dict[str, Any] = {**spec, "ociVersion": needed_version(spec)}
    document["root"] = {**spec["root"], "path": os.path.join(bundle, spec["root"]["path"])}
    if spec.get("mounts"):
        document["mounts"] = [_absolute(mount, bundle) for mount in spec["mounts"]]
    hooks = {kind: those for kind, those in (spec.get("hooks") or {}).items() if kind not in _OUTSIDE}
    if gate is not None:
        hooks["createRuntime"] = [gate]
    document.pop("hooks", None)
    return {**document, "hooks": hooks} if hooks else document


def _absolute(mount: Mapping[str, Any], bundle: str) -> dict[str, Any]:
    """Return a mount whose source, of a bind mount, does not depend on the bundle's directory."""
    binds = mount.get("type") == "bind" or not _BINDS.isdisjoint(mount.get("options") or ())
    if not binds or not mount.get("source"):
        return {**mount}
    return {**mount, "source": os.path.join(bundle, mount["source"])}


def write_bundle(document: Mapping[str, Any], state_dir: str) -> str:
    """Make the bundle in the container's directory and return its path."""
    path = f"{state_dir}/{BUNDLE}"
    os.mkdir(path, 0o700)
    write_document(document, f"{path}/config.json")
    return path


def write_document(document: Mapping[str, Any], path: str) -> None:
    """Write a JSON document to a new file, for root alone."""
    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600)
    with open(descriptor, "wb") as file:
        file.write(json.dumps(document, ensure_ascii=False).encode())
