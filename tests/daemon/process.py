"""Starting a daemon, waiting until it answers, ending it: by pid, with limits."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
from pathlib import Path
from typing import TYPE_CHECKING

from runtime import eventually

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

Completed = subprocess.CompletedProcess[str]


class Daemon:
    """One background process with its output in a file; a context manager that ends it."""

    def __init__(self, command: Sequence[str], log: Path, ready: Callable[[], bool], environment: Mapping[str, str]):
        self.log = log
        with log.open("ab") as output:
            self.process = subprocess.Popen(
                command, stdin=subprocess.DEVNULL, stdout=output, stderr=output, env=dict(environment)
            )
        try:
            eventually(lambda: self._answers(ready), f"{command[0]} answers", seconds=30)
        except BaseException:
            self.stop()
            print(log.read_text())
            raise

    def _answers(self, ready: Callable[[], bool]) -> bool:
        assert self.process.poll() is None, f"ended with {self.process.returncode}: {self.log.read_text()}"
        return ready()

    def stop(self) -> None:
        """SIGTERM, ten seconds, SIGKILL."""
        self.process.terminate()
        try:
            self.process.wait(10)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait(10)


def call(
    command: Sequence[str],
    environment: Mapping[str, str],
    *,
    stdin: str | None = None,
    timeout: float = 60,
    cwd: Path | None = None,
) -> Completed:
    """Run a client to its end; stdin is /dev/null unless text is given."""
    source: dict[str, object] = {"stdin": subprocess.DEVNULL} if stdin is None else {"input": stdin}
    done = subprocess.run(
        command, env=dict(environment), cwd=cwd, capture_output=True, text=True, timeout=timeout, check=False, **source
    )  # type: ignore[call-overload]
    print(f"$ {' '.join(command)}\n[{done.returncode}] {done.stdout}{done.stderr}")
    return done


def parent_of(pid: int) -> tuple[int, str]:
    """Return a process's parent and that parent's name."""
    parent = int(Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[1])
    return parent, Path(f"/proc/{parent}/comm").read_text().strip()


def running(pid: int) -> bool:
    """Say whether a process lives and is not a zombie."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] not in {"Z", "X"}
    except FileNotFoundError:
        return False


def mounts_below(directory: Path) -> list[str]:
    """Return the mount points below a directory, deepest first."""
    points = [line.split()[4] for line in Path("/proc/self/mountinfo").read_text().splitlines()]
    return sorted((point for point in points if point.startswith(f"{directory}/")), reverse=True)


def cgroups_named(name: str) -> list[Path]:
    """Return every cgroup directory of that name directly below a hierarchy's root."""
    root = Path("/sys/fs/cgroup")
    if (root / "cgroup.controllers").exists():
        return [root / name] if (root / name).is_dir() else []
    return [hierarchy / name for hierarchy in root.iterdir() if hierarchy.is_mount() and (hierarchy / name).is_dir()]


def remove_cgroups(name: str) -> None:
    """Remove the cgroups of that name with all below them; end what still runs in them."""
    for top in cgroups_named(name):
        for directory, _, _ in os.walk(top, topdown=False):
            for line in Path(directory, "cgroup.procs").read_text().split():
                os.kill(int(line), signal.SIGKILL)
            _remove_cgroup(directory)
    _remove_false_hierarchies(name)


def _remove_cgroup(directory: str) -> None:
    """A cgroup stays busy for a moment after its last process has ended."""

    def removed() -> bool:
        try:
            os.rmdir(directory)
        except FileNotFoundError:
            return True
        except OSError:
            return False
        return True

    eventually(removed, f"{directory} is removed")


def _remove_false_hierarchies(name: str) -> None:
    """On cgroup v1 podman makes ordinary directories on the tmpfs for the controllers that no hierarchy has."""
    for hierarchy in Path("/sys/fs/cgroup").iterdir():
        if not hierarchy.is_mount() and (hierarchy / name / "conmon/cgroup.procs").is_file():
            shutil.rmtree(hierarchy / name)
            if not any(hierarchy.iterdir()):
                hierarchy.rmdir()
