"""Who takes part: command lines, environments, the place they run in, and why one cannot take part."""

from __future__ import annotations

import os
import shutil
import sys
from dataclasses import dataclass
from pathlib import Path

UNIFIED = "/sys/fs/cgroup/cgroup.controllers"
#: What contenders may see of our environment.
ENVIRONMENT = {"PATH": "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin", "LC_ALL": "C.UTF-8"}
#: With a server of the bench's own, and without any: two contenders, one program.
WARM, COLD = "pysandbox", "pysandbox-cold"
#: What the executor is compared with: a container by bare system calls.
KERNEL = "kernel"


@dataclass(frozen=True, slots=True)
class Contender:
    """A runtime in one place: on the host as it is, or where only a cgroup2 hierarchy is mounted.

    `server` is the value of PYSANDBOX_WARM: the directory of the bench's own server, or "off"; None for a program that
    does not know it.
    """

    name: str
    command: tuple[str, ...]
    private: bool = False
    server: str | None = None

    @property
    def label(self) -> str:
        """Name for tables: runs in the private place are marked."""
        return f"{self.name}@cgroup2" if self.private else self.name

    @property
    def ours(self) -> bool:
        """Tell whether this is pysandbox, warm or cold."""
        return self.name in {WARM, COLD}

    @property
    def warm(self) -> bool:
        """Tell whether its commands are to be served by the server."""
        return self.name == WARM

    @property
    def environment(self) -> dict[str, str]:
        """All of its environment."""
        return ENVIRONMENT if self.server is None else {**ENVIRONMENT, "PYSANDBOX_WARM": self.server}


def find_contenders(names: list[str], server: Path) -> tuple[list[Contender], dict[str, str]]:
    """Return those that are installed, and a reason for each that is not; `server` is where the warm one's server is.

    crun refuses a host whose controllers are split between v1 and v2. There it runs in a mount namespace with nothing
    but cgroup2, and so, a second time, do all the others, so that like is compared with like.
    """
    servers = {WARM: os.fspath(server), COLD: "off"}
    found = {name: path for name in names if (path := find_program(name))}
    missing = {name: "not installed" for name in names if name not in found}
    hybrid = not os.path.exists(UNIFIED)
    contenders = [
        Contender(name, (path,), server=servers.get(name))
        for name, path in found.items()
        if not (hybrid and name == "crun")
    ]
    if hybrid and "crun" in found:
        missing["crun"] = "refuses a hybrid cgroup hierarchy; runs as crun@cgroup2 where that is mounted alone"
        contenders += [Contender(name, (path,), private=True, server=servers.get(name)) for name, path in found.items()]
    return contenders, missing


def find_program(name: str) -> str | None:
    """Return the path of a runtime: pysandbox, warm or cold, beside this interpreter, else by PATH."""
    program = WARM if name == COLD else name
    beside = Path(sys.executable).with_name(program)
    if program == WARM and beside.is_file():
        return os.fspath(beside)
    return shutil.which(program, path=f"{os.environ.get('PATH', '')}:/usr/local/sbin:/usr/sbin:/sbin")


def beside(label: str, name: str) -> str:
    """Return the label of another contender in the same place as this one."""
    _, at, place = label.partition("@")
    return f"{name}{at}{place}"


def floors() -> list[Contender]:
    """Return what no runtime can beat: a program that does nothing, an interpreter that does nothing."""
    interpreter = os.path.realpath(getattr(sys, "_base_executable", sys.executable))
    true = shutil.which("true") or "/bin/true"
    return [Contender("true", (true,)), Contender("python -I -S -c pass", (interpreter, "-I", "-S", "-c", "pass"))]
