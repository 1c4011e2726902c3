"""An OCI runtime driven as its callers drive it: by its command line."""

from __future__ import annotations

import contextlib
import itertools
import json
import os
import secrets
import select
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from runtime import count

from harness.bundle import Bundle

PROJECT = Path(__file__).resolve().parents[3]
#: Longer than any command may take on a loaded machine; a test that waits as long has found a hang.
LIMIT = 60.0


class Result:
    """How a command ended: exit code, what it wrote, how long it took."""

    def __init__(self, code: int, out: str, err: str, seconds: float) -> None:
        self.code, self.out, self.err, self.seconds = code, out, err, seconds

    def __repr__(self) -> str:
        return f"Result(code={self.code}, out={self.out[:2000]!r}, err={self.err[:2000]!r}, {self.seconds:.1f}s)"

    @property
    def refused(self) -> bool:
        """It failed and said why."""
        return self.code != 0 and bool(self.err.strip())

    def assert_one_clear_line(self, *words: str) -> None:
        """A refusal as the house wants it: exit code 1, one line, no traceback, and each of `words` in it."""
        assert self.code == 1, self
        assert "Traceback" not in self.err, self
        lines = [line for line in self.err.splitlines() if line.strip()]
        assert len(lines) == 1, self
        assert len(lines[0]) < 2000, self
        for word in words:
            assert word in lines[0], self


class Runtime:
    """One runtime with a state root of its own. Every container it is asked for carries a name that no other has."""

    def __init__(self, name: str, command: Sequence[str], root: Path) -> None:
        self.name, self.command, self.root = name, list(command), root
        self.marker = f"attack-{secrets.token_hex(6)}"
        self.ids: list[str] = []
        self._numbers = itertools.count()

    def new_id(self) -> str:
        """A container id that is unique on this machine."""
        self.ids.append(f"{self.marker}-{next(self._numbers)}")
        return self.ids[-1]

    def argv(self, *args: str) -> list[str]:
        """The whole command line."""
        return [*self.command, "--root", os.fspath(self.root), *args]

    def environment(self, extra: Mapping[str, str] | None = None) -> dict[str, str]:
        """The test's environment with a mark in it, so that a process left behind is known as ours."""
        return {**os.environ, "PYSANDBOX_TEST_MARK": self.marker, **(extra or {})}

    def call(
        self,
        *args: str,
        pass_fds: Sequence[int] = (),
        env: Mapping[str, str] | None = None,
        cwd: Path | None = None,
        limit: float = LIMIT,
        prefix: Sequence[str] = (),
    ) -> Result:
        """Run one command to its end. A detached container may keep the pipes open: what counts is the command's end."""
        begin = time.monotonic()
        if not prefix and not pass_fds:  # which may well make of it what nobody serves
            count(self.argv(*args), self.environment(env))
        with subprocess.Popen(
            [*prefix, *self.argv(*args)], stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.PIPE,
            pass_fds=pass_fds, env=self.environment(env), cwd=cwd,
        ) as process:  # fmt: skip
            out, err = _output(process, limit)
        return Result(process.returncode, out, err, time.monotonic() - begin)

    def run(self, bundle: Bundle, *options: str, container: str | None = None, **how: Any) -> Result:
        """`run` in the foreground."""
        return self.call("run", "--bundle", os.fspath(bundle.write()), *options, container or self.new_id(), **how)

    def create(self, bundle: Bundle, *options: str, container: str | None = None, **how: Any) -> tuple[str, Result]:
        """`create`; returns the id and how it went."""
        name = container or self.new_id()
        return name, self.call("create", "--bundle", os.fspath(bundle.write()), *options, name, **how)

    @contextlib.contextmanager
    def running(self, bundle: Bundle) -> Iterator[str]:
        """A container that has been created and started, deleted at the end."""
        name, created = self.create(bundle)
        assert created.code == 0, created
        try:
            started = self.call("start", name)
            assert started.code == 0, started
            yield name
        finally:
            self.call("delete", "--force", name)

    def exec(self, container: str, *args: str, options: Sequence[str] = (), **how: Any) -> Result:
        """`exec` in the foreground."""
        return self.call("exec", *options, container, *args, **how)

    def state(self, container: str) -> dict[str, Any]:
        """The `state` document."""
        answer = self.call("state", container)
        assert answer.code == 0, answer
        document: dict[str, Any] = json.loads(answer.out)
        return document

    def delete_all(self) -> None:
        """Remove whatever containers of this runtime are still there."""
        for name in self.ids:
            if (self.root / name).exists():
                self.call("delete", "--force", name)


def _output(process: subprocess.Popen[bytes], limit: float) -> tuple[str, str]:
    """What a process wrote to its pipes until it ended; killed, with the test failing, after `limit` seconds."""
    assert process.stdout is not None
    assert process.stderr is not None
    streams = {process.stdout.fileno(): bytearray(), process.stderr.fileno(): bytearray()}
    ended = os.pidfd_open(process.pid)
    deadline = time.monotonic() + limit
    try:
        waiting = [ended, *streams]
        while True:
            ready, _, _ = select.select(waiting, [], [], max(0, deadline - time.monotonic()))
            if not ready:
                process.kill()
                raise AssertionError(f"no end after {limit} s: {process.args!r}")
            for stream in streams.keys() & set(ready):
                data = os.read(stream, 65536)
                streams[stream] += data
                if not data:
                    waiting.remove(stream)
            if ready == [ended]:
                break
    finally:
        os.close(ended)
    out, err = (bytes(data).decode(errors="replace") for data in streams.values())
    return out, err


def command_of(name: str) -> tuple[list[str], dict[str, str]]:
    """Command line of `pysandbox`, or of another runtime on the PATH."""
    if name != "pysandbox":
        found = shutil.which(name)
        if found is None:
            raise RuntimeError(f"{name} is not installed")
        return [found], {}
    launcher = PROJECT / ".venv/bin/pysandbox"
    if launcher.exists():
        return [os.fspath(launcher)], {}
    sources = f"{PROJECT}/runtime_api:{PROJECT}/backends"
    return [sys.executable, "-m", "pysandbox.cli.main"], {"PYTHONPATH": sources}
