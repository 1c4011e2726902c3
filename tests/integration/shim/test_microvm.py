"""The shim with the microvm backend: what clients see is what they see of any container, and the machine is gone after."""

from __future__ import annotations

import contextlib
import os
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from daemon import image
from daemon.process import running
from integration.shim.conftest import Shim, eventually
from integration.shim.test_containerd import BACKGROUND
from integration.shim.test_task import read_all

from pysandbox.shim.messages import events
from pysandbox.shim.messages import task as messages
from pysandbox.shim.messages.process import Status
from pysandbox.shim.messages.runtimeoptions import Options
from pysandbox.ttrpc.errors import Code, RpcError
from pysandbox.ttrpc.messages.wellknown import Any as AnyMessage

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from daemon.containerd import Containerd
    from daemon.process import Completed
    from daemon.release import Release

#: Seconds for a machine to boot, emulated, on a busy host.
BOOT = 120.0


class Machine(Shim):
    """A shim whose containers are microVMs."""

    settings = ""

    def create(self, **streams: Any) -> int:
        value = Options(config_path=self.settings).encode()
        self._name_cgroup()
        request = messages.CreateTaskRequest(
            id=self.id, bundle=str(self.bundle), options=AnyMessage(type_url=Options.NAME, value=value), **streams
        )
        return int(self.call("Create", request, timeout=BOOT).pid)

    def process_count(self) -> int:
        """Count the host's processes of the machine: the sandbox, QEMU, file servers."""
        root = Path("/sys/fs/cgroup/pids" if Path("/sys/fs/cgroup/pids").is_dir() else "/sys/fs/cgroup")
        count = 0
        for directory, _, _ in os.walk(root / f"{self.namespace}-{self.id}"):
            with contextlib.suppress(OSError):  # it is being removed
                count += len(Path(directory, "cgroup.procs").read_text().split())
        return count


@pytest.fixture
def make_machine(microvm_program: Path, settings_file: Path, tmp_path: Path) -> Iterator[Callable[[Path], Machine]]:
    made: list[Machine] = []

    def make(bundle: Path) -> Machine:
        directory = tmp_path / f"machine{len(made)}"
        directory.mkdir()
        made.append(Machine(microvm_program, directory, bundle))
        made[-1].settings = str(settings_file)
        return made[-1]

    yield make
    for machine in made:
        machine.close()


def test_a_life_in_a_machine(make_machine: Callable[[Path], Machine], make_bundle: Any) -> None:
    shim = make_machine(make_bundle(["sh", "-c", "uname -r; cat; echo err >&2; exit 7"]))
    stdin, out, err = shim.fifo("in"), shim.fifo("out"), shim.fifo("err")
    pid = shim.create(stdin=stdin, stdout=out, stderr=err)
    readers = [read_all(out), read_all(err)]
    assert running(pid)
    assert shim.state().status == Status.CREATED

    shim.start()
    with open(stdin, "wb") as client:
        client.write(b"typed\n" * 20_000)
    assert shim.wait() == 7

    for thread, _ in readers:
        thread.join(20)
    output = readers[0][1][0].split(b"\n", 1)
    assert output[0].decode() != os.uname().release
    assert output[1] == b"typed\n" * 20_000
    assert readers[1][1] == [b"err\n"]
    assert shim.delete().exit_status == 7
    eventually(lambda: not running(pid))
    eventually(lambda: shim.process_count() == 0)
    eventually(lambda: shim.sink.topics() == ["create", "start", "exit", "delete"])


def test_processes_in_a_machine(make_machine: Callable[[Path], Machine], make_bundle: Any) -> None:
    """One machine for all of it: booting takes the time."""
    shim = make_machine(make_bundle(["sh", "-c", "trap 'exit 3' TERM; while :; do sleep 0.1; done"]))
    init = shim.create()
    shim.start()

    for number in (0, 1, 255):
        shim.exec(f"code{number}", "sh", "-c", f"exit {number}")
        shim.start(f"code{number}")
        assert shim.wait(f"code{number}") == number
        shim.delete(f"code{number}")

    out = shim.fifo("out")
    thread, pieces = read_all(out)
    shim.exec("out", "sh", "-c", "yes | head -c 1000000; exit 4", stdout=out)
    shim.start("out")
    assert shim.wait("out") == 4
    thread.join(20)
    assert pieces == [b"y\n" * 500_000]

    stdin, out = shim.fifo("in"), shim.fifo("out")
    thread, pieces = read_all(out)
    shim.exec("tty", "sh", "-c", "tty; stty size; cat", stdin=stdin, stdout=out, terminal=True)
    shim.start("tty")
    shim.call("ResizePty", messages.ResizePtyRequest(id=shim.id, exec_id="tty", width=100, height=40))
    with open(stdin, "wb") as client:
        client.write(b"typed\n\x04")
    assert shim.wait("tty") == 0
    shim.delete("tty")
    thread.join(20)
    assert b"/dev/" in pieces[0]
    assert b"typed" in pieces[0]

    for signal, code in ((15, 143), (9, 137)):
        shim.exec(f"signal{signal}", "sleep", "1000")
        shim.start(f"signal{signal}")
        time.sleep(0.3)
        shim.kill(signal, f"signal{signal}")
        assert shim.wait(f"signal{signal}") == code
    shim.exec("ps", "ps", stdout=(out := shim.fifo("ps")))
    thread, pieces = read_all(out)
    shim.start("ps")
    shim.wait("ps")
    thread.join(20)
    assert b"sleep 1000" not in pieces[0]

    # The host's, not the guest's: clients look them up.
    assert [each.pid for each in shim.call("Pids", messages.PidsRequest(id=shim.id)).processes] == [init]
    stats = shim.call("Stats", messages.StatsRequest(id=shim.id)).stats
    assert stats.type_url.startswith("io.containerd.cgroups.v")
    assert len(stats.value) > 20

    shim.call("Pause", messages.PauseRequest(id=shim.id))
    assert shim.state().status == Status.PAUSED
    shim.exec("paused", "true")
    with pytest.raises(RpcError, match="paused"):
        shim.start("paused")
    shim.call("Resume", messages.ResumeRequest(id=shim.id))
    assert shim.state().status == Status.RUNNING

    with pytest.raises(RpcError) as raised:
        shim.delete()
    assert raised.value.code == Code.FAILED_PRECONDITION
    shim.kill(15)
    assert shim.wait() == 3
    shim.delete()
    exits = [events.TaskExit.decode(event.value).id for topic, event in shim.sink.events if topic == "exit"]
    eventually(lambda: shim.sink.topics()[-1] == "delete")
    assert exits[-1] == shim.id
    eventually(lambda: shim.process_count() == 0)


def test_a_killed_shims_machine_ends(make_machine: Callable[[Path], Machine], make_bundle: Any) -> None:
    shim = make_machine(make_bundle(["sleep", "1000"]))
    pid = shim.create()
    shim.start()
    assert shim.process_count() >= 2
    os.kill(shim.pid, 9)
    eventually(lambda: not shim.alive())

    done = shim.command("delete", "-bundle", str(shim.bundle))

    assert done.returncode == 0, done.stderr
    assert messages.DeleteResponse.decode(done.stdout).exit_status == 137
    assert not running(pid)
    assert shim.process_count() == 0


def test_a_killed_machine_is_told_of(make_machine: Callable[[Path], Machine], make_bundle: Any) -> None:
    shim = make_machine(make_bundle(["sleep", "1000"]))
    pid = shim.create()
    shim.start()

    os.kill(pid, 9)

    assert shim.wait() == 137
    shim.delete()
    eventually(lambda: shim.process_count() == 0)


# -- containerd --------------------------------------------------------------------------------------------------------


@pytest.fixture
def machines(containerd: Containerd, release: Release, settings_file: Path, microvm_program: Path) -> Any:
    """`ctr run` with the second name, on the machine's own containerd."""
    if Path("/usr/bin") != release.directory:
        pytest.skip("machines are tried with the installed containerd only")

    def run(name: str, *command: str, options: tuple[str, ...] = (), **more: Any) -> Completed:
        containerd.containers.append(name)
        words = ["--runtime", "io.containerd.pysandbox-microvm.v2", "--runtime-config-path", str(settings_file)]
        return containerd("run", *words, *options, image.NAME, name, *command, timeout=BOOT, **more)

    return run


def test_ctr_runs_a_machine(machines: Any) -> None:
    done = machines("web", "sh", "-c", "uname -r; cat; exit 7", options=("--rm",), stdin="typed\n")

    assert done.returncode == 7, done.stderr
    assert done.stdout.split()[0] != os.uname().release
    assert done.stdout.split()[1] == "typed"


def test_a_machine_survives_containerd(machines: Any, own_containerd: Containerd, settings_file: Path) -> None:
    containerd = own_containerd
    containerd.containers.append("web")
    words = ["--runtime", "io.containerd.pysandbox-microvm.v2", "--runtime-config-path", str(settings_file)]
    containerd.ok("run", *words, *BACKGROUND, image.NAME, "web", "sleep", "1000")
    before = containerd.task("web")
    assert containerd.exec("web", "sh", "-c", "exit 5").returncode == 5
    containerd.kill()
    containerd.boot()

    assert containerd.task("web") == before
    assert containerd.exec("web", "sh", "-c", "exit 6").returncode == 6
    assert "cpu" in containerd.ok("task", "metrics", "web")
    containerd.ok("task", "kill", "--signal", "KILL", "web")
    eventually(lambda: containerd.task("web")[1] == "STOPPED", 20)
