"""Who takes part: command lines, the place they run in, and why one cannot take part."""

from __future__ import annotations

import os
import shutil
import sys
from dataclasses import dataclass
from pathlib import Path

UNIFIED = "/sys/fs/cgroup/cgroup.controllers"


@dataclass(frozen=True, slots=True)
class Contender:
    """A runtime in one place: on the host as it is, or where only a cgroup2 hierarchy is mounted."""

    name: str
    command: tuple[str, ...]
    private: bool = False

    @property
    def label(self) -> str:
        """Name for tables: runs in the private place are marked."""
        return f"{self.name}@cgroup2" if self.private else self.name


def find_contenders(names: list[str]) -> tuple[list[Contender], dict[str, str]]:
    """Return those that are installed, and a reason for each that is not.

    crun refuses a host whose controllers are split between v1 and v2. There it runs in a mount namespace with nothing
    but cgroup2, and so, a second time, do all the others, so that like is compared with like.
    """
    found = {name: path for name in names if (path := find_program(name))}
    missing = {name: "not installed" for name in names if name not in found}
    hybrid = not os.path.exists(UNIFIED)
    contenders = [Contender(name, (path,)) for name, path in found.items() if not (hybrid and name == "crun")]
    if hybrid and "crun" in found:
        missing["crun"] = "refuses a hybrid cgroup hierarchy; runs as crun@cgroup2 where that is mounted alone"
        contenders += [Contender(name, (path,), private=True) for name, path in found.items()]
    return contenders, missing


def find_program(name: str) -> str | None:
    """Return the path of a runtime: pysandbox beside this interpreter, else by PATH."""
    beside = Path(sys.executable).with_name(name)
    if name == "pysandbox" and beside.is_file():
        return os.fspath(beside)
    return shutil.which(name, path=f"{os.environ.get('PATH', '')}:/usr/local/sbin:/usr/sbin:/sbin")


def floors() -> list[Contender]:
    """Return what no runtime can beat: a program that does nothing, an interpreter that does nothing."""
    interpreter = os.path.realpath(getattr(sys, "_base_executable", sys.executable))
    true = shutil.which("true") or "/bin/true"
    return [Contender("true", (true,)), Contender("python -I -S -c pass", (interpreter, "-I", "-S", "-c", "pass"))]
