"""containerd with its stock runc shim, driven by ctr."""

from __future__ import annotations

import os
import shutil
import uuid
from typing import TYPE_CHECKING

from daemon import image
from daemon.process import Completed, Daemon, call, mounts_below, remove_cgroups
from daemon.terminal import Terminal

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path


class Containerd:
    """A containerd of our own, in a namespace of our own."""

    def __init__(self, directory: Path, runtime: Path) -> None:
        self.directory = directory
        self.runtime = runtime
        self.address = str(directory / "containerd.sock")
        self.namespace = f"pysandbox-test-{uuid.uuid4().hex[:8]}"  # also the name of the parent cgroup
        self.containers: list[str] = []
        configuration = directory / "config.toml"
        configuration.write_text(f"""version = 2
root = "{directory / "root"}"
state = "{directory / "state"}"
disabled_plugins = ["io.containerd.grpc.v1.cri"]
oom_score = 0
[grpc]
address = "{self.address}"
[ttrpc]
address = "{self.address}.ttrpc"
""")
        self.daemon = Daemon(
            ["containerd", "--config", str(configuration)],
            directory / "containerd.log",
            lambda: self("version").returncode == 0,
            os.environ,
        )

    def _ctr(self, arguments: Sequence[str]) -> list[str]:
        return ["ctr", "--address", self.address, "--namespace", self.namespace, *arguments]

    def __call__(self, *arguments: str, stdin: str | None = None, timeout: float = 60) -> Completed:
        """Run one ctr command to its end."""
        return call(self._ctr(arguments), os.environ, stdin=stdin, timeout=timeout)

    def ok(self, *arguments: str, stdin: str | None = None) -> str:
        """Run a ctr command that has to succeed, and return what it printed."""
        done = self(*arguments, stdin=stdin)
        assert done.returncode == 0, f"{arguments}: {done.stderr}"
        return done.stdout.strip()

    def terminal(self, *arguments: str) -> Terminal:
        """Run a ctr command on a new terminal."""
        return Terminal(self._ctr(arguments), os.environ)

    def run_arguments(self, *options: str) -> list[str]:
        """Return `run` with the runtime under test, these options, the image and, last, a new id."""
        self.containers.append(f"test-{uuid.uuid4().hex[:10]}")
        runtime = ["--runc-binary", str(self.runtime), "--runc-root", str(self.directory / "runtime")]
        return ["run", *runtime, *options, image.NAME, self.containers[-1]]

    def run(self, command: Sequence[str], *options: str, stdin: str | None = None) -> Completed:
        """Run a container in the foreground."""
        return self(*self.run_arguments("--rm", *options), *command, stdin=stdin)

    def shell(self, script: str, *options: str) -> str:
        """Run a shell script in a container; it has to succeed. Return what it printed."""
        return self.ok(*self.run_arguments("--rm", *options), "sh", "-c", script)

    def start(self, command: Sequence[str], *options: str) -> str:
        """Run a container in the background and return its id."""
        arguments = self.run_arguments("--detach", "--null-io", *options)
        self.ok(*arguments, *command)
        return arguments[-1]

    def exec(self, container: str, *command: str, stdin: str | None = None) -> Completed:
        """Run one more process in a container."""
        return self("task", "exec", "--exec-id", uuid.uuid4().hex[:10], container, *command, stdin=stdin)

    def task(self, container: str) -> tuple[int, str]:
        """Return the pid and status of a container's task."""
        for line in self.ok("task", "list").splitlines()[1:]:
            name, pid, status = line.split()
            if name == container:
                return int(pid), status
        raise LookupError(container)

    def remove_containers(self) -> None:
        """Remove what the test made."""
        known = self.ok("container", "list", "--quiet").split()
        for container in self.containers:
            if container in known:
                self("task", "delete", "--force", container)
                self("container", "delete", container)
        self.containers.clear()

    def close(self) -> None:
        """End containerd and remove its directories."""
        self.remove_containers()
        self.daemon.stop()
        remove_cgroups(self.namespace)
        for point in mounts_below(self.directory):
            call(["umount", "--lazy", point], os.environ)
        shutil.rmtree(self.directory)
