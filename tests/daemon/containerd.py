"""containerd with its stock runc shim, driven by ctr."""

from __future__ import annotations

import os
import shutil
import uuid
from typing import TYPE_CHECKING

from daemon import image
from daemon.process import Completed, Daemon, call, mounts_below, remove_cgroups
from daemon.release import installed
from daemon.terminal import Terminal

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from daemon.release import Release

#: Names of all versions; what a version does not have it ignores.
DISABLED_CRI = """disabled_plugins = [
    "io.containerd.grpc.v1.cri", "io.containerd.cri.v1.images", "io.containerd.cri.v1.runtime"
]"""


class Containerd:
    """A containerd of our own, in a namespace of our own."""

    def __init__(
        self,
        directory: Path,
        runtime: Path,
        *,
        release: Release | None = None,
        path: str | None = None,
        settings: str = DISABLED_CRI,
        namespace: str | None = None,
    ) -> None:
        """`release` is the machine's own by default, `path` containerd's PATH, `settings` end its configuration.

        `namespace` is one that others may have, too: nothing is removed in it but what was made by name.
        """
        self.directory = directory
        self.runtime = runtime
        self.release = release or installed()
        self.address = str(directory / "containerd.sock")
        self.cgroup = f"pysandbox-test-{uuid.uuid4().hex[:8]}"
        self.namespace = namespace or self.cgroup  # ctr has a namespace's containers in a cgroup of its name
        self.containers: list[str] = []
        self._environment = {**os.environ, "PATH": path or os.environ["PATH"]}
        self._configuration = directory / "config.toml"
        self._configuration.write_text(f"""version = {3 if self.release.version >= (2,) else 2}
root = "{directory / "root"}"
state = "{directory / "state"}"
oom_score = 0
{settings}
[grpc]
address = "{self.address}"
[ttrpc]
address = "{self.address}.ttrpc"
""")
        self.boot()

    def boot(self) -> None:
        """Start the daemon, at first or once more, and wait until it answers."""
        self.daemon = Daemon(
            [str(self.release.containerd), "--config", str(self._configuration)],
            self.directory / "containerd.log",
            lambda: self("version").returncode == 0,
            self._environment,
        )

    def kill(self) -> None:
        """Kill the daemon, and nothing else."""
        self.daemon.process.kill()
        self.daemon.process.wait(10)

    def _ctr(self, arguments: Sequence[str]) -> list[str]:
        return [str(self.release.ctr), "--address", self.address, "--namespace", self.namespace, *arguments]

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
        remove_cgroups(self.cgroup)
        for point in mounts_below(self.directory):
            call(["umount", "--lazy", point], os.environ)
        shutil.rmtree(self.directory)
