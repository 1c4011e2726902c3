"""A life through an installed runtime: exit codes, streams, terminals, parentage, exec, and what every command says."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
from pathlib import Path

import pytest
from daemon.terminal import Terminal
from precondition import requires
from runtime import MakeBundle, Runtime, eventually

SLEEP = ["sleep", "1000"]


@pytest.mark.parametrize(
    ("script", "code"), [("exit 0", 0), ("exit 7", 7), ("exit 255", 255), ("sleep 9 & kill -9 $!; wait $!", 137)]
)
def test_run_exits_with_the_programs_own_code(
    pysandbox: Runtime, make_bundle: MakeBundle, script: str, code: int
) -> None:
    assert pysandbox("run", "--no-subreaper", make_bundle(["sh", "-c", script])).returncode == code


def test_streams_are_the_callers(pysandbox: Runtime, make_bundle: MakeBundle) -> None:
    done = pysandbox("run", make_bundle(["sh", "-c", "cat; echo err >&2"]), input="in\n")

    assert (done.returncode, done.stdout, done.stderr) == (0, "in\n", "err\n")


def test_streams_are_handed_on_and_not_pumped(oci: Runtime, make_bundle: MakeBundle) -> None:
    """The program holds the caller's own pipe: nobody is between them."""
    reader, writer = os.pipe()
    container_id = oci.new_id()
    subprocess.run(
        oci.argv("create", "--bundle", make_bundle(SLEEP), container_id),
        stdin=subprocess.DEVNULL, stdout=writer, stderr=writer, check=True, timeout=60,
    )  # fmt: skip
    pid = oci.state(container_id)["pid"]

    assert os.readlink(f"/proc/{pid}/fd/1") == os.readlink(f"/proc/self/fd/{writer}")
    os.close(reader)
    os.close(writer)


def test_nothing_of_ours_is_open_in_the_container(pysandbox: Runtime, make_bundle: MakeBundle) -> None:
    look = ["ls", "-l", "/proc/self/fd"]
    container_id = pysandbox.run_detached(make_bundle(SLEEP))

    for said in (pysandbox.ok("run", make_bundle(look)), pysandbox.ok("exec", container_id, *look)):
        links = [line.split()[-3:] for line in said.splitlines() if " -> " in line]
        numbers = [number for number, _, target in links if not target.endswith("/fd")]  # that is the listing's own
        assert numbers == ["0", "1", "2"], said


def test_create_leaves_init_to_the_nearest_subreaper_with_its_exit_code(
    pysandbox: Runtime, make_bundle: MakeBundle, tmp_path: Path
) -> None:
    """As containerd's shim and conmon expect it: this process adopts orphans (conftest.py)."""
    pid_file = tmp_path / "pid"
    container_id = pysandbox.create(make_bundle(["sh", "-c", "exit 9"]), None, "--pid-file", pid_file)
    pid = int(pid_file.read_text())

    assert pysandbox.state(container_id)["pid"] == pid
    status = Path(f"/proc/{pid}/status").read_text()
    assert f"PPid:\t{os.getpid()}\n" in status

    pysandbox.ok("start", container_id)
    assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 9


def test_exec_has_its_own_exit_code_and_streams(pysandbox: Runtime, make_bundle: MakeBundle) -> None:
    container_id = pysandbox.run_detached(make_bundle(SLEEP))

    done = pysandbox("exec", container_id, "sh", "-c", "cat; echo err >&2; exit 5", input="in\n")

    assert (done.returncode, done.stdout, done.stderr) == (5, "in\n", "err\n")
    assert pysandbox.state(container_id)["status"] == "running"


def test_a_signal_for_run_reaches_the_program(pysandbox: Runtime, make_bundle: MakeBundle) -> None:
    bundle = make_bundle(["sh", "-c", "trap 'exit 42' TERM; echo ready; while :; do sleep 0.1; done"])
    with subprocess.Popen(pysandbox.argv("run", bundle), stdin=subprocess.DEVNULL, stdout=subprocess.PIPE) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == b"ready\n"
        process.send_signal(signal.SIGTERM)
        assert process.wait(30) == 42


def test_pause_ps_and_events(pysandbox: Runtime, make_bundle: MakeBundle, installed: str) -> None:
    container_id = pysandbox.run_detached(make_bundle(SLEEP))
    pid = pysandbox.state(container_id)["pid"]

    pysandbox.ok("pause", container_id)
    assert pysandbox.state(container_id)["status"] == "paused"
    assert pysandbox("exec", container_id, "true").returncode == 255
    pysandbox.ok("resume", container_id)
    assert pysandbox.state(container_id)["status"] == "running"

    assert json.loads(pysandbox.ok("ps", "--format", "json", container_id)) == [pid]
    event = json.loads(pysandbox.ok("events", "--stats", container_id))
    assert (event["type"], event["id"]) == ("stats", container_id)
    assert event["data"]["pids"]["current"] >= 1


def test_update_changes_what_the_kernel_enforces(oci: Runtime, make_bundle: MakeBundle) -> None:
    requires("cgroup v1 pids")
    container_id = oci.run_detached(make_bundle(SLEEP))
    pid = oci.state(container_id)["pid"]
    own = next(line for line in Path(f"/proc/{pid}/cgroup").read_text().splitlines() if ":pids:" in line)

    oci.ok("update", "--pids-limit", "17", container_id)

    assert Path(f"/sys/fs/cgroup/pids{own.rpartition(':')[2]}/pids.max").read_text() == "17\n"


def test_the_kernel_tells_when_memory_ran_out(oci: Runtime, make_bundle: MakeBundle) -> None:
    requires("cgroup v1 memory")
    limit = 16 * 1024 * 1024
    bundle = make_bundle(
        ["sh", "-c", "read x; exec tail /dev/zero"],
        lambda spec: spec["linux"].setdefault("resources", {}).update(memory={"limit": limit, "swap": limit}),
    )
    container_id = oci.new_id()
    with subprocess.Popen(
        oci.argv("run", "--bundle", bundle, container_id), stdin=subprocess.PIPE, stdout=subprocess.PIPE
    ) as process:
        eventually(lambda: oci("state", container_id).returncode == 0, "it runs")
        oci.wait_status(container_id, "running")
        argv = oci.argv("events", "--interval", "300ms", container_id)
        with subprocess.Popen(argv, stdout=subprocess.PIPE, text=True) as events:
            assert events.stdout is not None
            assert '"stats"' in events.stdout.readline()  # it has listened for 300 ms
            assert process.stdin is not None
            process.stdin.write(b"\n")
            process.stdin.close()
            said = [json.loads(line)["type"] for line in events.stdout]
        assert process.wait(30) == 137
    assert "oom" in said


# -- terminals -------------------------------------------------------------------------------------------------------


def receive(listener: socket.socket) -> int:
    """Return the master that comes over a console socket."""
    connection, _ = listener.accept()
    with connection:
        return socket.recv_fds(connection, 100, 1)[1][0]


def test_a_terminal_comes_over_the_console_socket(pysandbox: Runtime, make_bundle: MakeBundle, tmp_path: Path) -> None:
    bundle = make_bundle(["sh", "-c", "test -t 0 && test -t 1 && echo terminal; read x; echo got $x"], terminal=True)
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(str(tmp_path / "console"))
        listener.listen(1)
        container_id = pysandbox.create(bundle, None, "--console-socket", tmp_path / "console")
        with open(receive(listener), "r+b", buffering=0) as master:
            pysandbox.ok("start", container_id)
            assert master.readline() == b"terminal\r\n"
            master.write(b"text\n")
            assert [master.readline(), master.readline()] == [b"text\r\n", b"got text\r\n"]
    pysandbox.wait_status(container_id, "stopped")


def test_a_terminal_where_the_state_directory_has_a_long_path(
    pysandbox: Runtime, make_bundle: MakeBundle, tmp_path: Path
) -> None:
    """A socket's path has 107 bytes at most, and docker's directory is about as long."""
    pysandbox.root = tmp_path / "root" / ("x" * 100)
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(str(tmp_path / "console"))
        listener.listen(1)
        bundle = make_bundle(["sh", "-c", "test -t 0 && echo terminal"], terminal=True)
        container_id = pysandbox.create(bundle, None, "--console-socket", tmp_path / "console")
        with open(receive(listener), "rb", buffering=0) as master:
            pysandbox.ok("start", container_id)
            assert master.readline() == b"terminal\r\n"
    pysandbox.wait_status(container_id, "stopped")
    pysandbox.ok("delete", container_id)


def test_run_on_the_callers_own_terminal(pysandbox: Runtime, make_bundle: MakeBundle) -> None:
    script = "test -t 0 && stty size; read x; echo got $x; read y; exit 3"
    bundle = make_bundle(["sh", "-c", script], terminal=True)

    with Terminal(pysandbox.argv("run", bundle), os.environ, rows=33, columns=77) as terminal:
        terminal.expect("33 77")
        terminal.type("text\r")
        terminal.expect("got text")
        terminal.type("\r")
        assert terminal.process.wait(30) == 3


def test_exec_on_a_terminal(pysandbox: Runtime, make_bundle: MakeBundle, tmp_path: Path) -> None:
    container_id = pysandbox.run_detached(make_bundle(SLEEP))
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(str(tmp_path / "console"))
        listener.listen(1)
        flags = ["--tty", "--detach", "--console-socket", tmp_path / "console", "--pid-file", tmp_path / "pid"]
        pysandbox.ok("exec", *flags, container_id, "sh", "-c", "test -t 0 && test -t 1 && echo terminal")
        with open(receive(listener), "rb", buffering=0) as master:
            assert master.readline() == b"terminal\r\n"
            # While the terminal is there: who still runs when it is closed gets a SIGHUP.
            assert os.waitpid(int((tmp_path / "pid").read_text()), 0)[1] == 0


# -- hooks -----------------------------------------------------------------------------------------------------------


def test_hooks_run_once_each_in_their_order_with_the_users_bundle(
    oci: Runtime, make_bundle: MakeBundle, tmp_path: Path
) -> None:
    def hooks(spec: dict[str, object]) -> None:
        kinds = ["prestart", "createRuntime", "createContainer", "startContainer", "poststart", "poststop"]
        spec["hooks"] = {
            kind: [{"path": "/bin/sh", "args": ["sh", "-c", f"{{ echo {kind}; cat; echo; }} >> {tmp_path}/hooks"]}]
            for kind in kinds
            if kind != "startContainer"  # its program would have to be the container's
        }

    bundle = make_bundle(["true"], hooks)

    assert oci("run", bundle).returncode == 0

    lines = [line for line in (tmp_path / "hooks").read_text().splitlines() if line]
    assert lines[::2] == ["prestart", "createRuntime", "createContainer", "poststart", "poststop"]
    states = dict(zip(lines[::2], map(json.loads, lines[1::2]), strict=True))
    assert {states[kind]["bundle"] for kind in ("prestart", "createRuntime", "poststart", "poststop")} == {str(bundle)}
    assert states["createRuntime"]["status"] == "creating"


def test_create_runtime_hooks_run_before_the_root_has_changed(
    oci: Runtime, make_bundle: MakeBundle, tmp_path: Path
) -> None:
    script = f"pid=$(sed 's/.*\"pid\": *\\([0-9]*\\).*/\\1/'); test -e /proc/$pid/root{tmp_path} && echo host > {tmp_path}/seen"
    hook = {"path": "/bin/sh", "args": ["sh", "-c", script]}
    bundle = make_bundle(["true"], lambda spec: spec.update(hooks={"createRuntime": [hook]}))

    assert oci("run", bundle).returncode == 0

    assert (tmp_path / "seen").read_text() == "host\n"


# -- what is there ---------------------------------------------------------------------------------------------------


def test_backends_lists_installed_runtimes_with_path_and_version(oci: Runtime) -> None:
    row = next(line for line in oci.ok("backends").splitlines() if line.startswith("oci:runc "))

    assert "/runc: runc version " in row
    assert row.endswith("can run")


def test_a_runtime_with_settings_is_listed_by_its_path(pysandbox: Runtime, installed: str) -> None:
    assert f"oci:{installed} " in pysandbox.ok("backends")
    assert pysandbox.ok("check").splitlines()[0] == f"oci:{installed}: can run"


def test_the_plan_is_the_runtimes_commands(oci: Runtime, make_bundle: MakeBundle) -> None:
    operations = [json.loads(line) for line in oci.ok("run", "--plan", make_bundle(["true"])).splitlines()]

    assert [operation["op"] for operation in operations] == ["write", "run", "run"]
    assert operations[1]["args"][0].endswith("/runc")
    assert "create" in operations[1]["args"]


def test_nothing_is_left_behind(pysandbox: Runtime, make_bundle: MakeBundle, leaks: object) -> None:
    container_id = pysandbox.run_detached(make_bundle(SLEEP))
    pysandbox("exec", container_id, "true")
    pysandbox.ok("delete", "--force", container_id)
    assert pysandbox("run", make_bundle(["sh", "-c", "exit 1"])).returncode == 1


def test_the_settings_root_is_where_the_runtimes_state_is_while_there_is_some(
    make: object, make_bundle: MakeBundle, tmp_path: Path
) -> None:
    requires("command runc")
    oci: Runtime = make("runc", root=str(tmp_path / "elsewhere"))  # type: ignore[operator]

    container_id = oci.run_detached(make_bundle(SLEEP))
    assert [path.name for path in (tmp_path / "elsewhere").glob("*/*")] == [container_id]
    oci.ok("delete", "--force", container_id)

    assert list((tmp_path / "elsewhere").iterdir()) == []


def test_a_runtime_that_refuses_this_host_says_so_itself(make: object, make_bundle: MakeBundle) -> None:
    requires("command crun", "file /sys/fs/cgroup/unified/cgroup.procs")
    crun: Runtime = make("crun")  # type: ignore[operator]

    done = crun("run", make_bundle(["true"]))

    assert done.returncode == 1
    assert "pysandbox run failed: crun create: cgroups in hybrid mode not supported" in done.stderr
