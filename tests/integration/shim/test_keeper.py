"""The keeper and who serves: what is the shim's, what is left of it at rest, and that one does not outlive the other."""

from __future__ import annotations

import os
import signal
import threading
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from daemon.process import parent_of, running
from integration.shim.conftest import eventually, relatives

from pysandbox.shim.messages import events
from pysandbox.shim.messages import task as messages
from pysandbox.shim.messages.process import Status
from pysandbox.ttrpc.client import Client
from pysandbox.ttrpc.errors import RpcError

if TYPE_CHECKING:
    from collections.abc import Callable

    from integration.shim.conftest import Shim

    Make = Callable[[Path], Shim]


@pytest.fixture(autouse=True)
def _served(request: pytest.FixtureRequest) -> None:
    if request.config.getoption("--warm") == "off":
        pytest.skip("requires a server: a shim that was started cold is one process, which never rests")


@pytest.fixture
def running_shim(make_shim: Make, make_bundle: Any) -> Shim:
    shim = make_shim(make_bundle(["sleep", "1000"]))
    shim.create()
    shim.start()
    return shim


def _end(shim: Shim) -> None:
    shim.kill()
    assert shim.wait() == 137
    shim.delete()


def _private(pid: int) -> int:
    """Memory that nobody shares with it, in KiB."""
    lines = Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines()
    return sum(int(line.split()[1]) for line in lines if line.startswith("Private_"))


# -- at rest -----------------------------------------------------------------------------------------------------------


def test_at_rest_only_a_small_keeper_is_left(running_shim: Shim) -> None:
    shim = running_shim
    serving = shim.serving()
    awake = _private(serving)

    shim.rest()

    assert not running(serving)
    assert _private(shim.pid) < awake / 1.5
    assert len(os.listdir(f"/proc/{shim.pid}/task")) == 1
    _end(shim)


def test_a_request_wakes_it_on_the_same_connection_and_on_a_new_one(running_shim: Shim) -> None:
    shim = running_shim
    address = shim.started.stdout.decode().removeprefix("unix://")
    for _ in range(3):
        shim.rest()
        assert shim.state().status == Status.RUNNING
    shim.rest()

    with Client.connect(address) as other:
        answer = other.call(messages.Task, "Connect", messages.ConnectRequest(id=shim.id), timeout=10)

    assert (answer.shim_pid, answer.task_pid) == (shim.pid, shim.state().pid)
    _end(shim)


def test_an_exit_at_rest_is_told_to_all_who_wait_and_as_an_event(make_shim: Make, make_bundle: Any) -> None:
    shim = make_shim(make_bundle(["sh", "-c", "read line; exit 7"]))
    stdin = shim.fifo("stdin")
    shim.create(stdin=stdin)
    shim.start()
    address = shim.started.stdout.decode().removeprefix("unix://")
    others = [Client.connect(address) for _ in range(2)]
    wait = messages.WaitRequest(id=shim.id)
    waits = [client.begin(messages.Task, "Wait", wait) for client in (shim.client, *others, shim.client)]
    shim.rest()

    Path(stdin).write_bytes(b"go\n")

    assert [each.result().exit_status for each in waits] == [7] * 4
    eventually(lambda: "exit" in shim.sink.topics())
    (told,) = [events.TaskExit.decode(event.value) for topic, event in shim.sink.events if topic == "exit"]
    assert (told.exit_status, told.id) == (7, shim.id)
    shim.delete()
    for client in others:
        client.close()


def test_an_exit_while_it_goes_to_rest_or_wakes_is_not_lost(make_shim: Make, make_bundle: Any) -> None:
    """At moments spread over all of it: quiet for a second, looked at each half."""
    shims = [make_shim(make_bundle(["sleep", f"{0.9 + number * 0.06:.2f}"])) for number in range(12)]
    for shim in shims:
        shim.create()
        shim.start()

    for shim in shims:
        assert shim.wait() == 0
        shim.delete()
        eventually(lambda shim=shim: shim.sink.topics() == ["create", "start", "exit", "delete"])


def test_stdin_that_a_client_closes_at_rest_ends(make_shim: Make, make_bundle: Any) -> None:
    shim = make_shim(make_bundle(["cat"]))
    stdin, stdout = shim.fifo("stdin"), shim.fifo("stdout")
    reader = os.open(stdout, os.O_RDONLY | os.O_NONBLOCK)
    shim.create(stdin=stdin, stdout=stdout)
    writer = os.open(stdin, os.O_WRONLY)
    shim.start()
    shim.rest()

    os.write(writer, b"words")
    os.close(writer)

    assert shim.wait() == 0
    assert os.read(reader, 100) == b"words"
    os.close(reader)
    shim.delete()


def test_a_client_may_come_back_to_streams_that_were_held_at_rest(make_shim: Make, make_bundle: Any) -> None:
    shim = make_shim(make_bundle(["sh", "-c", "sleep 2.5; echo late; exit 3"]))
    stdout = shim.fifo("stdout")
    os.close(os.open(stdout, os.O_RDONLY | os.O_NONBLOCK))
    shim.create(stdout=stdout)
    shim.start()
    shim.rest()
    reader = os.open(stdout, os.O_RDONLY)

    assert os.read(reader, 100) == b"late\n"
    assert shim.wait() == 3
    os.close(reader)
    shim.delete()


def test_running_out_of_memory_at_rest_is_told(make_shim: Make, make_bundle: Any) -> None:
    def limited(spec: dict[str, Any]) -> None:
        spec["linux"]["resources"]["memory"] = {"limit": 16 * 1024 * 1024}

    shim = make_shim(make_bundle(["sh", "-c", 'read go; x=$(yes | head -c 64000000); echo "${#x}"'], limited))
    stdin = shim.fifo("stdin")
    shim.create(stdin=stdin)
    shim.start()
    shim.rest()

    Path(stdin).write_bytes(b"go\n")

    eventually(lambda: {"oom", "exit"} <= set(shim.sink.topics()))
    assert shim.wait() == 137
    shim.delete()


def test_after_rest_everything_is_done_as_before(running_shim: Shim) -> None:
    shim = running_shim
    shim.rest()
    shim.exec("one", "sh", "-c", "sleep 0.5; exit 5")
    assert parent_of(shim.start("one"))[0] == shim.pid
    assert shim.wait("one") == 5
    shim.delete("one")
    shim.call("Pause", messages.PauseRequest(id=shim.id))
    shim.rest()
    assert shim.state().status == Status.PAUSED
    shim.call("Resume", messages.ResumeRequest(id=shim.id))
    with pytest.raises(RpcError, match="exists already"):
        shim.create()

    _end(shim)

    shim.call("Shutdown", messages.ShutdownRequest(id=shim.id))
    eventually(lambda: not shim.alive())


def test_events_that_containerd_has_not_taken_keep_it_awake(make_shim: Make, make_bundle: Any) -> None:
    shim = make_shim(make_bundle(["sleep", "1000"]))
    shim.sink.close()
    os.unlink(shim.sink.path)
    shim.create()
    shim.start()
    serving = shim.serving()
    time.sleep(2.5)

    assert relatives(shim.pid) == [serving]
    _end(shim)


def test_an_exec_that_nobody_has_deleted_keeps_it_awake(running_shim: Shim) -> None:
    shim = running_shim
    shim.exec("one", "sleep", "1000")
    shim.start("one")
    serving = shim.serving()
    time.sleep(2.5)

    assert relatives(shim.pid) == [serving]
    shim.kill(exec_id="one")
    assert shim.wait("one") == 137
    shim.delete("one")
    shim.rest()
    _end(shim)


def test_requests_at_the_moment_of_rest_are_answered(running_shim: Shim) -> None:
    """Many clients that come and go about when it would rest."""
    shim = running_shim
    address = shim.started.stdout.decode().removeprefix("unix://")
    failures: list[BaseException] = []

    def ask(first: float) -> None:
        try:
            time.sleep(first)
            for number in range(4):
                with Client.connect(address) as client:
                    client.call(messages.Task, "State", messages.StateRequest(id=shim.id), timeout=10)
                time.sleep(1.0 + number * 0.13)
        except BaseException as error:  # noqa: BLE001 (told by the test)
            failures.append(error)

    threads = [threading.Thread(target=ask, args=(0.9 + number * 0.02,)) for number in range(5)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()

    assert failures == []
    _end(shim)


# -- ends --------------------------------------------------------------------------------------------------------------


def test_what_is_started_is_the_keepers_child(running_shim: Shim) -> None:
    assert parent_of(running_shim.state().pid)[0] == running_shim.pid
    _end(running_shim)


@pytest.mark.parametrize("moment", ["before", "created", "running", "rested"])
@pytest.mark.parametrize("who", ["keeper", "serving"])
def test_one_does_not_outlive_the_other(make_shim: Make, make_bundle: Any, who: str, moment: str) -> None:
    shim = make_shim(make_bundle(["sleep", "1000"]))
    if moment != "before":
        shim.create()
    if moment in ("running", "rested"):
        shim.start()
    if moment == "rested":
        shim.rest()  # and woken by what follows: another process serves than at first
    serving = shim.serving()

    os.kill(shim.pid if who == "keeper" else serving, signal.SIGKILL)

    eventually(lambda: not running(serving) and not shim.alive(), 5)
    deleted = shim.command("delete", "-bundle", str(shim.bundle))
    assert deleted.returncode == 0
    assert not os.path.exists(f"/run/pysandbox-containerd/{shim.namespace}/{shim.id}")


def test_a_keeper_that_is_killed_at_rest_is_cleaned_up_after(running_shim: Shim) -> None:
    shim = running_shim
    init = shim.state().pid
    shim.rest()

    os.kill(shim.pid, signal.SIGKILL)

    assert shim.command("delete", "-bundle", str(shim.bundle)).returncode == 0
    eventually(lambda: not running(init))


def test_a_container_that_cannot_be_made_can_be_made_afterwards(make_shim: Make, make_bundle: Any) -> None:
    bundle = make_bundle(["sh", "-c", "exit 7"])
    shim = make_shim(bundle)
    good = (bundle / "config.json").read_text()
    for bad in ("{", '{"ociVersion": "1.0.0", "process": {"args": []}}', good.replace('"/"', '"nowhere"')):
        (bundle / "config.json").write_text(bad)
        with pytest.raises(RpcError, match="config.json|process|root"):
            shim.call("Create", messages.CreateTaskRequest(id=shim.id, bundle=str(shim.bundle)))
    (bundle / "config.json").write_text(good)

    shim.create()
    shim.start()

    assert shim.wait() == 7
    shim.delete()


def test_what_it_has_to_warn_of_is_in_containerds_log(make_shim: Make, make_bundle: Any) -> None:
    def seccomp(spec: dict[str, Any]) -> None:
        rule = {"names": ["nosuchcall"], "action": "SCMP_ACT_ERRNO"}
        spec["linux"]["seccomp"] = {"defaultAction": "SCMP_ACT_ALLOW", "syscalls": [rule]}

    bundle = make_bundle(["true"], seccomp)
    shim = make_shim(bundle)
    with open(os.open(bundle / "log", os.O_RDONLY | os.O_NONBLOCK), "rb", buffering=0) as log:
        shim.create()
        text = log.read()

    assert text is not None
    assert b"nosuchcall" in text
    shim.delete()
