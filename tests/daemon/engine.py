"""docker and podman: two engines behind one command line."""

from __future__ import annotations

import json
import os
import shlex
import shutil
import uuid
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from precondition import requires
from runtime import eventually

from daemon import image
from daemon.process import Completed, Daemon, call, cgroups_named, mounts_below, remove_cgroups
from daemon.terminal import Terminal

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from networks import Namespace


class Engine:
    """A running engine that uses the runtime under test for every container."""

    def __init__(self, name: str, directory: Path, command: Sequence[str], environment: Mapping[str, str]) -> None:
        self.name = name
        self.directory = directory
        self.command = list(command)
        self.environment = {**os.environ, **environment}
        self.cgroup_parent = f"pysandbox-test-{uuid.uuid4().hex[:8]}"
        self.containers: list[str] = []
        self.stop: Callable[[], None] = lambda: None

    def __call__(self, *arguments: str, stdin: str | None = None, timeout: float = 60) -> Completed:
        """Run one engine command to its end."""
        # conmon drops files into the directory that podman was called in.
        command = [*self.command, *arguments]
        return call(command, self.environment, stdin=stdin, timeout=timeout, cwd=self.directory)

    def ok(self, *arguments: str, stdin: str | None = None) -> str:
        """Run an engine command that has to succeed, and return what it printed."""
        done = self(*arguments, stdin=stdin)
        assert done.returncode == 0, f"{arguments}: {done.stderr}"
        return done.stdout.strip()

    def new_name(self) -> str:
        """Return a container name that the engine forgets again after the test."""
        self.containers.append(f"test-{uuid.uuid4().hex[:10]}")
        return self.containers[-1]

    def run_arguments(self, *options: str, verb: str = "run") -> list[str]:
        """Return `run` with a new name, our cgroup parent, these options and the image."""
        return [verb, "--name", self.new_name(), "--cgroup-parent", f"/{self.cgroup_parent}", *options, image.NAME]

    def run(self, command: Sequence[str], *options: str, stdin: str | None = None) -> Completed:
        """Run a container in the foreground."""
        return self(*self.run_arguments(*options), *command, stdin=stdin)

    def shell(self, script: str, *options: str) -> str:
        """Run a shell script in a container; it has to succeed. Return what it printed."""
        return self.ok(*self.run_arguments(*options), "sh", "-c", script)

    def start(self, command: Sequence[str], *options: str) -> str:
        """Run a container in the background and return its name."""
        arguments = self.run_arguments("--detach", *options)
        self.ok(*arguments, *command)
        return arguments[2]

    def terminal(self, *arguments: str, rows: int = 24, columns: int = 80) -> Terminal:
        """Run an engine command on a new terminal."""
        return Terminal([*self.command, *arguments], self.environment, rows=rows, columns=columns)

    def inspect(self, container: str, field: str) -> str:
        """Return one field of a container: `State.ExitCode`, `State.Pid`…"""
        return self.ok("inspect", "--type", "container", "--format", f"{{{{.{field}}}}}", container)

    def pid(self, container: str) -> int:
        """Return the host's pid of a running container's init."""
        return int(self.inspect(container, "State.Pid"))

    def wait(self, container: str) -> int:
        """Wait until a container has ended and return its exit code."""
        return int(self.ok("wait", container))

    def remove_containers(self) -> None:
        """Remove what the test made."""
        # podman would wait for SIGTERM otherwise, and keep one whose namespaces another, refused one was to have.
        at_once = ["--time", "0", "--depend"] if self.name == "podman" else []
        for container in self.containers:
            self("rm", "--force", "--volumes", *at_once, container)
        self.containers.clear()

    def import_image(self, layer: Path) -> None:
        """Make the image that every container uses."""
        self.ok("import", "--change", f"ENV {image.ENVIRONMENT}", str(layer), image.NAME)

    def leftovers(self) -> dict[str, list[str]]:
        """Return what containers that are gone have left: mounts below our directories, cgroups below our parent."""
        # podman puts its own conmon processes into one more cgroup, and leaves that.
        children = (child for top in cgroups_named(self.cgroup_parent) for child in top.iterdir() if child.is_dir())
        cgroups = [str(child) for child in children if child.name != "conmon"]
        mounts = [point for point in mounts_below(self.directory) if "/containers/" in point or "/merged" in point]
        return {kind: found for kind, found in (("cgroups", cgroups), ("mounts", mounts)) if found}

    def close(self) -> None:
        """End the engine and remove the traces that engines themselves leave: their parent cgroup, bind mounts."""
        self.remove_containers()
        self.stop()
        remove_cgroups(self.cgroup_parent)
        for point in mounts_below(self.directory):
            call(["umount", "--lazy", point], os.environ)
        shutil.rmtree(self.directory)


def backend_arguments(request: pytest.FixtureRequest, backend: str) -> list[str]:
    """Return the arguments that have the runtime use a backend: none for its own choice, for most a settings file.

    Another runtime than ours has no backends: skips.
    """
    if backend == "namespaces":
        return []
    if request.getfixturevalue("runtime_program").name != "pysandbox":
        pytest.skip("this runtime has no backends")
    if backend.startswith("oci:"):
        requires(f"command {backend.removeprefix('oci:')}")
        return ["--backend", backend]
    settings = request.getfixturevalue("tmp_path_factory").mktemp("settings") / "config.toml"
    values = request.getfixturevalue(f"{backend}_settings").items()
    lines = [f'backend = "{backend}"', f"[backends.{backend}]", *(f"{name} = {value!r}" for name, value in values)]
    settings.write_text("\n".join(lines))
    return ["--config", str(settings)]


def with_arguments(runtime: Path, arguments: Sequence[str], directory: Path) -> Path:
    """Return a program that runs the runtime with arguments before those that it gets itself: podman has no such setting."""
    if not arguments:
        return runtime
    program = directory / runtime.name
    program.write_text(f'#!/bin/sh\nexec {shlex.join([str(runtime), *arguments])} "$@"\n')
    program.chmod(0o755)
    return program


def start_docker(
    directory: Path,
    runtime: Path,
    containerd_address: str,
    *,
    arguments: Sequence[str] = (),
    network: Namespace | None = None,
) -> Engine:
    """Start dockerd on a socket of its own, below a containerd of ours.

    `arguments` are the runtime's, before its command. In a network namespace of its own dockerd has its bridge.
    """
    socket = directory / "docker.sock"
    configuration = directory / "daemon.json"
    runtimes = {"pysandbox": {"path": str(runtime), "runtimeArgs": list(arguments)}}
    configuration.write_text(json.dumps({"runtimes": runtimes}))
    # No network devices or rules on the machine that runs the tests.
    bridge = ["--bridge=none"] if network is None else ["--bip=10.201.0.1/24", "--ip-forward=false", "--ip-masq=false"]
    environment = {**os.environ, "DOCKER_TMPDIR": str(directory / "tmp")}
    command = [
        *(network.enter() if network else ()),
        _program("dockerd"),
        f"--config-file={configuration}",
        f"--host=unix://{socket}",
        f"--containerd={containerd_address}",
        f"--data-root={directory / 'data'}",
        f"--exec-root={directory / 'exec'}",
        f"--pidfile={directory / 'docker.pid'}",
        "--default-runtime=pysandbox",
        "--exec-opt=native.cgroupdriver=cgroupfs",
        *bridge,
        "--iptables=false",
        "--ip6tables=false",
        "--storage-driver=overlay2",
        # -500 by default: lowering the score needs CAP_SYS_RESOURCE, which a sandboxed test machine does not have.
        "--oom-score-adjust=0",
    ]
    docker = Engine("docker", directory, [_program("docker"), "--host", f"unix://{socket}"], {})
    daemon = Daemon(command, directory / "dockerd.log", lambda: docker("version").returncode == 0, environment)
    docker.stop = daemon.stop
    return docker


def start_podman(directory: Path, runtime: Path) -> Engine:
    """Give podman, which has no daemon, storage and state of its own."""
    init = shutil.which("catatonit") or shutil.which("docker-init") or "/usr/libexec/podman/catatonit"
    configuration = directory / "containers.conf"
    # Without default_ulimits podman raises nofile and nproc to 1048576: that needs CAP_SYS_RESOURCE (see above).
    configuration.write_text(f"""
[containers]
default_ulimits = ["nofile=1024:4096", "nproc=1024:4096"]
netns = "none"
log_driver = "k8s-file"
init_path = "{init}"
[engine]
cgroup_manager = "cgroupfs"
events_logger = "file"
runtime = "pysandbox"
runtime_supports_json = ["pysandbox"]
[engine.runtimes]
pysandbox = ["{runtime}"]
""")
    storage = directory / "storage.conf"
    storage.write_text(
        f'[storage]\ndriver = "overlay"\ngraphroot = "{directory / "data"}"\nrunroot = "{directory / "run"}"\n'
    )
    command = [
        _program("podman"),
        f"--root={directory / 'data'}",
        f"--runroot={directory / 'run'}",
        f"--tmpdir={directory / 'tmp'}",
        "--cgroup-manager=cgroupfs",
        "--events-backend=file",
    ]
    podman = Engine(
        "podman",
        directory,
        command,
        {"CONTAINERS_CONF": str(configuration), "CONTAINERS_STORAGE_CONF": str(storage)},
    )
    podman.stop = lambda: remove_forgotten(runtime, directory)
    return podman


def remove_forgotten(runtime: Path, directory: Path) -> None:
    """Delete what podman removed without a word to the runtime: containers that shared another one's namespaces.

    Their records lie in the runtime's default place, as podman's clean-up takes no --runtime-flag; it is so under runc.
    """
    listed = call([str(runtime), "list", "--format", "json"], os.environ)
    for container in json.loads(listed.stdout or "null") or ():
        if container["bundle"].startswith(f"{directory}/"):
            call([str(runtime), "delete", "--force", container["id"]], os.environ)


def _program(name: str) -> str:
    """Return Debian's program: a newer client elsewhere on PATH may refuse the daemon's older protocol."""
    found = shutil.which(name, path="/usr/bin:/usr/sbin") or shutil.which(name)
    if found is None:
        raise FileNotFoundError(f"{name} is not installed (see tests/integration/packages.txt)")
    return found


def gone(engine: Engine) -> None:
    """Fail unless, within five seconds, nothing is left of containers that were removed."""
    eventually(lambda: not engine.leftovers(), f"nothing left behind: {engine.leftovers()}", seconds=5)
