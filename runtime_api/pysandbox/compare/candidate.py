"""Who is asked to take part: backends of ours, runtimes of the machine, and the ways in which each may be called."""

from __future__ import annotations

import json
import os
import re
import shlex
import shutil
import subprocess
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from pysandbox.compare.contender import Contender
from pysandbox.errors import InvalidArgument

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

OURS = ("namespaces", "microvm")
RUNTIMES = ("runc", "crun", "runsc")
HOST = "host"
#: More ways to call a runtime that does not work as it is called by everybody, in this order.
FLAGS: dict[str, tuple[tuple[str, ...], ...]] = {
    "runsc": ((), ("--ignore-cgroups",), ("--ignore-cgroups", "--network=none")),
}
#: Of a name so much is taken: it stands in tables, paths and the page.
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.:@+-]{0,39}|oci:/[^\0\n]{1,200}")
#: Seconds for one command. A first machine under emulation has its template made.
LIMIT, MACHINE_LIMIT = 30.0, 120.0
CHECK_LIMIT = 30.0


@dataclass(frozen=True, slots=True)
class Candidate:
    """A name and the command lines that are tried for it, the first that works counts; `ours` are our backends."""

    name: str
    commands: tuple[tuple[str, ...], ...]
    ours: bool

    @property
    def limit(self) -> float:
        """Seconds for one of its commands."""
        return MACHINE_LIMIT if self.name == "microvm" else LIMIT

    def contender(self, number: int, server: str) -> Contender:
        """Return the contender with its `number`th command line; `server` is PYSANDBOX_WARM for ours."""
        return Contender(self.name, self.commands[number], server=server if self.ours else None)


@dataclass(frozen=True, slots=True)
class Checked:
    """What `pysandbox check` says of a backend: why it cannot run, and what accelerates its machines."""

    problem: str = ""
    accelerator: str = ""


def read_runtimes(texts: Iterable[str]) -> dict[str, tuple[str, ...]]:
    """Return name → command line of the values of `--runtime NAME=PATH [FLAG...]`. Raises InvalidArgument."""
    found = {}
    for text in texts:
        name, equals, line = text.partition("=")
        try:
            words = shlex.split(line)
        except ValueError as error:
            raise InvalidArgument(f"--runtime {text}: {error}") from None
        if not equals or not words or not _NAME.fullmatch(name):
            raise InvalidArgument(f"--runtime {text}: must be NAME=PATH or 'NAME=PATH FLAG...'")
        program = shutil.which(words[0])
        if program is None:
            raise InvalidArgument(f"--runtime {text}: {words[0]} is no program that can be executed")
        found[name] = (os.path.abspath(program), *words[1:])
    return found


def read_names(texts: Iterable[str]) -> list[str]:
    """Return the names of `--backend A --backend B,C`, each once. Raises InvalidArgument."""
    names = [name for text in texts for name in text.split(",") if name]
    for name in names:
        if name == HOST or not name.isprintable() or not _NAME.fullmatch(name):
            raise InvalidArgument(f"--backend {name}: no name of a backend or of a runtime")
    return list(dict.fromkeys(names))


def find(
    names: Sequence[str], runtimes: dict[str, tuple[str, ...]], program: Sequence[str]
) -> tuple[list[Candidate], dict[str, str]]:
    """Return who is to take part, and a reason for each who is not there. `program` is our own command line.

    Without names: our backends, and what is installed of runc, crun and runsc, and what `runtimes` names.
    """
    known = (*RUNTIMES, *runtimes)
    asked = list(names) or [*OURS, *dict.fromkeys(known)]
    found, missing = [], {}
    for name in asked:
        if name not in known:
            found.append(Candidate(name, ((*program, "--backend", name),), ours=True))
        elif path := runtimes.get(name) or _installed(name):
            given = name in runtimes and len(path) > 1
            found.append(Candidate(name, _commands(name, path, given=given), ours=False))
        else:
            missing[name] = f"not installed: no {name} on PATH (--runtime {name}=PATH tells where it is)"
    return found, missing


def check(candidate: Candidate) -> Checked:
    """Ask `pysandbox check` about a backend of ours; what cannot be asked has no problem yet."""
    if not candidate.ours:
        return Checked()
    argv = [*candidate.commands[0], "check", "--format", "json"]
    try:
        answer = subprocess.run(argv, capture_output=True, text=True, timeout=CHECK_LIMIT, check=False)
        return read_check(json.loads(answer.stdout)[candidate.name])
    except (OSError, subprocess.TimeoutExpired, ValueError, KeyError, TypeError):
        return Checked()


def read_check(document: dict[str, Any]) -> Checked:
    """Return what the findings of one backend come to."""
    findings = document["findings"]
    problems = [f"{one['subject']}: {one['what']}" for one in findings if one["verdict"] == "problem"]
    accelerators = [one["what"] for one in findings if one["subject"] == "accelerator"]
    return Checked("; ".join(problems), "; ".join(accelerators))


def _commands(name: str, command: tuple[str, ...], *, given: bool) -> tuple[tuple[str, ...], ...]:
    """Return the command lines to try; who gives flags means these."""
    return (command,) if given else tuple((*command, *flags) for flags in FLAGS.get(name, ((),)))


def _installed(name: str) -> tuple[str, ...] | None:
    path = shutil.which(name, path=f"{os.environ.get('PATH', '')}:/usr/local/sbin:/usr/sbin:/sbin")
    return (path,) if path else None
