"""The spec that is audited: the user's, with the probe as its program, mounted where nothing of the user's is."""

from __future__ import annotations

import posixpath
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from pysandbox.errors import InvalidArgument

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from pysandbox.oci.types import Spec

NAME = ".pysandbox-probe"


@dataclass(frozen=True, slots=True)
class Derivation:
    """A spec to be audited in a user's place, and what of it is not the user's."""

    spec: Spec
    changes: tuple[str, ...]


def derive(spec: Mapping[str, Any], program: str, canary: str, suffix: str) -> Derivation:
    """Return the spec with the program of the host at `program` as its process; the user's is left as it is.

    `suffix` tells its cgroup from the user's own. Raises InvalidArgument where the program has no place: its mount
    point is made on a tmpfs of the container, never in the user's root file system.
    """
    places = _places(spec.get("mounts") or ())
    own = posixpath.join(places[0], NAME)
    derived: dict[str, Any] = {**spec, "process": {**spec["process"]}, "mounts": [*(spec.get("mounts") or ())]}
    derived["mounts"].append(
        {"destination": own, "type": "bind", "source": program, "options": ["bind", "ro", "nosuid", "nodev"]}
    )
    derived["process"].update(args=[own, "--own", own, "--canary", canary], terminal=False)
    for place in places:
        derived["process"]["args"] += ["--place", place]
    derived["process"].pop("consoleSize", None)
    changes = [f"process.args is the probe, bind-mounted read-only at {own}", "process.terminal is false"]
    linux = spec.get("linux") or {}
    if path := linux.get("cgroupsPath"):
        linux = {**linux, "cgroupsPath": f"{path}{suffix}"}
        changes.append(f"linux.cgroupsPath ends in {suffix}")
    if linux.get("netDevices"):
        linux = {name: value for name, value in linux.items() if name != "netDevices"}
        changes.append("linux.netDevices is left out: no network device is moved away from the host")
    if linux:
        derived["linux"] = linux
    return Derivation(derived, tuple(changes))  # type: ignore[arg-type]


def _places(mounts: Sequence[Mapping[str, Any]]) -> list[str]:
    """Return the writable tmpfs of the container that no later mount covers: /dev first, if it is one."""
    found = []
    for index, mount in enumerate(mounts):
        path = posixpath.normpath(mount["destination"])
        later = [posixpath.normpath(other["destination"]) for other in mounts[index + 1 :]]
        covered = any(path == other or path.startswith(f"{other.rstrip('/')}/") for other in later)
        if mount.get("type") == "tmpfs" and "ro" not in (mount.get("options") or ()) and not covered:
            found.append(path)
    if not found:
        raise InvalidArgument(
            "config.json: mounts: there is no writable tmpfs to put the probe on, and nothing is written to the "
            "root file system; remedy: a tmpfs at /dev"
        )
    return sorted(found, key=lambda path: path != "/dev")
