"""The servers of the warm start that a test session has: who they are, what they have done, and their end."""

from __future__ import annotations

import json
import os
import socket
import subprocess
from pathlib import Path
from typing import Any

from runtime import children, eventually

from pysandbox.warm.place import DEFAULT_DIRECTORY, key_of

#: Seconds for a server to answer, and to end.
LIMIT = 10.0
#: Fewer commands than this tell nothing: each may have its reason to run cold.
FEW = 10


class Servers:
    """All servers whose files lie in a directory; one for each installation that was called."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self._seen: dict[int, dict[str, Any]] = {}

    def status(self) -> list[dict[str, Any]]:
        """Return what each of them says, as `pysandbox server status` prints it."""
        said = [_ask(control, "status") for control in sorted(self.directory.glob("*.control"))]
        found = [each for each in said if each]
        self._seen.update({each["pid"]: each for each in found})
        return found

    @property
    def served(self) -> int:
        """How many commands they have served, as far as anybody has looked."""
        return sum(each["served"] for each in self._seen.values())

    @property
    def refused(self) -> dict[str, int]:
        """Which they have refused, by reason."""
        total: dict[str, int] = {}
        for each in self._seen.values():
            for reason, times in each["refused"].items():
                total[reason] = total.get(reason, 0) + times
        return total

    @property
    def answered(self) -> int:
        """How many commands they have had."""
        return self.served + sum(self.refused.values())

    def too_few(self, calls: int) -> str:
        """Say what is wrong if so few of this many commands came to a server that the warm start was not tested."""
        if os.geteuid() != 0 or calls < FEW or 2 * self.answered >= calls:
            return ""
        return f"{calls} commands were started with a server there, and {self.answered} came to it"

    def pids(self) -> set[int]:
        """Return the processes that belong to no command: the servers, and the forks that wait."""
        return {pid for each in self.status() for pid in (each["pid"], *each["spares"])}

    def family(self) -> set[int]:
        """Return the servers and all below them, which end with the launcher they serve, or with their server."""
        servers = [each["pid"] for each in self.status()]
        return {*servers, *(child for server in servers for child in children(server))}

    def stop(self) -> None:
        """End them as `pysandbox server stop` does. Fails if one does not."""
        family = self.family()
        for control in sorted(self.directory.glob("*.control")):
            _ask(control, "stop")
        eventually(lambda: not any(map(_runs, family)), f"the servers of {self.directory} end", seconds=LIMIT)


def warm_up(program: Path, servers: Servers) -> None:
    """Call a launcher until its server has answered: served it or, on a kernel that is too old, refused to."""
    if os.geteuid() != 0:
        return
    before = servers.answered

    def answered() -> bool:
        environment = {**os.environ, "PYSANDBOX_WARM": str(servers.directory)}
        subprocess.run([program, "--version"], env=environment, stdout=subprocess.DEVNULL, check=True)
        servers.status()
        return servers.answered > before

    eventually(answered, f"{program} has a server", seconds=2 * LIMIT)


def strayed(program: Path) -> bool:
    """Stop an installation's server in the default directory; say whether there was one. `program`: pysandbox-cold."""
    control = Path(DEFAULT_DIRECTORY, f"{key_of(str(program))}.control")
    return bool(_ask(control, "stop"))


def _ask(control: Path, request: str) -> dict[str, Any]:
    """Ask one server; nothing if there is none (any more)."""
    directory = os.open(control.parent, os.O_PATH) if control.parent.is_dir() else -1
    if directory < 0:
        return {}
    try:
        with socket.socket(socket.AF_UNIX) as connection:
            connection.settimeout(LIMIT)
            # A path is longer than a sun_path may be.
            connection.connect(f"/proc/self/fd/{directory}/{control.name}")
            connection.send(request.encode())
            answer = connection.recv(65536)
            return dict(json.loads(answer)) if answer else {}
    except (FileNotFoundError, ConnectionRefusedError, ConnectionResetError, BrokenPipeError):
        return {}
    finally:
        os.close(directory)


def _runs(pid: int) -> bool:
    try:
        os.waitpid(pid, os.WNOHANG)  # an orphan of ours
    except ChildProcessError:
        pass
    return os.path.exists(f"/proc/{pid}") and not _is_zombie(pid)


def _is_zombie(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] == "Z"
    except OSError:
        return True
