"""A whole installation of the test's own, with its server: nobody else's edits or commands disturb it.

Lines of its copy of the sources can be replaced, to show that an attack succeeds where they are missing.
"""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from harness.runtime import PROJECT, Result

#: Seconds for a command, and for a server to begin or to end.
LIMIT = 30.0
BUILT = PROJECT / "guest_agent/target/release"
#: A file of the package, what stands in it, and what shall stand there.
Change = tuple[str, str, str]


def eventually(check: Callable[[], Any], what: str, seconds: float = LIMIT) -> Any:
    """Return what `check` answers as soon as that is true; fail naming `what`."""
    end = time.monotonic() + seconds
    while not (answer := check()):
        assert time.monotonic() < end, f"after {seconds:g} s still not: {what}"
        time.sleep(0.01)
    return answer


class Installation:
    """Launcher, cold script, package, executor, and the directory of the server; everything below `top`."""

    def __init__(self, *changes: Change) -> None:
        self.top = Path(tempfile.mkdtemp(prefix="psb-warm-"))
        self.top.chmod(0o755)
        self.program, self.cold = self.top / "bin/pysandbox", self.top / "bin/pysandbox-cold"
        self.directory = self.top / "server"
        self._copy()
        for path, old, new in changes:
            file = self.top / "lib/pysandbox" / path
            text = file.read_text()
            assert text.count(old) == 1, f"{path}: {text.count(old)} times {old!r}"
            file.write_text(text.replace(old, new))
        self.started: list[subprocess.Popen[bytes]] = []

    def _copy(self) -> None:
        for package in ("runtime_api/pysandbox", "backends/pysandbox_namespaces"):
            shutil.copytree(PROJECT / package, self.top / "lib" / Path(package).name)
        (self.top / "lib/pysandbox/libexec").mkdir(exist_ok=True)
        shutil.copy(BUILT / "pysandbox-executor", self.top / "lib/pysandbox/libexec")
        self.program.parent.mkdir()
        shutil.copy(BUILT / "pysandbox-launcher", self.program)
        template = (PROJECT / "runtime_api/launcher.in").read_text()
        interpreter = os.path.realpath(getattr(sys, "_base_executable", sys.executable))
        paths = [str(self.top / "lib"), *(path for path in sys.path if path.endswith("-packages"))]
        self.cold.write_text(template.replace("@PYTHON@", interpreter).replace("@PATHS@", json.dumps(paths)))
        self.cold.chmod(0o755)
        self.directory.mkdir(mode=0o700)
        (self.top / "root").mkdir()

    # -- where things are ----------------------------------------------------------------------------------------------

    @property
    def key(self) -> str:
        """The key of its server."""
        status = self.cold.stat()
        return f"{status.st_dev:x}-{status.st_ino:x}-{status.st_mtime_ns:x}"

    @property
    def socket(self) -> Path:
        """What spares accept on."""
        return self.directory / f"{self.key}.sock"

    @property
    def lock(self) -> Path:
        """What a server holds, and what its last start is dated by."""
        return self.directory / f"{self.key}.lock"

    def environment(self, extra: Mapping[str, str] | None = None) -> dict[str, str]:
        """What its commands are started with."""
        return {"PATH": os.defpath, "PYSANDBOX_WARM": str(self.directory), **(extra or {})}

    # -- commands ------------------------------------------------------------------------------------------------------

    def start(self, *words: str | Path, prefix: Sequence[str] = (), **how: Any) -> subprocess.Popen[bytes]:
        """Start a command; `how` goes to Popen."""
        argv = [*prefix, how.pop("program", self.program), "--root", self.top / "root", *words]
        how = {"stdin": subprocess.DEVNULL, "stdout": subprocess.PIPE, "stderr": subprocess.PIPE, **how}
        process = subprocess.Popen(argv, env=how.pop("env", None) or self.environment(), **how)
        self.started.append(process)
        return process

    def call(self, *words: str | Path, limit: float = LIMIT, **how: Any) -> Result:
        """Run a command to its end."""
        begin = time.monotonic()
        with self.start(*words, **how) as process:
            try:
                out, err = process.communicate(timeout=limit)
            except BaseException:
                process.kill()
                raise
        texts = [(text or b"").decode(errors="replace") for text in (out, err)]
        return Result(process.returncode, texts[0], texts[1], time.monotonic() - begin)

    def call_cold(self, *words: str | Path, **how: Any) -> Result:
        """The same, without the launcher."""
        return self.call(*words, program=self.cold, **how)

    # -- the server ----------------------------------------------------------------------------------------------------

    def serve(self, **how: Any) -> Installation:
        """Have a server that answers: the first command starts it."""
        if not self.status():
            self.lock.unlink(missing_ok=True)  # no patience between two starts
            self.call("--version", **how)
        eventually(lambda: self.status().get("spares"), "a server that answers")
        self.settled()
        return self

    def serve_privately(self) -> Installation:
        """Have a server in a mount namespace of its own."""
        words = [str(self.cold), "server", "serve", str(self.directory), self.key]
        null = subprocess.DEVNULL
        process = subprocess.Popen(["unshare", "--mount", *words], stdin=null, stdout=null, stderr=null, cwd="/")
        self.started.append(process)
        eventually(lambda: self.status().get("spares"), "a server that answers")
        return self

    def ask(self, word: str) -> dict[str, Any]:
        """Ask the server as `pysandbox server` does; nothing if there is none."""
        with socket.socket(socket.AF_UNIX) as connection:
            connection.settimeout(LIMIT)
            try:
                connection.connect(str(self.directory / f"{self.key}.control"))
                connection.send(word.encode())
                answer = connection.recv(65536)
            except (FileNotFoundError, ConnectionRefusedError, ConnectionResetError, BrokenPipeError):
                return {}
        return dict(json.loads(answer)) if answer else {}

    def status(self) -> dict[str, Any]:
        """What the server says."""
        return self.ask("status")

    @property
    def server(self) -> int:
        """The server's pid."""
        return int(self.status()["pid"])

    def settled(self) -> dict[str, Any]:
        """What the server says when nobody is being served and two spares wait."""
        return dict(
            eventually(
                lambda: (
                    found if len((found := self.status()).get("spares", ())) == 2 and not found["serving"] else None
                ),
                "two spares that wait",
            )
        )

    @contextlib.contextmanager
    def counted(self) -> Iterator[dict[str, Any]]:
        """How many commands were served, and which refused, while the block ran: filled in at its end."""
        before, found = self.settled(), dict[str, Any]()
        yield found
        after = eventually(lambda: done if _answered(done := self.status()) > _answered(before) else None, "an answer")
        found["served"] = after["served"] - before["served"]
        old = before["refused"]
        found["refused"] = [reason for reason, count in after["refused"].items() if count > old.get(reason, 0)]

    @contextlib.contextmanager
    def counted_nothing(self) -> Iterator[None]:
        """Fail if a command has reached the server while the block ran."""
        before = self.settled()
        yield
        time.sleep(0.1)
        after = self.settled()
        assert (after["served"], after["refused"]) == (before["served"], before["refused"])

    def stop(self) -> None:
        """End the server, and what it started, as it is meant to end."""
        found = self.ask("stop")
        for pid in [found["pid"], *found["spares"], *found["serving"]] if found else []:
            eventually(lambda pid=pid: ended(pid), f"process {pid} of the server ends")

    def remove(self) -> None:
        """Stop the server, end what was started, and remove the files."""
        for process in self.started:
            if process.poll() is None:
                process.kill()
                process.wait()
            for stream in (process.stdout, process.stderr):
                if stream is not None:
                    stream.close()
        self.stop()
        # A server that is just beginning, which nobody can ask yet, may still write compiled modules.
        eventually(lambda: shutil.rmtree(self.top, ignore_errors=True) or not self.top.exists(), "the files are gone")


def _answered(status: Mapping[str, Any]) -> int:
    return int(status["served"]) + sum(status["refused"].values()) if status else -1


def ended(pid: int) -> bool:
    """Whether a process has ended; an orphan of ours is reaped."""
    with contextlib.suppress(ChildProcessError):
        os.waitpid(pid, os.WNOHANG)
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] in "ZX"
    except OSError:
        return True


def descriptors(pid: int) -> dict[int, str]:
    """What a process has open."""
    found = {}
    for number in os.listdir(f"/proc/{pid}/fd"):
        with contextlib.suppress(OSError):
            found[int(number)] = os.readlink(f"/proc/{pid}/fd/{number}")
    return found


def flags(pid: int, descriptor: int) -> int:
    """The flags of an open descriptor, as /proc tells them."""
    lines = Path(f"/proc/{pid}/fdinfo/{descriptor}").read_text().splitlines()
    return int(next(line.split()[1] for line in lines if line.startswith("flags:")), 8)
