"""A shim as containerd starts it: `start` in a bundle, its socket, and where its events go."""

from __future__ import annotations

import _socket
import contextlib
import importlib.util
import json
import os
import shutil
import signal
import subprocess
import tempfile
import threading
import time
import uuid
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from daemon import image
from daemon.api import compile_protos
from daemon.containerd import Containerd
from daemon.process import parent_of
from daemon.release import SUITES, Release, Unavailable, installed, of_suite
from precondition import requires

from pysandbox.shim.messages import task as messages
from pysandbox.shim.messages.forward import Events
from pysandbox.shim.messages.task import Task
from pysandbox.ttrpc.client import Client
from pysandbox.ttrpc.messages.wellknown import Any as AnyMessage
from pysandbox.ttrpc.messages.wellknown import Empty
from pysandbox.ttrpc.server import Server

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping

PROCESS = "types.containerd.io/opencontainers/runtime-spec/1/Process"


def eventually(condition: Callable[[], Any], limit: float = 10.0) -> None:
    deadline = time.monotonic() + limit
    while not condition():
        assert time.monotonic() < deadline, "it did not happen"
        time.sleep(0.01)


def relatives(keeper: int) -> list[int]:
    """Return the processes that serve for a shim: its children that are shims, or its parent if that is one.

    It is known by its name, which each fork of the server takes from its launcher.
    """
    pids = []
    for task in Path(f"/proc/{keeper}/task").iterdir():
        with contextlib.suppress(FileNotFoundError, ProcessLookupError):  # a thread that has ended meanwhile
            pids += [int(pid) for pid in (task / "children").read_text().split()]
    return [pid for pid in (parent_of(keeper)[0], *pids) if _is_shim(pid)]


def _is_shim(pid: int) -> bool:
    try:
        state = Path(f"/proc/{pid}/stat").read_text()
    except OSError:
        return False
    return "(containerd-shim" in state and state.rpartition(")")[2].split()[0] != "Z"


class EventSink:
    """containerd's event service."""

    def __init__(self, path: str) -> None:
        self.path = path
        self.events: list[tuple[str, AnyMessage]] = []
        listener = _socket.socket(_socket.AF_UNIX, _socket.SOCK_STREAM)
        listener.bind(path)
        listener.listen()
        self._server = Server()
        self._server.register(Events, self)
        threading.Thread(target=self._server.serve, args=(listener,)).start()

    def Forward(self, request: Any, call: Any) -> Empty:
        self.events.append((request.envelope.topic.removeprefix("/tasks/"), request.envelope.event))
        return Empty()

    def topics(self) -> list[str]:
        return [topic for topic, _ in self.events]

    def close(self) -> None:
        self._server.close()


class Shim:
    """One shim, and the calls to it by name: `shim.State(id="web")`."""

    def __init__(self, program: Path, directory: Path, bundle: Path) -> None:
        self.program, self.bundle = program, bundle
        self.namespace, self.id = f"test-{uuid.uuid4().hex[:8]}", "web"
        self.sink = EventSink(str(directory / "events"))
        self.grpc = str(directory / "grpc")
        os.mkfifo(bundle / "log")
        self.started = self.command("start")
        self.client = Client.connect(self.started.stdout.decode().removeprefix("unix://"))
        self.pid = self.call("Connect", messages.ConnectRequest(id=self.id)).shim_pid
        self.directory = directory

    def command(self, action: str, *flags: str) -> subprocess.CompletedProcess[bytes]:
        command = [self.program, "-namespace", self.namespace, "-id", self.id, "-address", self.grpc, *flags, action]
        environment = {**os.environ, "TTRPC_ADDRESS": self.sink.path}
        return subprocess.run(command, cwd=self.bundle, env=environment, capture_output=True, check=False, timeout=20)

    def call(self, method: str, request: Any, timeout: float = 20) -> Any:
        return self.client.call(Task, method, request, timeout=timeout)

    def fifo(self, name: str) -> str:
        path = str(self.directory / f"{name}-{uuid.uuid4().hex[:6]}")
        os.mkfifo(path)
        return path

    def create(self, **streams: Any) -> int:
        self._name_cgroup()
        return int(self.call("Create", messages.CreateTaskRequest(id=self.id, bundle=str(self.bundle), **streams)).pid)

    def _name_cgroup(self) -> None:
        """Give the container a cgroup that no other test's has, as containerd does: ids are the same everywhere."""
        config = self.bundle / "config.json"
        spec = json.loads(config.read_text())
        if not spec["linux"].get("cgroupsPath"):
            spec["linux"]["cgroupsPath"] = f"/{self.namespace}-{self.id}"
            config.write_text(json.dumps(spec))

    def start(self, exec_id: str = "") -> int:
        return int(self.call("Start", messages.StartRequest(id=self.id, exec_id=exec_id)).pid)

    def wait(self, exec_id: str = "") -> int:
        return int(self.call("Wait", messages.WaitRequest(id=self.id, exec_id=exec_id)).exit_status)

    def kill(self, number: int = 9, exec_id: str = "", *, everyone: bool = False) -> None:
        self.call("Kill", messages.KillRequest(id=self.id, exec_id=exec_id, signal=number, all=everyone))

    def delete(self, exec_id: str = "") -> Any:
        return self.call("Delete", messages.DeleteRequest(id=self.id, exec_id=exec_id))

    def state(self, exec_id: str = "") -> Any:
        return self.call("State", messages.StateRequest(id=self.id, exec_id=exec_id))

    def exec(self, exec_id: str, *args: str, **streams: Any) -> None:
        spec = {"args": list(args), "cwd": "/", "env": ["PATH=/bin"]}
        value = AnyMessage(type_url=PROCESS, value=json.dumps(spec).encode())
        self.call("Exec", messages.ExecProcessRequest(id=self.id, exec_id=exec_id, spec=value, **streams))

    def serving(self) -> int:
        """Have it woken, and return the process that serves: the shim itself, or a relative of the keeper that it is."""
        self.call("Connect", messages.ConnectRequest(id=self.id))
        return next(iter(relatives(self.pid)), self.pid)

    def rest(self) -> None:
        """Wait until only the keeper is left."""
        eventually(lambda: not relatives(self.pid))

    def alive(self) -> bool:
        try:
            return b"shim" in Path(f"/proc/{self.pid}/cmdline").read_bytes()
        except FileNotFoundError:
            return False

    def close(self) -> None:
        """End it if it is still there, and remove what its containers left."""
        self.client.close()
        if self.alive():
            os.kill(self.pid, signal.SIGKILL)
            eventually(lambda: not self.alive())
        self.command("delete", "-bundle", str(self.bundle))
        shutil.rmtree(f"/run/pysandbox-containerd/{self.namespace}", ignore_errors=True)
        self.sink.close()


@pytest.fixture(scope="session")
def shim_program(launcher: Path) -> Path:
    """A `containerd-shim-pysandbox-v2` that runs this checkout: the same two programs under another name."""
    return _shim_program(launcher, "containerd-shim-pysandbox-v2")


@pytest.fixture(scope="session")
def microvm_program(launcher: Path) -> Path:
    """The same under its second name, beside it."""
    return _shim_program(launcher, "containerd-shim-pysandbox-microvm-v2")


def _shim_program(launcher: Path, name: str) -> Path:
    program = launcher.with_name(name)
    os.link(launcher, program)
    program.with_name(f"{name}-cold").symlink_to(f"{launcher.name}-cold")
    return program


@pytest.fixture
def make_shim(shim_program: Path, tmp_path: Path) -> Iterator[Callable[[Path], Shim]]:
    """Start shims; they are ended after the test."""
    requires("root")
    shims: list[Shim] = []

    def make(bundle: Path) -> Shim:
        directory = tmp_path / f"shim{len(shims)}"
        directory.mkdir()
        shims.append(Shim(shim_program, directory, bundle))
        return shims[-1]

    yield make
    for shim in shims:
        shim.close()


@pytest.fixture(scope="session")
def settings_file(microvm_settings: Mapping[str, Any], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A settings file that says nothing of a backend: the shim's name does."""
    path = tmp_path_factory.mktemp("settings") / "microvm.toml"
    lines = "".join(f'{name} = "{value}"\n' for name, value in microvm_settings.items())
    path.write_text(f"[backends.microvm]\n{lines}")
    path.chmod(0o600)
    return path


# -- real containerds --------------------------------------------------------------------------------------------------


@pytest.fixture(scope="session", params=["installed", *SUITES])
def release(request: pytest.FixtureRequest) -> Release:
    """containerd of this machine, and of other Debian suites."""
    requires("root", "command containerd-shim-runc-v2")
    try:
        return installed() if request.param == "installed" else of_suite(request.param)
    except Unavailable as reason:
        pytest.skip(f"no containerd of {request.param}: {reason}")


@pytest.fixture(scope="session")
def make_containerd(release: Release, layer: Path, shim_program: Path) -> Iterator[Callable[..., Containerd]]:
    """Start containerds that find our shim by its name, with the image loaded; ended with the session."""
    made: list[Containerd] = []

    def make(**options: Any) -> Containerd:
        directory = Path(tempfile.mkdtemp(prefix="psb-"))  # sockets have at most 107 bytes; pytest's own are too deep
        directory.chmod(0o711)
        path = os.pathsep.join([str(shim_program.parent), str(release.directory), os.environ["PATH"]])
        made.append(Containerd(directory, Path("/usr/bin/false"), release=release, path=path, **options))
        archive = directory / "image.tar"
        image.oci_archive(layer, archive)
        made[-1].ok("image", "import", str(archive))
        return made[-1]

    yield make
    for containerd in made:
        containerd.close()
        shutil.rmtree(f"/run/pysandbox-containerd/{containerd.cgroup}", ignore_errors=True)


@pytest.fixture(scope="session")
def shared_containerd(make_containerd: Callable[..., Containerd]) -> Containerd:
    """One containerd for all tests of a version that leave it alone."""
    return make_containerd()


@pytest.fixture
def containerd(shared_containerd: Containerd) -> Iterator[Containerd]:
    """The shared containerd; what the test made in it is removed."""
    yield shared_containerd
    shared_containerd.remove_containers()


@pytest.fixture
def own_containerd(make_containerd: Callable[..., Containerd]) -> Iterator[Containerd]:
    """A containerd that the test may kill."""
    containerd = make_containerd()
    yield containerd
    containerd.remove_containers()


@pytest.fixture(scope="session")
def protos(tmp_path_factory: pytest.TempPathFactory) -> None:
    """Have the services of tests/data/containerd ready to be called."""
    if importlib.util.find_spec("grpc") is None or importlib.util.find_spec("grpc_tools") is None:
        pytest.skip("requires grpcio-tools: not installed")
    compile_protos(tmp_path_factory.mktemp("protos"))
