"""What stands for a sandbox process that is a fork of the warm start's server: a launcher, in the same place as it.

Where nothing else is said, this is about commands that a server serves (`--warm on`): cold, the container's pid is the
sandbox process itself.
"""

from __future__ import annotations

import os
import signal
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from runtime import MakeBundle, Runtime, cgroup_of, eventually
from server import Servers

#: Of /proc/PID/status: what a process may do, and as whom.
POWERS = ("Uid", "Gid", "Groups", "NoNewPrivs", "Seccomp", "CapInh", "CapPrm", "CapEff", "CapBnd", "CapAmb", "Umask")
NAMESPACES = ("cgroup", "ipc", "mnt", "net", "pid", "time", "user", "uts")
LIMIT = 10.0


@pytest.fixture
def own_server(servers: Servers | None, launcher: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Servers]:
    """A server of the test's own."""
    if servers is None:
        pytest.skip("--warm off: no server is there to fork a sandbox process")
    own = Servers(tmp_path_factory.mktemp("server"))
    own.directory.chmod(0o700)
    subprocess.run([launcher, "list"], env=environment(own), check=True, stdout=subprocess.DEVNULL)
    eventually(own.status, "it answers")
    yield own
    own.stop()


@pytest.fixture
def microvm(own_server: Servers, launcher: Path, settings_file: Path, root_dir: Path) -> Iterator[Runtime]:
    """The runtime under test, with machines, served by that server."""
    variables = [f"{name}={value}" for name, value in environment(own_server).items()]
    command = ["env", *variables, str(launcher), "--config", str(settings_file), "--backend", "microvm"]
    runtime = Runtime(command, root_dir)
    yield runtime
    runtime.remove_all()
    for line in runtime.log:
        print(line)


def environment(server: Servers) -> dict[str, str]:
    return {"PYSANDBOX_WARM": str(server.directory)}


def pids(runtime: Runtime, container: str) -> tuple[int, int]:
    """Return the pids of the launcher and of the sandbox process."""
    launcher = int(runtime.state(container)["pid"])
    return launcher, cgroup_of(launcher)["pysandbox-sandb"]


def status(pid: int) -> dict[str, str]:
    pairs = (line.split(":", 1) for line in Path(f"/proc/{pid}/status").read_text().splitlines())
    return {name: value.strip() for name, value in pairs}


def limits(pid: int) -> set[str]:
    """Return a process's limits, but for that of descriptors, which the sandbox process raises as far as it may."""
    return {line for line in Path(f"/proc/{pid}/limits").read_text().splitlines() if "open files" not in line}


def test_the_sandbox_process_has_its_callers_powers_and_place(
    own_server: Servers, microvm: Runtime, make_bundle: MakeBundle
) -> None:
    container = microvm.new_id()
    command = microvm.argv("run", "--detach", "--bundle", make_bundle(["sleep", "100"]), container)
    altered = ["setpriv", "--groups=7,9", "prlimit", "--stack=4194304:4194304", "choom", "-n", "77", "--"]
    subprocess.run([*altered, "nice", "-n", "3", "ionice", "-c", "3", *command], check=True, umask=0o027)

    launcher, sandbox = pids(microvm, container)
    there, here = status(sandbox), status(launcher)

    assert [server["pid"] for server in own_server.status()] == [int(there["PPid"])]
    assert {name: there[name] for name in POWERS} == {name: here[name] for name in POWERS}
    assert here["Groups"] == "7 9"
    assert here["Umask"] == "0027"
    spaces = {pid: [os.readlink(f"/proc/{pid}/ns/{kind}") for kind in NAMESPACES] for pid in (launcher, sandbox)}
    assert spaces[sandbox] == spaces[launcher]
    assert os.readlink(f"/proc/{sandbox}/ns/net") != os.readlink("/proc/self/ns/net")
    assert limits(sandbox) == limits(launcher)
    assert any("4194304" in line for line in limits(launcher))
    assert Path(f"/proc/{sandbox}/oom_score_adj").read_text() == "77\n"
    assert [os.getpriority(os.PRIO_PROCESS, pid) for pid in (launcher, sandbox)] == [3, 3]
    said = subprocess.run(["ionice", "-p", str(sandbox)], capture_output=True, text=True, check=True)
    assert said.stdout.startswith("idle")
    assert os.readlink(f"/proc/{sandbox}/cwd") == os.readlink(f"/proc/{launcher}/cwd")
    assert (os.getsid(launcher), os.getsid(sandbox)) == (launcher, sandbox)


def test_it_holds_nothing_of_the_servers(own_server: Servers, microvm: Runtime, bundle: Path) -> None:
    _, sandbox = pids(microvm, microvm.run_detached(bundle))

    held = {os.readlink(f"/proc/{sandbox}/fd/{number}") for number in os.listdir(f"/proc/{sandbox}/fd")}

    assert not [path for path in held if path.startswith(str(own_server.directory)) or "inotify" in path]
    eventually(lambda: sandbox not in {pid for each in own_server.status() for pid in each["spares"]}, "it is no spare")


def test_a_sandbox_process_that_is_killed_ends_its_container(
    own_server: Servers, microvm: Runtime, bundle: Path
) -> None:
    container = microvm.new_id()
    running = subprocess.Popen(microvm.argv("run", "--bundle", bundle, container), stderr=subprocess.DEVNULL)
    eventually(lambda: microvm("state", container).stdout.find('"running"') > 0, "it runs")
    launcher, sandbox = pids(microvm, container)
    beside = cgroup_of(launcher)

    os.kill(sandbox, signal.SIGKILL)

    assert running.wait(LIMIT) == 137
    assert sorted(beside) == ["pysandbox-sandb", "qemu-system-x86", "virtiofsd"]
    eventually(lambda: not any(os.path.exists(f"/proc/{pid}/exe") for pid in beside.values()), "all are gone")


def test_a_machine_outlives_the_server(own_server: Servers, microvm: Runtime, bundle: Path) -> None:
    container = microvm.run_detached(bundle)
    launcher, sandbox = pids(microvm, container)
    [server] = [each["pid"] for each in own_server.status()]

    os.kill(server, signal.SIGKILL)
    eventually(lambda: not os.path.exists(f"/proc/{server}/exe"), "the server is gone")

    assert microvm.ok("exec", container, "echo", "there") == "there\n"
    microvm.ok("kill", container, "KILL")
    eventually(lambda: microvm.state(container)["status"] == "stopped", "it has ended")
    microvm.ok("delete", container)
    assert not [pid for pid in (sandbox, launcher) if os.path.exists(f"/proc/{pid}/exe")]


def test_where_nobody_forks_one_it_is_an_interpreter(
    own_server: Servers, microvm: Runtime, make_bundle: MakeBundle
) -> None:
    for socket in own_server.directory.glob("*.shim"):
        socket.unlink()

    served = sum(each["served"] for each in own_server.status())
    done = microvm("run", "--bundle", make_bundle(["sh", "-c", "exit 3"]), microvm.new_id())

    assert done.returncode == 3, done.stderr
    assert sum(each["served"] for each in own_server.status()) == served + 1  # `run` alone


def test_a_server_that_does_not_answer_costs_a_second(
    own_server: Servers, microvm: Runtime, make_bundle: MakeBundle
) -> None:
    """Its spares still serve commands; who would fork a sandbox process stands still."""
    [server] = [each["pid"] for each in own_server.status()]
    began = time.monotonic()
    os.kill(server, signal.SIGSTOP)
    try:
        done = microvm("run", "--bundle", make_bundle(["sh", "-c", "exit 3"]), microvm.new_id())
    finally:
        os.kill(server, signal.SIGCONT)

    assert done.returncode == 3, done.stderr
    assert time.monotonic() - began > 1
