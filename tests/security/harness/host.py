"""What an attack must not change and a container must not leave behind."""

from __future__ import annotations

import contextlib
import hashlib
import os
import stat
import time
from collections.abc import Callable, Iterator
from pathlib import Path

from harness.runtime import Runtime

KERNEL_SETTINGS = ("core_pattern", "hostname", "domainname", "shm_rmid_forced", "panic")
CONTENT = "the host's own file\n"


def digest(path: Path) -> str:
    """Names, kinds, modes, owners, targets and contents of everything below a directory."""
    found = hashlib.sha256()
    for entry in sorted([path, *path.rglob("*")]):
        status = entry.lstat()
        found.update(f"{entry.relative_to(path)} {status.st_mode:o} {status.st_uid} {status.st_gid}\n".encode())
        if stat.S_ISLNK(status.st_mode):
            found.update(os.readlink(entry).encode())
        elif stat.S_ISREG(status.st_mode):
            found.update(entry.read_bytes())
    return found.hexdigest()


class Canary:
    """A directory of the host, and settings of its kernel, that no container may change."""

    def __init__(self, path: Path) -> None:
        self.path = path
        path.mkdir(mode=0o755)
        (path / "host-only").write_text(CONTENT)
        (path / "ptmx").write_text(CONTENT)
        (path / "sub").mkdir()
        self.remember()

    def remember(self) -> None:
        """Take what is there now as what must stay."""
        self._digest, self._settings = digest(self.path), self._read_settings()

    def assert_unchanged(self) -> None:
        """Nothing was added, removed, written or renamed."""
        names = sorted(os.fspath(entry.relative_to(self.path)) for entry in self.path.rglob("*"))
        assert digest(self.path) == self._digest, f"the host's directory was changed: now {names}"
        assert self._read_settings() == self._settings, "a setting of the host's kernel was changed"

    @staticmethod
    def _read_settings() -> dict[str, str]:
        return {name: Path("/proc/sys/kernel", name).read_text() for name in KERNEL_SETTINGS}


def processes(marker: str) -> list[int]:
    """Processes whose environment, command line or cgroup holds the marker. Zombies are `reap`'s."""
    found = []
    for entry in os.listdir("/proc"):
        if not entry.isdigit() or int(entry) == os.getpid():
            continue
        with contextlib.suppress(OSError):
            parts = [Path("/proc", entry, name).read_bytes() for name in ("environ", "cmdline", "cgroup")]
            if any(marker.encode() in part for part in parts):
                found.append(int(entry))
    return found


def reap() -> None:
    """Collect orphans that came to this process as their subreaper: a zombie still holds its keyring."""
    with contextlib.suppress(ChildProcessError):
        while os.waitpid(-1, os.WNOHANG)[0]:
            pass


def cgroups(marker: str) -> list[str]:
    """cgroup directories, of every hierarchy, with the marker in their name."""
    found, waiting = [], ["/sys/fs/cgroup"]
    while waiting:  # a loop: a hostile tree of cgroups is deeper than Python's stack
        try:
            with os.scandir(waiting.pop()) as entries:
                paths = [entry.path for entry in entries if entry.is_dir(follow_symlinks=False)]
        except OSError:
            continue
        waiting += paths
        found += [path for path in paths if marker in os.path.basename(path)]
    return found


def mounts(*markers: str) -> list[str]:
    """Lines of this mount namespace that mention one of the markers."""
    lines = Path("/proc/self/mountinfo").read_text().splitlines()
    return [line for line in lines if any(marker in line for marker in markers)]


def keyrings(marker: str) -> list[str]:
    """Session keyrings named after a container."""
    return [line for line in Path("/proc/keys").read_text().splitlines() if marker in line]


def records(root: Path) -> list[str]:
    """Entries of a state root that mean a container: directories, hidden ones of the runtime's own included."""
    if not root.is_dir():
        return []
    return sorted(entry.name for entry in root.iterdir() if entry.is_dir() and any(entry.iterdir()))


def temporary_files(marker: str) -> list[str]:
    """Files named after a container where programs leave such things."""
    places = ("/tmp", "/dev/shm", "/run", "/var/tmp")
    return [os.path.join(place, name) for place in places for name in os.listdir(place) if marker in name]


def leftovers(runtime: Runtime, *places: Path) -> list[str]:
    """Everything that this runtime's containers left, in words."""
    found = [f"process {pid}: {_command(pid)}" for pid in processes(runtime.marker)]
    found += [f"cgroup {path}" for path in cgroups(runtime.marker)]
    found += [f"mount {line}" for line in mounts(runtime.marker, *(os.fspath(place) for place in places))]
    found += [f"keyring {line}" for line in keyrings(runtime.marker)]
    found += [f"record {name}" for name in records(runtime.root)]
    found += [f"file {path}" for path in temporary_files(runtime.marker)]
    return found


def settled(count: Callable[[], list[str]], seconds: float = 5.0) -> list[str]:
    """What is still there after at most so many seconds: keyrings and cgroups go away with a delay."""
    end = time.monotonic() + seconds
    reap()
    while (found := count()) and time.monotonic() < end:
        time.sleep(0.05)
        reap()
    return found


def _command(pid: int) -> str:
    with contextlib.suppress(OSError):
        return Path(f"/proc/{pid}/cmdline").read_bytes().replace(b"\0", b" ").decode(errors="replace")
    return "gone"


@contextlib.contextmanager
def descriptor_of(path: Path) -> Iterator[int]:
    """An inheritable descriptor of a directory of the host, as a careless caller would leak it."""
    number = os.open(path, os.O_RDONLY | os.O_DIRECTORY)
    os.set_inheritable(number, True)
    try:
        yield number
    finally:
        os.close(number)
