"""containerd's own gRPC API over our shim: containers, tasks, and every event in its order."""

from __future__ import annotations

import json
import os
import threading
import uuid
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from daemon.api import Service
from daemon.process import mounts_below, parent_of, running
from integration.shim.conftest import PROCESS, eventually

from pysandbox.shim.messages import events as event_messages

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from daemon.containerd import Containerd

RUNTIME = "io.containerd.pysandbox.v2"
CREATED, RUNNING, STOPPED, PAUSED = 1, 2, 3, 4
_EVENTS = {message.NAME: message for message in vars(event_messages).values() if hasattr(message, "NAME")}


class Api:
    """A client of one containerd, in a namespace of its own, and what containerd tells of it."""

    def __init__(self, containerd: Containerd, rootfs: Path) -> None:
        import grpc
        from google.protobuf.any_pb2 import Any as AnyMessage

        self.any = AnyMessage
        self.containerd, self.rootfs = containerd, rootfs
        self.channel = grpc.insecure_channel(f"unix:{containerd.address}")
        metadata = {"containerd-namespace": containerd.namespace}
        self.containers = Service(self.channel, "containerd_containers", "Containers", metadata=metadata)
        self.tasks = Service(self.channel, "containerd_tasks", "Tasks", metadata=metadata)
        events = Service(self.channel, "containerd_events", "Events", metadata=metadata)
        self._made: list[str] = []
        self.told: list[tuple[str, Any]] = []
        self.stream = events.Subscribe(filters=[f"namespace=={containerd.namespace}"], limit=300)
        threading.Thread(target=self._listen, daemon=True).start()
        eventually(self._listens)

    def _listen(self) -> None:
        import grpc

        try:
            for envelope in self.stream:
                kind = _EVENTS.get(envelope.event.type_url)
                self.told.append((envelope.topic, kind.decode(envelope.event.value) if kind else None))
        except grpc.RpcError:
            pass  # cancelled, at the end

    def _listens(self) -> bool:
        name = f"probe-{uuid.uuid4().hex[:8]}"
        self.containers.Create(container={"id": name, "runtime": {"name": RUNTIME}, "spec": self.any(type_url="x")})
        self.containers.Delete(id=name)
        return bool(self.told)

    def of(self, name: str) -> list[tuple[str, Any]]:
        """Return a container's task events, in the order in which they came."""
        return [
            (topic.removeprefix("/tasks/"), event)
            for topic, event in self.told
            if topic.startswith("/tasks/") and event.container_id == name
        ]

    def topics(self, name: str) -> list[str]:
        return [topic for topic, _ in self.of(name)]

    def fifo(self, name: str) -> str:
        path = self.containerd.directory / f"{name}-{uuid.uuid4().hex[:6]}"
        os.mkfifo(path)
        return str(path)

    def create(self, spec: dict[str, Any], *, options: Any = None, **streams: Any) -> tuple[str, int]:
        """Make a container and its task; return its name and pid."""
        name = f"test-{uuid.uuid4().hex[:8]}"
        value = self.any(
            type_url="types.containerd.io/opencontainers/runtime-spec/1/Spec", value=json.dumps(spec).encode()
        )
        self.containers.Create(container={"id": name, "runtime": {"name": RUNTIME}, "spec": value})
        self._made.append(name)
        bind = {"type": "bind", "source": str(self.rootfs), "options": ["rbind", "rw"]}
        return name, self.tasks.Create(container_id=name, rootfs=[bind], options=options, **streams).pid

    def exec(self, name: str, exec_id: str, *args: str, **streams: Any) -> None:
        spec = {"args": list(args), "cwd": "/", "env": ["PATH=/bin"]}
        value = self.any(type_url=PROCESS, value=json.dumps(spec).encode())
        self.tasks.Exec(container_id=name, exec_id=exec_id, spec=value, **streams)

    def close(self) -> None:
        import grpc

        for name in self._made:
            for call in (
                lambda name=name: self.tasks.Kill(container_id=name, signal=9),
                lambda name=name: self.tasks.Wait(container_id=name),
                lambda name=name: self.tasks.Delete(container_id=name),
                lambda name=name: self.containers.Delete(id=name),
            ):
                try:
                    call()
                except grpc.RpcError:
                    continue
        self.stream.cancel()
        self.channel.close()


@pytest.fixture
def api(containerd: Containerd, busybox_rootfs: Path, protos: None) -> Iterator[Api]:
    client = Api(containerd, busybox_rootfs)
    yield client
    client.close()


@pytest.fixture
def spec(make_bundle: Any, api: Api) -> Callable[..., dict[str, Any]]:
    """Make specs of a program in the cgroup that the test's containerd has."""

    def make(*args: str, **process: Any) -> dict[str, Any]:
        document: dict[str, Any] = json.loads(
            (make_bundle(list(args), rootfs=False, **process) / "config.json").read_text()
        )
        document["linux"]["cgroupsPath"] = f"/{api.containerd.namespace}/{uuid.uuid4().hex[:8]}"
        document["root"]["path"] = "rootfs"
        return document

    return make


def refused(call: Callable[[], Any]) -> tuple[str, str]:
    import grpc

    with pytest.raises(grpc.RpcError) as raised:
        call()
    return raised.value.code().name, raised.value.details()


def test_the_life_of_a_task_and_its_events(api: Api, spec: Any) -> None:
    stdout = api.fifo("stdout")
    name, pid = api.create(spec("sh", "-c", "echo said; exit 7"), stdout=stdout)
    assert api.tasks.Get(container_id=name).process.status == CREATED
    assert os.readlink(f"/proc/{pid}/ns/net")  # hooks of clients look here
    reader = os.open(stdout, os.O_RDONLY | os.O_NONBLOCK)
    assert api.tasks.Start(container_id=name).pid == pid

    assert api.tasks.Wait(container_id=name).exit_status == 7
    assert os.read(reader, 100) == b"said\n"
    os.close(reader)
    deleted = api.tasks.Delete(container_id=name)
    assert (deleted.pid, deleted.exit_status) == (pid, 7)
    eventually(lambda: "delete" in api.topics(name))
    told = dict(api.of(name))
    assert api.topics(name) == ["create", "start", "exit", "delete"]
    assert (told["create"].pid, told["start"].pid) == (pid, pid)
    assert told["create"].io.stdout == stdout
    assert (told["exit"].id, told["exit"].pid, told["exit"].exit_status) == (name, pid, 7)
    assert (told["delete"].pid, told["delete"].exit_status) == (pid, 7)
    assert told["exit"].exited_at == told["delete"].exited_at
    assert deleted.exited_at.seconds == told["exit"].exited_at.seconds


def test_no_exit_overtakes_its_start_and_none_is_lost(api: Api, spec: Any) -> None:
    """Programs that end at once, many at a time."""
    name, _ = api.create(spec("sleep", "100"))
    api.tasks.Start(container_id=name)
    names = [f"exec{number}" for number in range(16)]

    def run(exec_id: str) -> None:
        api.exec(name, exec_id, "sh", "-c", f"exit {exec_id.removeprefix('exec')}")
        api.tasks.Start(container_id=name, exec_id=exec_id)

    threads = [threading.Thread(target=run, args=(exec_id,)) for exec_id in names]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    eventually(lambda: api.topics(name).count("exit") == len(names))
    api.tasks.Kill(container_id=name, signal=9)
    assert api.tasks.Wait(container_id=name).exit_status == 137
    eventually(lambda: api.topics(name).count("exit") == len(names) + 1)

    for number, exec_id in enumerate(names):
        own = [
            (topic, event)
            for topic, event in api.of(name)
            if exec_id in (getattr(event, "exec_id", ""), getattr(event, "id", ""))
        ]
        assert [topic for topic, _ in own] == ["exec-added", "exec-started", "exit"]
        assert own[2][1].exit_status == number
        assert own[2][1].pid == own[1][1].pid
        assert api.tasks.DeleteProcess(container_id=name, exec_id=exec_id).exit_status == number
    assert api.of(name)[-1][1].id == name


def test_update_changes_the_limits(api: Api, spec: Any) -> None:
    document = spec("sleep", "100")
    name, _ = api.create(document)
    api.tasks.Start(container_id=name)
    resources = {"memory": {"limit": 64 << 20}, "pids": {"limit": 40}}
    kind = "types.containerd.io/opencontainers/runtime-spec/1/LinuxResources"

    api.tasks.Update(container_id=name, resources=api.any(type_url=kind, value=json.dumps(resources).encode()))

    metric = api.tasks.Metrics(filters=[f"id=={name}"]).metrics[0]
    assert metric.data.type_url in {"io.containerd.cgroups.v1.Metrics", "io.containerd.cgroups.v2.Metrics"}
    assert metrics_of(metric.data).pids.limit == 40


def metrics_of(data: Any) -> Any:
    from pysandbox.shim.messages import cgroups_v1, cgroups_v2

    messages = {"io.containerd.cgroups.v1.Metrics": cgroups_v1, "io.containerd.cgroups.v2.Metrics": cgroups_v2}
    return messages[data.type_url].Metrics.decode(data.value)


def test_input_ends_by_close_io(api: Api, spec: Any) -> None:
    streams = {name: api.fifo(name) for name in ("stdin", "stdout")}
    name, _ = api.create(spec("cat"), **streams)
    reader = os.open(streams["stdout"], os.O_RDONLY | os.O_NONBLOCK)
    writer = os.open(streams["stdin"], os.O_WRONLY)
    api.tasks.Start(container_id=name)
    os.write(writer, b"all of it")

    api.tasks.CloseIO(container_id=name, stdin=True)
    os.close(writer)

    assert api.tasks.Wait(container_id=name).exit_status == 0
    assert os.read(reader, 100) == b"all of it"
    os.close(reader)


def test_a_terminal_is_resized(api: Api, spec: Any) -> None:
    streams = {name: api.fifo(name) for name in ("stdin", "stdout")}
    name, _ = api.create(spec("sh", "-c", "read line; stty size", terminal=True), terminal=True, **streams)
    reader = os.open(streams["stdout"], os.O_RDWR)
    api.tasks.Start(container_id=name)
    api.tasks.ResizePty(container_id=name, width=100, height=30)
    Path(streams["stdin"]).write_bytes(b"go\n")

    assert api.tasks.Wait(container_id=name).exit_status == 0
    said = b""
    while b"30 100\r\n" not in said:
        said += os.read(reader, 100)
    os.close(reader)
    api.tasks.ResizePty(container_id=name, width=1, height=1)  # of one that has ended: nothing, and no error


def test_pause_and_resume_are_told_of(api: Api, spec: Any) -> None:
    name, _ = api.create(spec("sleep", "100"))
    api.tasks.Start(container_id=name)
    api.tasks.Pause(container_id=name)
    assert api.tasks.Get(container_id=name).process.status == PAUSED
    api.tasks.Resume(container_id=name)
    assert api.tasks.Get(container_id=name).process.status == RUNNING

    eventually(lambda: api.topics(name) == ["create", "start", "paused", "resumed"])


def test_refusals_have_their_codes_and_name_the_container(api: Api, spec: Any) -> None:
    name, pid = api.create(spec("sleep", "100"))
    api.tasks.Start(container_id=name)

    assert refused(lambda: api.tasks.Start(container_id=name))[0] == "FAILED_PRECONDITION"
    code, text = refused(lambda: api.tasks.Delete(container_id=name))
    assert (code, name in text) == ("FAILED_PRECONDITION", True)
    assert refused(lambda: api.tasks.Kill(container_id=name, exec_id="none", signal=9))[0] == "NOT_FOUND"
    api.exec(name, "twice", "true")
    assert refused(lambda: api.exec(name, "twice", "true"))[0] == "ALREADY_EXISTS"
    api.tasks.Kill(container_id=name, signal=9)
    api.tasks.Wait(container_id=name)
    assert refused(lambda: api.tasks.Kill(container_id=name, signal=9))[0] == "NOT_FOUND"
    assert refused(lambda: api.tasks.Start(container_id=name, exec_id="twice"))[0] == "FAILED_PRECONDITION"
    assert not running(pid)


def test_a_create_that_fails_leaves_nothing(api: Api, spec: Any) -> None:
    document = spec("true")
    document["mounts"].append(
        {"destination": "/nowhere", "type": "bind", "source": "/no/such/source", "options": ["bind"]}
    )

    code, text = refused(lambda: api.create(document))

    assert (code, "/no/such/source" in text) == ("UNKNOWN", True) or code == "NOT_FOUND"
    name = api._made[-1]
    assert not [point for point in mounts_below(api.containerd.directory) if name in point]
    assert not list(Path("/sys/fs/cgroup").glob(f"*{document['linux']['cgroupsPath']}"))
    assert not list(Path(f"/run/pysandbox-containerd/{api.containerd.namespace}").glob(f"{name}*"))


def test_a_shim_ends_with_its_task(api: Api, spec: Any) -> None:
    name, pid = api.create(spec("true"))
    shim, _ = parent_of(pid)
    api.tasks.Start(container_id=name)
    api.tasks.Wait(container_id=name)

    api.tasks.Delete(container_id=name)

    eventually(lambda: not running(shim), 5)
    assert not [point for point in mounts_below(api.containerd.directory) if name in point]
