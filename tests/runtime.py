"""Drive an OCI runtime by its command line, as docker and podman do: what most tests talk to."""

from __future__ import annotations

import contextlib
import itertools
import json
import os
import signal
import subprocess
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping, Sequence

_NUMBERS = itertools.count(1)
#: Command lines of the session that a server of its own could have served.
SERVABLE: list[str] = []


def count(argv: Sequence[str], environment: Mapping[str, str] | None = None) -> None:
    """Remember a command that is about to be started, if a server of the session's is there for it."""
    directory = (os.environ if environment is None else environment).get("PYSANDBOX_WARM", "off")
    if directory == os.environ.get("PYSANDBOX_WARM") != "off" and os.path.exists(f"{argv[0]}-cold"):
        SERVABLE.append(" ".join(argv))


class Runtime:
    """One runtime with a state directory of its own. Every command and its answer is kept in `log`."""

    def __init__(self, command: Sequence[str], root: Path) -> None:
        self.command = [str(part) for part in command]
        self.root = root
        self.log: list[str] = []
        self.ids: list[str] = []

    def new_id(self) -> str:
        """Return a container id that nothing else on this machine uses."""
        self.ids.append(f"psb-{os.getpid()}-{next(_NUMBERS)}")
        return self.ids[-1]

    def argv(self, *arguments: str | Path | int) -> list[str]:
        """Return the whole command line, for tests that start it themselves."""
        return [*self.command, "--root", str(self.root), *(str(argument) for argument in arguments)]

    def __call__(
        self, *arguments: str | Path | int, timeout: float = 60, **keywords: Any
    ) -> subprocess.CompletedProcess[str]:
        """Run one command to its end. stdin is /dev/null, output is text; `keywords` go to subprocess.run."""
        argv = self.argv(*arguments)
        for stream in ("stdout", "stderr"):
            keywords.setdefault(stream, subprocess.PIPE)
        if "input" not in keywords:
            keywords.setdefault("stdin", subprocess.DEVNULL)
        count(argv, keywords.get("env"))
        done = subprocess.run(argv, timeout=timeout, text=True, check=False, **keywords)
        self.log.append(f"$ {' '.join(argv)}\n[{done.returncode}] {done.stdout or ''}{done.stderr or ''}")
        return done

    def ok(self, *arguments: str | Path | int, **keywords: Any) -> str:
        """Run a command that has to succeed, and return what it printed on stdout."""
        done = self(*arguments, **keywords)
        assert done.returncode == 0, self.log[-1]
        return str(done.stdout)

    def create(self, bundle: Path, container_id: str | None = None, *flags: str | Path | int) -> str:
        """Create a container whose stdio is /dev/null, and return its id."""
        container_id = container_id or self.new_id()
        # A container keeps the descriptors it is given: pipes of ours would stay open as long as it lives.
        done = self(
            "create", "--bundle", bundle, *flags, container_id, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
        )
        assert done.returncode == 0, self._said(bundle, container_id, flags)
        return container_id

    def _said(self, bundle: Path, container_id: str, flags: Sequence[str | Path | int]) -> str:
        """Run a failed create once more to learn its error text."""
        self("delete", "--force", container_id)
        with open(self.root.parent / "create.err", "w+b") as errors:
            self("create", "--bundle", bundle, *flags, container_id, stdout=subprocess.DEVNULL, stderr=errors)
            errors.seek(0)
            return f"{self.log[-1]}\n{errors.read().decode(errors='replace')}"

    def run_detached(self, bundle: Path, *flags: str | Path | int) -> str:
        """Create and start a container in the background, and return its id."""
        container_id = self.create(bundle, None, *flags)
        self.ok("start", container_id)
        return container_id

    def state(self, container_id: str) -> dict[str, Any]:
        """Return the state document."""
        document: dict[str, Any] = json.loads(self.ok("state", container_id))
        return document

    def wait_status(self, container_id: str, status: str, *, seconds: float = 10) -> dict[str, Any]:
        """Wait until the container has this status, and return its state document."""

        def reached() -> dict[str, Any] | None:
            found = self.state(container_id)
            return found if found["status"] == status else None

        return dict(eventually(reached, f"{container_id} is {status}", seconds=seconds))

    def remove_all(self) -> None:
        """Remove every container that still has a record, whatever its state."""
        names = [entry.name for entry in self.root.iterdir() if entry.is_dir()] if self.root.is_dir() else []
        for name in names:
            if not name.startswith("."):
                self("delete", "--force", name)


class MakeBundle(Protocol):
    """Make a bundle: the program, then a function that changes the spec, then keywords that go into `process`."""

    def __call__(
        self,
        args: list[str],
        mutate: Callable[[dict[str, Any]], object] | None = None,
        *,
        rootfs: bool = True,
        **process: Any,
    ) -> Path: ...


def eventually(check: Callable[[], Any], what: str, *, seconds: float = 10) -> Any:
    """Call `check` until it answers something true, and return that; fail naming `what` after `seconds`."""
    deadline = time.monotonic() + seconds
    while True:
        answer = check()
        if answer:
            return answer
        assert time.monotonic() < deadline, f"after {seconds} s still not: {what}"
        time.sleep(0.02)


def children(pid: int | None = None) -> Iterator[int]:
    """Yield every descendant of a process: this one by default."""
    pid = os.getpid() if pid is None else pid
    try:
        tasks = os.listdir(f"/proc/{pid}/task")
    except OSError:  # it is no more
        return
    for task in tasks:
        try:
            found = [int(word) for word in Path(f"/proc/{pid}/task/{task}/children").read_text().split()]
        except OSError:
            continue
        for child in found:
            yield child
            yield from children(child)


def cgroup_of(pid: int) -> dict[str, int]:
    """Return the processes in the cgroups of a process, but for itself, by the name of their program."""
    wanted, found = Path(f"/proc/{pid}/cgroup").read_text(), {}
    for other in filter(str.isdigit, os.listdir("/proc")):
        with contextlib.suppress(OSError):
            if int(other) != pid and Path(f"/proc/{other}/cgroup").read_text() == wanted:
                found[Path(f"/proc/{other}/comm").read_text().strip()] = int(other)
    return found


def command_line(pid: int) -> str:
    """Return a process's state and command line, for messages."""
    try:
        words = Path(f"/proc/{pid}/cmdline").read_bytes().replace(b"\0", b" ").decode(errors="replace").strip()
        status = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
    except OSError:
        return f"{pid}: gone"
    return f"{pid} [{status}] {words}"


def end_children(known: set[int]) -> None:
    """Kill and reap every descendant that is not in `known`, and no server of the warm start, nor a fork of one."""
    killed = {pid for pid in children() if pid not in known and not is_server(pid)}
    for pid in killed:
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)
    # All at once: the first process of a pid namespace ends only when all others in it have been reaped.
    eventually(lambda: {_reaped(pid) for pid in killed} <= {True}, "what was killed is gone")


def is_server(pid: int) -> bool:
    """Say whether a process is a server, or one of its forks: these end with their launcher, or with the server."""
    try:
        return b"\0server\0serve\0" in Path(f"/proc/{pid}/cmdline").read_bytes()
    except OSError:
        return False


def _reaped(pid: int) -> bool:
    """Collect a child that has ended; say whether it is no child of ours (any more)."""
    try:
        return os.waitpid(pid, os.WNOHANG)[0] == pid
    except ChildProcessError:
        return True


def reap() -> None:
    """Collect the orphans that came to us as their subreaper."""
    try:
        while os.waitpid(-1, os.WNOHANG)[0]:
            pass
    except ChildProcessError:
        pass
