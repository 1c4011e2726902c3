"""By which shim, and with which options, containerd runs a contender: the ways to try, the best first."""

from __future__ import annotations

import os
import shlex
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from pysandbox.compare.containerd import encode
from pysandbox.compare.measure import Failed
from pysandbox.config import read_document
from pysandbox.errors import InvalidArgument

if TYPE_CHECKING:
    from collections.abc import Sequence

OURS = "io.containerd.pysandbox.v2"
#: Backends of ours whose shim says them by its name.
NAMED = {"namespaces": OURS, "microvm": "io.containerd.pysandbox-microvm.v2"}
#: Runtimes that have a shim of their own.
OWN = {"runsc": "io.containerd.runsc.v1"}
#: The shim that calls any runtime by its command line.
RUNC = "io.containerd.runc.v2"
_RUNC_OPTIONS = "containerd.runc.v1.Options"
_OUR_OPTIONS = "runtimeoptions.v1.Options"


@dataclass(frozen=True, slots=True)
class Handler:
    """A runtime type of containerd with its options, an encoded google.protobuf.Any; `how` is for a person."""

    type: str
    options: bytes
    how: str

    def encoded(self) -> bytes:
        """Return containerd.services.containers.v1.Container.Runtime."""
        return encode({1: self.type, 2: self.options})


def ours(name: str, settings: str, place: Path) -> list[Handler]:
    """Return how our shim takes a backend with the settings file of --config, if there is one. Raises Failed, OSError.

    The shim's settings are of a file or of its options. A file that says no backend gets one for the bench, in `place`.
    """
    if name in NAMED and not settings:
        return [Handler(NAMED[name], b"", NAMED[name])]
    line = f'backend = "{name}"\n'
    if not settings:
        return [_ours(name, {3: line}, line.strip())]
    return [_ours(name, {2: os.path.abspath(_with_backend(name, settings, line, place))}, f"settings of {settings}")]


def _ours(name: str, options: dict[int, str | bytes | int], how: str) -> Handler:
    kind = NAMED.get(name, OURS)
    return Handler(kind, encode({1: _OUR_OPTIONS, 2: encode(options)}), f"{kind} with {how}")


def _with_backend(name: str, settings: str, line: str, place: Path) -> str:
    try:
        text = Path(settings).read_bytes()
        said = read_document(text, settings).get("backend", None)
    except InvalidArgument as error:
        raise Failed(str(error)) from None
    if said is not None and said != name:
        raise Failed(f"{settings} says backend = {said!r}: containerd's shim cannot be told {name} beside it")
    if said is not None:
        return settings
    path = place / "settings.toml"
    path.touch(mode=0o600)
    path.write_bytes(line.encode() + text)
    return os.fspath(path)


def runtime(name: str, command: Sequence[str], place: Path) -> list[Handler]:
    """Return how containerd takes a runtime: by a shim of its own, else by runc's, which is told the program.

    Both are told nothing of flags: with flags the program is a script in `place`. Its state is there, too.
    """
    own = [Handler(OWN[name], b"", OWN[name])] if name in OWN else []
    program = command[0] if len(command) == 1 else _script(command, place)
    options = encode({1: _RUNC_OPTIONS, 2: encode({6: program, 7: os.fspath(place / "state")})})
    return [*own, Handler(RUNC, options, f"{RUNC} with BinaryName {' '.join(command)}")]


def _script(command: Sequence[str], place: Path) -> str:
    path = place / "runtime"
    path.write_text(f'#!/bin/sh\nexec {shlex.join(command)} "$@"\n')
    path.chmod(0o700)
    return os.fspath(path)
