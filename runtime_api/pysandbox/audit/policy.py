"""What a bundle has to show: probes and groups of probes that must be ok, and those that need not, each for a reason.

```toml
require = ["seccomp.mode", "group:escape"]

[accept]
"escape.chroot" = "the image is trusted with it"
```
"""

from __future__ import annotations

import os
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from pysandbox.audit.catalogue import GROUPS, PROBES
from pysandbox.audit.finding import OK
from pysandbox.config import read_document
from pysandbox.errors import InvalidArgument
from pysandbox.oci.document import open_stream, read_object

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from pysandbox.audit.finding import Finding

#: Policies that come with pysandbox.
READY = ("container", "machine")
_DIRECTORY = os.path.join(os.path.dirname(os.path.abspath(__file__)), "policies")
_MEMBERS = {"require", "accept"}
_GROUP = "group:"
_SIZE = 1 << 20


@dataclass(frozen=True, slots=True, kw_only=True)
class Policy:
    """Probes that must be ok, in the order of a report; `accepted` ones need not, for the reason that is given."""

    name: str
    required: tuple[str, ...]
    accepted: Mapping[str, str]


@dataclass(frozen=True, slots=True, kw_only=True)
class Failure:
    """One demand that was not met."""

    probe: str
    verdict: str
    observed: str
    why: str


def load_policy(path: str) -> Policy:
    """Read a policy: TOML, or JSON where the name ends so; `container` or `machine` is one that comes with pysandbox.

    Raises InvalidArgument.
    """
    if path in READY:
        path = os.path.join(_DIRECTORY, f"{path}.toml")
    descriptor = open_stream(path, path)
    with open(descriptor, "rb") as file:
        data = file.read(_SIZE + 1)
    if len(data) > _SIZE:
        raise InvalidArgument(f"{path}: larger than {_SIZE} bytes")
    return make_policy(read_object(data, path) if path.endswith(".json") else read_document(data, path), path)


def make_policy(document: Mapping[str, Any], where: str) -> Policy:
    """Check a policy's document; `where` is what errors call it. Raises InvalidArgument."""
    if unknown := document.keys() - _MEMBERS:
        raise InvalidArgument(f"{where}: unknown setting {min(unknown)!r}: a policy has require and accept")
    require, accept = document.get("require"), document.get("accept", {})
    if not isinstance(require, list) or not require or not all(isinstance(name, str) for name in require):
        raise InvalidArgument(f"{where}: require should be a list of probes and groups that is not empty")
    if not isinstance(accept, dict) or not all(isinstance(why, str) and why.strip() for why in accept.values()):
        raise InvalidArgument(f"{where}: accept should give a reason for each probe")
    required = named(require, f"{where}: require")
    for name in accept:
        if name not in PROBES:
            raise _no_such(name, f"{where}: accept")
        if name not in required:
            raise InvalidArgument(f"{where}: accept: {name} is not required")
    return Policy(name=where, required=required, accepted=accept)


def named(words: Sequence[str], where: str) -> tuple[str, ...]:
    """Return the probes that words name, groups as `group:NAME`. Raises InvalidArgument for what is not known."""
    wanted: set[str] = set()
    for word in words:
        group = word.removeprefix(_GROUP)
        if group != word:
            if group not in GROUPS:
                raise InvalidArgument(f"{where}: no group {group!r}: there are {', '.join(GROUPS)}")
            wanted |= {probe.name for probe in PROBES.values() if probe.group == group}
        elif word not in PROBES:
            raise _no_such(word, where)
        else:
            wanted.add(word)
    return tuple(name for name in PROBES if name in wanted)


def _no_such(name: str, where: str) -> InvalidArgument:
    from difflib import get_close_matches

    close = get_close_matches(name, [*PROBES, *(f"{_GROUP}{group}" for group in GROUPS)], 1)
    return InvalidArgument(f"{where}: no probe {name!r}{f': did you mean {close[0]!r}' if close else ''}")


def failures(policy: Policy, findings: Sequence[Finding]) -> list[Failure]:
    """Return the demands that were not met: whatever was not observed to be ok."""
    found = {finding.probe: finding for finding in findings}
    missed = []
    for name in policy.required:
        finding = found.get(name)
        if name in policy.accepted or (finding is not None and finding.verdict == OK):
            continue
        if finding is None:
            missed.append(Failure(probe=name, verdict="unknown", observed="nothing", why="there is no such process"))
        else:
            missed.append(Failure(probe=name, verdict=finding.verdict, observed=finding.observed, why=finding.why))
    return missed
