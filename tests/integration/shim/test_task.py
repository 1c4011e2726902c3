"""The Task service of a real shim over the namespaces backend, called as containerd calls it."""

from __future__ import annotations

import json
import os
import resource
import select
import signal
import subprocess
import threading
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from integration.shim.conftest import Shim, eventually

from pysandbox.shim.messages import events
from pysandbox.shim.messages import task as messages
from pysandbox.shim.messages.cgroups_v1 import Metrics
from pysandbox.shim.messages.process import Status
from pysandbox.shim.messages.runc import Options, ProcessDetails
from pysandbox.shim.messages.runtimeoptions import Options as RuntimeOptions
from pysandbox.shim.messages.task_v3 import Task as TaskV3
from pysandbox.shim.metrics import unified
from pysandbox.ttrpc.errors import Code, RpcError
from pysandbox.ttrpc.messages.wellknown import Any as AnyMessage

if TYPE_CHECKING:
    from collections.abc import Callable

    Make = Callable[[Path], Shim]


def read_all(path: str) -> tuple[threading.Thread, list[bytes]]:
    """Read a FIFO to its end, as a client does."""
    pieces: list[bytes] = []

    def read() -> None:
        with open(path, "rb") as file:
            pieces.append(file.read())

    thread = threading.Thread(target=read)
    thread.start()
    return thread, pieces


def _refused(call: Callable[[], Any], text: str) -> int:
    with pytest.raises(RpcError, match=text) as raised:
        call()
    return raised.value.code


def test_start_prints_the_address_and_nothing_else(make_shim: Make, make_bundle: Any) -> None:
    shim = make_shim(make_bundle(["true"]))

    assert shim.started.returncode == 0
    assert shim.started.stderr == b""
    assert shim.started.stdout == (shim.bundle / "address").read_bytes()
    assert shim.command("start").stdout == shim.started.stdout  # it is there already


def test_a_life(make_shim: Make, make_bundle: Any) -> None:
    shim = make_shim(make_bundle(["sh", "-c", "read line; echo out $line; echo err >&2; exit 7"]))
    streams = {name: shim.fifo(name) for name in ("stdin", "stdout", "stderr")}
    readers = [read_all(streams[name]) for name in ("stdout", "stderr")]
    pid = shim.create(**streams)
    assert shim.state().status == Status.CREATED
    assert shim.start() == pid
    assert shim.state().status == Status.RUNNING
    Path(streams["stdin"]).write_bytes(b"line\n")

    assert shim.wait() == 7
    for thread, _ in readers:
        thread.join(5)
    assert [pieces for _, pieces in readers] == [[b"out line\n"], [b"err\n"]]
    state = shim.state()
    assert (state.status, state.exit_status, state.pid, state.bundle) == (Status.STOPPED, 7, pid, str(shim.bundle))
    deleted = shim.delete()
    assert (deleted.pid, deleted.exit_status) == (pid, 7)
    eventually(lambda: len(shim.sink.events) == 4)
    assert shim.sink.topics() == ["create", "start", "exit", "delete"]
    ended = events.TaskExit.decode(shim.sink.events[2][1].value)
    assert (ended.container_id, ended.id, ended.pid, ended.exit_status) == (shim.id, shim.id, pid, 7)
    shim.call("Shutdown", messages.ShutdownRequest(id=shim.id))
    eventually(lambda: not shim.alive(), 3)
    assert not Path(shim.started.stdout.decode().removeprefix("unix://")).exists()
    assert not Path(f"/run/pysandbox-containerd/{shim.namespace}").exists()


def test_execs_are_told_of_before_init(make_shim: Make, make_bundle: Any) -> None:
    shim = make_shim(make_bundle(["sleep", "100"]))
    shim.create()
    shim.start()
    stdout = shim.fifo("stdout")
    reader, text = read_all(stdout)
    shim.exec("one", "sh", "-c", "echo hello; exit 3", stdout=stdout)
    shim.exec("two", "sleep", "100")
    pid = shim.start("one")
    assert shim.wait("one") == 3
    reader.join(5)
    assert text == [b"hello\n"]
    second = shim.start("two")
    listed = shim.call("Pids", messages.PidsRequest(id=shim.id)).processes
    named = {each.pid: ProcessDetails.decode(each.info.value).exec_id for each in listed if each.info}
    assert named == {second: "two"}
    assert shim.delete("one").pid == pid
    shim.kill()

    assert shim.wait() == 137
    assert shim.state("two").exit_status == 137
    eventually(lambda: shim.sink.topics()[-1] == "exit" and shim.sink.topics().count("exit") == 3)
    assert shim.sink.topics() == [
        "create", "start", "exec-added", "exec-added", "exec-started", "exit", "exec-started", "exit", "exit",
    ]  # fmt: skip
    assert [events.TaskExit.decode(event.value).id for topic, event in shim.sink.events if topic == "exit"] == [
        "one",
        "two",
        shim.id,
    ]
    assert _refused(lambda: shim.exec("three", "true"), "is not running") == Code.FAILED_PRECONDITION
    shim.delete()


def test_a_program_that_ends_at_once_is_told_of_after_its_start(make_shim: Make, make_bundle: Any) -> None:
    shim = make_shim(make_bundle(["sleep", "100"]))
    shim.create()
    shim.start()
    for number in range(20):
        shim.exec(f"e{number}", "true")
        shim.start(f"e{number}")
    eventually(lambda: shim.sink.topics().count("exit") == 20)
    seen: dict[str, list[str]] = {}
    for topic, event in shim.sink.events[2:]:
        if topic == "exit":
            seen.setdefault(events.TaskExit.decode(event.value).id, []).append(topic)
        elif topic == "exec-started":
            seen.setdefault(events.TaskExecStarted.decode(event.value).exec_id, []).append(topic)

    assert seen == {f"e{number}": ["exec-started", "exit"] for number in range(20)}


def test_what_is_wrong_gets_the_right_code(make_shim: Make, make_bundle: Any) -> None:
    shim = make_shim(make_bundle(["sleep", "100"]))

    assert _refused(shim.state, "container web: not found") == Code.NOT_FOUND
    assert _refused(shim.start, "not found") == Code.NOT_FOUND
    shim.create()
    assert _refused(shim.create, "exists already") == Code.ALREADY_EXISTS
    shim.start()
    assert _refused(shim.start, "started already") == Code.FAILED_PRECONDITION
    assert _refused(shim.delete, "still running") == Code.FAILED_PRECONDITION
    assert _refused(lambda: shim.state("none"), "process none of container web") == Code.NOT_FOUND
    shim.exec("one", "sleep", "1")
    assert _refused(lambda: shim.exec("one", "true"), "exists already") == Code.ALREADY_EXISTS
    assert _refused(lambda: shim.exec("two"), "args") == Code.INVALID_ARGUMENT
    assert _refused(lambda: shim.kill(exec_id="one"), "not been started") == Code.FAILED_PRECONDITION
    assert (
        _refused(lambda: shim.call("Checkpoint", messages.CheckpointTaskRequest(id=shim.id)), "Checkpoint")
        == Code.UNIMPLEMENTED
    )
    shim.kill()
    shim.wait()
    assert _refused(shim.kill, "process already finished") == Code.NOT_FOUND
    assert shim.client.call(TaskV3, "State", messages.StateRequest(id=shim.id)).status == Status.STOPPED
    shim.delete()


def test_a_container_that_cannot_be_made_leaves_nothing(make_shim: Make, make_bundle: Any) -> None:
    shim = make_shim(make_bundle(["nosuchprogram"]))
    stdout = shim.fifo("stdout")
    before = set(os.listdir(f"/proc/{shim.serving()}/fd"))

    with pytest.raises(RpcError, match="nosuchprogram"):
        shim.create(stdout=stdout)
    assert set(os.listdir(f"/proc/{shim.serving()}/fd")) == before
    assert shim.sink.events == []
    assert os.listdir(f"/run/pysandbox-containerd/{shim.namespace}") == []


def test_a_created_container_can_be_deleted(make_shim: Make, make_bundle: Any) -> None:
    shim = make_shim(make_bundle(["sleep", "100"]))
    pid = shim.create()

    deleted = shim.delete()

    assert (deleted.pid, deleted.exit_status) == (pid, 137)
    eventually(lambda: shim.sink.topics() == ["create", "exit", "delete"])


def test_waiting_outlives_the_client_and_blocks_nobody(make_shim: Make, make_bundle: Any) -> None:
    from pysandbox.ttrpc.client import Client

    shim = make_shim(make_bundle(["sleep", "100"]))
    shim.create()
    shim.start()
    threads = len(os.listdir(f"/proc/{shim.serving()}/task"))
    waits = [shim.client.begin(messages.Task, "Wait", messages.WaitRequest(id=shim.id)) for _ in range(300)]
    other = Client.connect(shim.started.stdout.decode().removeprefix("unix://"))
    other.begin(messages.Task, "Wait", messages.WaitRequest(id=shim.id))
    other.close()

    assert shim.state().status == Status.RUNNING
    assert len(os.listdir(f"/proc/{shim.serving()}/task")) <= threads + 66
    shim.kill(signal.SIGKILL)
    assert {wait.result().exit_status for wait in waits} == {137}
    shim.delete()


def test_pause_update_stats(make_shim: Make, make_bundle: Any) -> None:
    shim = make_shim(make_bundle(["sleep", "100"]))
    shim.create()
    shim.start()
    shim.call("Pause", messages.PauseRequest(id=shim.id))
    assert shim.state().status == Status.PAUSED
    shim.call("Resume", messages.ResumeRequest(id=shim.id))
    resources = AnyMessage(
        type_url="types.containerd.io/opencontainers/runtime-spec/1/LinuxResources",
        value=json.dumps({"pids": {"limit": 77}}).encode(),
    )
    shim.call("Update", messages.UpdateTaskRequest(id=shim.id, resources=resources))
    stats = shim.call("Stats", messages.StatsRequest(id=shim.id)).stats

    assert stats.type_url == f"io.containerd.cgroups.v{2 if unified() else 1}.Metrics"
    if not unified():
        decoded = Metrics.decode(stats.value)
        assert decoded.pids is not None
        assert (decoded.pids.current, decoded.pids.limit) == (1, 77)
    eventually(lambda: shim.sink.topics()[2:] == ["paused", "resumed"])
    shim.kill()
    shim.wait()
    shim.delete()


def test_a_terminal(make_shim: Make, make_bundle: Any) -> None:
    shim = make_shim(make_bundle(["sh", "-c", "read line; stty size; echo got $line"], terminal=True))
    stdin, stdout = shim.fifo("stdin"), shim.fifo("stdout")
    reader, text = read_all(stdout)
    shim.create(stdin=stdin, stdout=stdout, terminal=True)
    shim.call("ResizePty", messages.ResizePtyRequest(id=shim.id, width=90, height=33))
    shim.start()
    Path(stdin).write_bytes(b"typed\n")

    assert shim.wait() == 0
    shim.delete()
    reader.join(5)
    assert text[0].endswith(b"got typed\r\n")


def test_input_ends_by_close_io(make_shim: Make, make_bundle: Any) -> None:
    shim = make_shim(make_bundle(["cat"]))
    stdin, stdout = shim.fifo("stdin"), shim.fifo("stdout")
    reader, _ = read_all(stdout)
    shim.create(stdin=stdin, stdout=stdout)
    shim.start()
    time.sleep(0.1)
    assert shim.state().status == Status.RUNNING  # no client yet: no end either
    shim.call("CloseIO", messages.CloseIORequest(id=shim.id, stdin=True))

    assert shim.wait() == 0
    reader.join(5)
    shim.delete()


def test_output_is_not_lost_when_the_shim_is_killed_and_delete_cleans_up(make_shim: Make, make_bundle: Any) -> None:
    shim = make_shim(make_bundle(["sh", "-c", "while :; do echo tick; sleep 0.05; done"]))
    stdout = shim.fifo("stdout")
    client = os.open(stdout, os.O_RDONLY | os.O_NONBLOCK)
    pid = shim.create(stdout=stdout)
    shim.start()
    os.kill(shim.pid, signal.SIGKILL)
    eventually(lambda: not shim.alive())
    time.sleep(0.2)

    assert os.read(client, 65536).startswith(b"tick\n")
    done = shim.command("delete", "-bundle", str(shim.bundle))
    response = messages.DeleteResponse.decode(done.stdout)
    assert (done.returncode, response.pid, response.exit_status) == (0, pid, 137)
    assert not Path(f"/proc/{pid}").exists() or "Z" in Path(f"/proc/{pid}/stat").read_text()
    assert not Path(shim.started.stdout.decode().removeprefix("unix://")).exists()
    assert messages.DeleteResponse.decode(shim.command("delete").stdout).exit_status == 137  # any number of times
    os.close(client)


def test_a_pod_shares_one_shim(make_shim: Make, make_bundle: Any) -> None:
    def grouped(spec: dict[str, Any]) -> None:
        spec.setdefault("annotations", {})["io.kubernetes.cri.sandbox-id"] = "pod"

    shim = make_shim(make_bundle(["sleep", "100"], grouped))
    first, bundle = shim.id, shim.bundle
    pid = shim.create()
    shim.start()
    shim.id, shim.bundle = "second", make_bundle(["sleep", "100"], grouped)
    assert shim.command("start").stdout == shim.started.stdout
    assert shim.create() != pid
    shim.start()
    shim.call("Shutdown", messages.ShutdownRequest(id=shim.id))
    assert shim.alive()  # containers remain
    for name in (shim.id, first):
        shim.id = name
        shim.kill()
        shim.wait()
        shim.delete()
    shim.bundle = bundle


def test_many_execs_at_a_time(make_shim: Make, make_bundle: Any) -> None:
    shim = make_shim(make_bundle(["sleep", "100"]))
    shim.create()
    shim.start()
    before = len(os.listdir(f"/proc/{shim.serving()}/fd"))
    for number in range(40):
        shim.exec(f"e{number}", "sh", "-c", f"exit {number}")
    starts = [
        shim.client.begin(messages.Task, "Start", messages.StartRequest(id=shim.id, exec_id=f"e{number}"))
        for number in range(40)
    ]
    waits = [
        shim.client.begin(messages.Task, "Wait", messages.WaitRequest(id=shim.id, exec_id=f"e{number}"))
        for number in range(40)
    ]

    assert all(start.result().pid for start in starts)
    assert [wait.result().exit_status for wait in waits] == list(range(40))
    for number in range(40):
        shim.delete(f"e{number}")
    eventually(lambda: len(os.listdir(f"/proc/{shim.serving()}/fd")) <= before)
    shim.kill()
    shim.wait()
    shim.delete()


@pytest.mark.parametrize("who", ["serving", "keeper"])
def test_a_process_that_cannot_be_followed_is_ended(make_shim: Make, make_bundle: Any, who: str) -> None:
    shim = make_shim(make_bundle(["sleep", "100"]))
    shim.create()
    shim.start()
    shim.exec("one", "sleep", "100")
    limited = shim.serving() if who == "serving" else shim.pid
    held, refused = len(os.listdir(f"/proc/{limited}/fd")), 0
    for spare in range(1, 40):  # somewhere on its way it finds no descriptor
        resource.prlimit(limited, resource.RLIMIT_NOFILE, (held + spare, 4096))
        try:
            shim.start("one")
            break
        except RpcError:
            refused += 1
    resource.prlimit(limited, resource.RLIMIT_NOFILE, (1024, 4096))

    assert refused > 3
    shim.kill()
    assert shim.wait() == 137
    eventually(lambda: shim.sink.topics().count("exit") == shim.sink.topics().count("exec-started") + 1)
    shim.delete()


def test_where_the_host_has_the_pids_execs_end_with_init_and_before_it(make_shim: Make, make_bundle: Any) -> None:
    def shared(spec: dict[str, Any]) -> None:
        spec["linux"]["namespaces"] = [each for each in spec["linux"]["namespaces"] if each["type"] != "pid"]

    shim = make_shim(make_bundle(["sleep", "0.5"], shared))
    shim.create()
    shim.start()
    for number in range(5):
        shim.exec(f"e{number}", "sleep", "100")
        shim.start(f"e{number}")

    assert shim.wait() == 0
    eventually(lambda: shim.sink.topics().count("exit") == 6)
    ended = [events.TaskExit.decode(event.value) for topic, event in shim.sink.events if topic == "exit"]
    assert sorted(each.id for each in ended[:5]) == [f"e{number}" for number in range(5)]
    assert [each.exit_status for each in ended] == [137] * 5 + [0]
    shim.delete()


def _zombies(pid: int) -> list[int]:
    found = []
    for entry in Path("/proc").iterdir():
        if entry.name.isdecimal():
            try:
                state, parent = (entry / "stat").read_text().rpartition(")")[2].split()[:2]
            except OSError:
                continue
            if state == "Z" and int(parent) == pid:
                found.append(int(entry.name))
    return found


def test_orphans_that_the_shim_inherits_are_reaped(make_shim: Make, make_bundle: Any) -> None:
    def shared(spec: dict[str, Any]) -> None:
        spec["linux"]["namespaces"] = [each for each in spec["linux"]["namespaces"] if each["type"] != "pid"]

    shim = make_shim(make_bundle(["sh", "-c", "for n in 1 2 3; do (sleep 0.3 &); done; exec sleep 100"], shared))
    shim.create()
    shim.start()
    eventually(lambda: len(_zombies(shim.pid)) == 3)
    eventually(lambda: _zombies(shim.pid) == [])
    shim.exec("one", "sh", "-c", "exit 6")
    shim.start("one")

    assert shim.wait("one") == 6
    shim.kill()
    assert shim.wait() == 137
    shim.delete()


def test_who_is_not_root_can_open_its_output_again(make_shim: Make, make_bundle: Any) -> None:
    shim = make_shim(make_bundle(["sh", "-c", "echo again >/proc/self/fd/1"], user={"uid": 1000, "gid": 1000}))
    stdout = shim.fifo("stdout")
    reader, text = read_all(stdout)
    options = Options(io_uid=1000, io_gid=1000)
    shim.create(stdout=stdout, options=AnyMessage(type_url=Options.NAME, value=options.encode()))
    shim.start()

    assert shim.wait() == 0
    reader.join(5)
    assert text == [b"again\n"]
    shim.delete()


@pytest.mark.parametrize("served", [True, False])
def test_the_second_name_means_microvms_where_the_options_name_no_backend(
    microvm_program: Path, tmp_path: Path, make_bundle: Any, monkeypatch: pytest.MonkeyPatch, served: bool
) -> None:
    if not served:
        monkeypatch.setenv("PYSANDBOX_WARM", "off")
    shim = Shim(microvm_program, tmp_path, make_bundle(["true"]))
    try:
        described = subprocess.run([microvm_program, "-v"], capture_output=True, text=True, check=True).stdout
        assert described.startswith("containerd-shim-pysandbox-microvm-v2:\n")
        _refused(lambda: shim.create(options=_body("[backends.microvm]\nnosuchsetting = 1")), "microvm")
        shim.create(options=_body('backend = "namespaces"'))
        record = Path(f"/run/pysandbox-containerd/{shim.namespace}/{shim.id}/state.json")
        assert json.loads(record.read_text())["backend"] == "namespaces"
        shim.delete()
        info = subprocess.run([microvm_program, "-info"], capture_output=True, check=True, input=b"").stdout
        assert b"io.containerd.pysandbox-microvm.v2" in info
    finally:
        shim.close()


def _body(text: str) -> AnyMessage:
    return AnyMessage(type_url=RuntimeOptions.NAME, value=RuntimeOptions(config_body=text.encode()).encode())


def test_runtime_options_choose_the_settings_and_unknown_ones_are_ignored(
    make_shim: Make, make_bundle: Any, tmp_path: Path
) -> None:
    shim = make_shim(make_bundle(["true"]))
    settings = tmp_path / "settings.toml"
    settings.write_text('backend = "nosuchbackend"\n')
    settings.chmod(0o600)
    options = RuntimeOptions(config_path=str(settings))

    with pytest.raises(RpcError, match="nosuchbackend"):
        shim.create(options=AnyMessage(type_url=RuntimeOptions.NAME, value=options.encode()))
    with pytest.raises(RpcError, match="runtime options: runtimeoptions.v1.Options") as raised:
        shim.create(options=AnyMessage(type_url=RuntimeOptions.NAME, value=b"\xff"))
    assert raised.value.code == Code.INVALID_ARGUMENT
    shim.create(options=AnyMessage(type_url="somebody.else.Options", value=b"\xff"))
    shim.delete()


def _noted(*names: str) -> Callable[[dict[str, Any]], None]:
    """Have each kind of hook write its working directory to `NAME.cwd` in the bundle that the spec is of."""

    def change(spec: dict[str, Any]) -> None:
        script = 'id=$(sed \'s/.*"bundle": *"\\([^"]*\\)".*/\\1/\'); pwd >"$id/$0.cwd"'
        spec["hooks"] = {name: [{"path": "/bin/sh", "args": ["sh", "-c", script, name]}] for name in names}

    return change


def test_hooks_run_in_the_bundle_of_their_own_container(make_shim: Make, make_bundle: Any) -> None:
    def change(spec: dict[str, Any]) -> None:
        _noted("createRuntime", "poststart", "poststop")(spec)
        spec.setdefault("annotations", {})["io.kubernetes.cri.sandbox-id"] = "pod"

    shim = make_shim(make_bundle(["true"], change))
    first = shim.bundle
    for name, bundle in (("web", first), ("second", make_bundle(["true"], change))):
        shim.id, shim.bundle = name, bundle
        shim.create()
        shim.start()
        shim.wait()
        shim.delete()
        noted = {path.stem: path.read_text().strip() for path in bundle.glob("*.cwd")}
        assert noted == dict.fromkeys(("createRuntime", "poststart", "poststop"), str(bundle))
    shim.id, shim.bundle = "web", first


def test_running_out_of_memory_is_told_of_and_costs_no_thread(make_shim: Make, make_bundle: Any) -> None:
    def limited(spec: dict[str, Any]) -> None:
        spec["linux"].setdefault("resources", {})["memory"] = {"limit": 16 << 20}
        spec.setdefault("annotations", {})["io.kubernetes.cri.sandbox-id"] = "pod"

    shim = make_shim(make_bundle(["sh", "-c", 'read go; x=$(yes | head -c 64000000); echo "${#x}"'], limited))
    first, bundle = shim.id, shim.bundle
    stdin = shim.fifo("stdin")
    shim.create()
    shim.delete()
    eventually(lambda: "delete" in shim.sink.topics())  # so it is connected
    descriptors = len(os.listdir(f"/proc/{shim.serving()}/fd"))
    shim.create(stdin=stdin)
    shim.start()
    threads = len(os.listdir(f"/proc/{shim.serving()}/task"))
    for number in range(5):
        shim.id, shim.bundle = f"other{number}", make_bundle(["sleep", "100"], limited)
        shim.create()
    assert len(os.listdir(f"/proc/{shim.serving()}/task")) <= threads
    shim.id, shim.bundle = first, bundle
    Path(stdin).write_bytes(b"go\n")

    assert shim.wait() == 137
    eventually(lambda: "oom" in shim.sink.topics())
    told = [events.TaskOOM.decode(event.value) for topic, event in shim.sink.events if topic == "oom"]
    assert {each.container_id for each in told} == {first}
    for name in (first, *(f"other{number}" for number in range(5))):
        shim.id = name
        shim.delete()
    eventually(lambda: len(os.listdir(f"/proc/{shim.serving()}/fd")) <= descriptors)
    shim.id = first


def _processor_time(shim: Shim) -> int:
    """Return clock ticks, user's and system's, of all that the shim is."""
    stats = [Path(f"/proc/{pid}/stat").read_text() for pid in {shim.pid, shim.serving()}]
    return sum(int(ticks) for stat in stats for ticks in stat.rpartition(")")[2].split()[11:13])


def test_a_terminals_slow_reader_gets_all_and_costs_no_processor_time(make_shim: Make, make_bundle: Any) -> None:
    shim = make_shim(make_bundle(["sh", "-c", "stty -opost; yes | head -c 130000"], terminal=True))
    stdin, stdout = shim.fifo("stdin"), shim.fifo("stdout")
    client = os.open(stdout, os.O_RDONLY | os.O_NONBLOCK)
    shim.create(stdin=stdin, stdout=stdout, terminal=True)
    shim.start()
    time.sleep(0.5)  # the FIFO is full, and so is the terminal
    assert shim.state().status == Status.RUNNING
    Path(stdin).write_bytes(b"nobody reads this\n")
    before = _processor_time(shim)
    time.sleep(1)
    assert _processor_time(shim) - before < 20
    text = b""
    while len(text) < 130000 - 70000:
        text += _read_soon(client)
    assert shim.wait() == 0  # the rest fits into the FIFO and the terminal
    before = _processor_time(shim)
    time.sleep(0.5)
    assert _processor_time(shim) - before < 10
    deletion = shim.client.begin(messages.Task, "Delete", messages.DeleteRequest(id=shim.id))
    while piece := _read_soon(client):
        text += piece
        time.sleep(0.001)
    deletion.result()

    assert text.replace(b"nobody reads this\r\n", b"").replace(b"nobody reads this\n", b"") == b"y\n" * 65000
    os.close(client)


def _read_soon(descriptor: int) -> bytes:
    """Read what is there or comes within two seconds; nothing at the end."""
    poll = select.poll()
    poll.register(descriptor, select.POLLIN)
    return os.read(descriptor, 4096) if poll.poll(2000) else b""
