"""Facts of processes as the host sees them, from /proc. A process is held by a pidfd while it is read, so that what is
read belongs to it and to nobody who got its number.
"""

from __future__ import annotations

import contextlib
import os
import select
import stat
from dataclasses import dataclass
from itertools import pairwise
from typing import TYPE_CHECKING

from pysandbox.audit.catalogue import NAMESPACES, PROBES
from pysandbox.cgroup import residents
from pysandbox.cgroup.layout import read_layout
from pysandbox.errors import SandboxError, Unavailable

if TYPE_CHECKING:
    from collections.abc import Iterator

    from pysandbox.audit.finding import Facts

#: Bytes of one file of /proc, processes below init, threads and descriptors that are looked at.
_SIZE = 1 << 20
_MANY = 512
#: Programs that a machine's owner starts: a prefix of their file's name → role.
_PROGRAMS = {"qemu-system-": "qemu", "virtiofsd": "virtiofsd"}
#: Character devices that give nothing away: null, zero, full, random, urandom, terminals.
_HARMLESS = {(1, 3), (1, 5), (1, 7), (1, 8), (1, 9), (5, 0), (5, 2)}
#: Of version 1: hierarchies that limit something.
_LIMITING = ("memory", "pids", "cpu", "devices")
_UNLIMITED = 1 << 60


class Gone(Exception):
    """The process has ended."""


@dataclass(frozen=True, slots=True)
class Held:
    """A process that is held: its pid, and its directory of /proc."""

    pid: int
    directory: int

    def read(self, name: str) -> str:
        """Return a file of its directory. Raises OSError."""
        descriptor = os.open(name, os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW, dir_fd=self.directory)
        with open(descriptor, "rb") as file:
            return file.read(_SIZE).decode("utf-8", "replace")

    def names(self, name: str) -> list[str]:
        """Return the names in a directory of its, at most as many as are looked at. Raises OSError."""
        descriptor = os.open(name, os.O_RDONLY | os.O_CLOEXEC | os.O_DIRECTORY, dir_fd=self.directory)
        try:
            return sorted(os.listdir(descriptor), key=lambda name: (len(name), name))[:_MANY]
        finally:
            os.close(descriptor)


@contextlib.contextmanager
def hold(pid: int) -> Iterator[Held]:
    """Hold a process while it is read. Raises Gone if it has ended before or meanwhile."""
    try:
        pidfd = os.pidfd_open(pid)
    except OSError as error:
        raise Gone(f"process {pid} has ended") from error
    try:
        directory = os.open(f"/proc/{pid}", os.O_RDONLY | os.O_CLOEXEC | os.O_DIRECTORY)
        try:
            yield Held(pid, directory)
        finally:
            os.close(directory)
        if select.select([pidfd], [], [], 0)[0]:
            raise Gone(f"process {pid} has ended")
    except (FileNotFoundError, ProcessLookupError) as error:
        raise Gone(f"process {pid} has ended") from error
    finally:
        os.close(pidfd)


def observe(init: int) -> dict[str, Facts]:
    """Return the facts of all roles, and of init's cgroup, by the probes' names."""
    found: dict[str, Facts] = {}
    for role, pid in roles(init).items():
        try:
            with hold(pid) as process:
                facts = _of_process(process, strict=role == "init")
                if role == "qemu":
                    facts["accelerator"] = {"text": _accelerator(process)}
        except (Gone, OSError) as error:
            facts = {kind: {"unable": str(error)} for kind in _KINDS}
        named = {f"outside.{role}.{name}": observed for name, observed in facts.items()}
        found |= {name: observed for name, observed in named.items() if name in PROBES}
    return found | _limits(init)


def roles(init: int) -> dict[str, int]:
    """Return who is to be looked at: init alone, or a machine's owner and what it has started.

    QEMU need not be below `init`: where the owner is a fork of a server, `init` only stands for it, and what they have
    in common is the container's cgroup.
    """
    found: dict[str, int] = {}
    for pid in [*_descendants(init), *residents.beside(init)]:
        program = _program(pid)
        for prefix, role in _PROGRAMS.items():
            if program.startswith(prefix):
                found.setdefault(role, pid)
    owner = _parent(found["qemu"]) if "qemu" in found else None
    return {"init": init} if owner is None else {"sandbox": owner, **found}


def _program(pid: int) -> str:
    try:
        return os.path.basename(os.readlink(f"/proc/{pid}/exe"))
    except OSError:
        return ""


def _descendants(pid: int) -> list[int]:
    parents: dict[int, list[int]] = {}
    for name in os.listdir("/proc"):
        if name.isdecimal() and (parent := _parent(int(name))) is not None:
            parents.setdefault(parent, []).append(int(name))
    found: list[int] = []
    rest = [pid]
    while rest and len(found) < _MANY:
        children = parents.get(rest.pop(), [])
        found += children
        rest += children
    return found


def _parent(pid: int) -> int | None:
    try:
        with open(f"/proc/{pid}/stat", "rb") as file:
            return int(file.read(4096).rpartition(b")")[2].split()[1])
    except (OSError, ValueError, IndexError):
        return None


# -- one process -------------------------------------------------------------------------------------------------------

_KINDS = (
    "seccomp", "no_new_privs", "capabilities", "uid", "root", "descriptors", "devices", "cgroup",
    *(f"namespace.{kind}" for kind in NAMESPACES),
)  # fmt: skip


def _of_process(process: Held, *, strict: bool) -> dict[str, Facts]:
    threads = [_status(process.read(f"task/{name}/status")) for name in process.names("task")]
    sets = [int(thread[name], 16) for thread in threads for name in ("CapEff", "CapPrm", "CapInh", "CapAmb")]
    files, devices = _descriptors(process, strict=strict)
    facts: dict[str, Facts] = {
        "seccomp": _threads(threads, "Seccomp", "2"),
        "no_new_privs": _threads(threads, "NoNewPrivs", "1"),
        "capabilities": {"text": f"{_union(sets):016x}"},
        "uid": {
            "uid": min(int(number) for thread in threads for number in thread["Uid"].split()),
            "map": " ".join(process.read("uid_map").split()[:30]),
        },
        "root": {"shared": _same(f"/proc/{process.pid}/root/", "/")},
        "descriptors": {"found": files},
        "devices": {"found": devices},
        "cgroup": {"outside": _outside_cgroup(process.read("cgroup"))},
    }
    for kind in NAMESPACES:
        facts[f"namespace.{kind}"] = {"shared": _same(f"/proc/{process.pid}/ns/{kind}", f"/proc/self/ns/{kind}")}
    return facts


def _status(text: str) -> dict[str, str]:
    return {name: value.strip() for name, _, value in (line.partition(":") for line in text.splitlines())}


def _threads(threads: list[dict[str, str]], field: str, wanted: str) -> Facts:
    return {"threads": len(threads), "without": sum(thread.get(field) != wanted for thread in threads)}


def _union(sets: list[int]) -> int:
    bits = 0
    for each in sets:
        bits |= each
    return bits


def _same(one: str, other: str) -> bool:
    """Compare two magic links of /proc by what they lead to."""
    first, second = os.stat(one), os.stat(other)
    return (first.st_dev, first.st_ino) == (second.st_dev, second.st_ino)


def _descriptors(process: Held, *, strict: bool) -> tuple[list[str], list[str]]:
    """Return what is open of the host's, beyond stdio: files and directories, and devices that are not harmless.

    Where it is not `strict`, files that can only be read are none of them, nor is what lies in the process's own mount
    namespace: that is what it was given to serve.
    """
    own = {line.split(" ", 1)[0] for line in process.read("mountinfo").splitlines()}
    files, devices = [], []
    for name in process.names("fd"):
        try:
            target = os.readlink(f"fd/{name}", dir_fd=process.directory)
            status = os.stat(f"fd/{name}", dir_fd=process.directory)
            flags, mount = _opened(process.read(f"fdinfo/{name}"))
        except OSError:  # closed meanwhile
            continue
        numbers = os.major(status.st_rdev), os.minor(status.st_rdev)
        if stat.S_ISBLK(status.st_mode) or (stat.S_ISCHR(status.st_mode) and not _is_harmless(numbers)):
            devices.append(f"{name} -> {target} {numbers[0]}:{numbers[1]}")
        elif int(name) > 2 and (stat.S_ISREG(status.st_mode) or stat.S_ISDIR(status.st_mode)):
            powerful = stat.S_ISDIR(status.st_mode) or flags & os.O_ACCMODE != os.O_RDONLY
            if not target.startswith("/memfd:") and (strict or (powerful and mount not in own)):
                files.append(f"{name} -> {target}")
    return files, devices


def _is_harmless(numbers: tuple[int, int]) -> bool:
    return numbers in _HARMLESS or numbers[0] == 136


def _opened(text: str) -> tuple[int, str]:
    """Return flags and mount id of a descriptor (proc(5), /proc/PID/fdinfo)."""
    lines = _status(text)
    return int(lines.get("flags", "0"), 8), lines.get("mnt_id", "")


def _accelerator(process: Held) -> str:
    """Return what QEMU's command line names (`-accel`), without its options."""
    words = process.read("cmdline").split("\0")
    return next((after.partition(",")[0] for word, after in pairwise(words) if word == "-accel"), "tcg")


# -- cgroups -----------------------------------------------------------------------------------------------------------


def _places(text: str) -> dict[str, str]:
    """Return a process's cgroups: controller ("" of version 2) → path (cgroups(7), /proc/PID/cgroup)."""
    found: dict[str, str] = {}
    for line in text.splitlines():
        _, _, rest = line.partition(":")
        controllers, _, path = rest.partition(":")
        found |= dict.fromkeys(controllers.split(","), path)
    return found


def _outside_cgroup(text: str) -> list[str]:
    """Return the controllers that see the process in our own cgroup or in the root."""
    with open("/proc/self/cgroup", "rb") as file:
        ours = _places(file.read(_SIZE).decode("utf-8", "replace"))
    theirs = _places(text)
    wanted = [name for name in _LIMITING if name in theirs] or [""]
    return [name or "all" for name in wanted if theirs.get(name, "/") in ("/", ours.get(name))]


def _limits(init: int) -> dict[str, Facts]:
    """Return the limits of init's cgroup: bytes, processes, microseconds of a period."""
    found: dict[str, Facts] = {}
    for name, legacy, unified in (
        ("memory", "memory.limit_in_bytes", "memory.max"),
        ("pids", "pids.max", "pids.max"),
        ("cpu", "cpu.cfs_quota_us", "cpu.max"),
    ):
        try:
            found[f"limits.{name}"] = {"limit": _limit(init, name, legacy, unified)}
        except (OSError, SandboxError, ValueError) as error:
            found[f"limits.{name}"] = {"unable": str(error)}
    return found


def _limit(init: int, controller: str, legacy: str, unified: str) -> str | None:
    with open(f"/proc/{init}/cgroup", "rb") as file:
        places = _places(file.read(_SIZE).decode("utf-8", "replace"))
    path = _directory(controller, places.get(controller, places.get("", "/")))
    with open(f"{path}/{legacy if controller in places else unified}", encoding="ascii") as file:
        word = file.read(64).split()[0]
    unlimited = word in ("max", "-1") or int(word) >= _UNLIMITED
    return None if unlimited else word


def _directory(controller: str, cgroup: str) -> str:
    """Return where the cgroup of that path can be reached. Raises SandboxError where it cannot."""
    layout = read_layout()
    for hierarchy in layout.legacy:
        if controller in hierarchy.controllers:
            return hierarchy.directory(cgroup)
    if layout.unified is None:
        raise Unavailable(f"no hierarchy has the controller {controller}")
    return layout.unified.directory(cgroup)
