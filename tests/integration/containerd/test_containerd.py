"""containerd's stock runc shim with the runtime under test in runc's place: `ctr run --runc-binary`."""

from __future__ import annotations

import os
import signal
import subprocess
import time
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from daemon.process import cgroups_named, mounts_below, parent_of, running
from runtime import eventually

if TYPE_CHECKING:
    from daemon.containerd import Containerd

V2 = Path("/sys/fs/cgroup/cgroup.controllers").exists()


def _cgroup_value(containerd: Containerd, container: str, controller: str, v1: str, v2: str) -> str:
    """Read a limit of a running container from the host's side."""
    pid, _ = containerd.task(container)
    for line in Path(f"/proc/{pid}/cgroup").read_text().splitlines():
        _, controllers, path = line.split(":", 2)
        if V2 or controller in controllers.split(","):
            top = "/sys/fs/cgroup" if V2 else f"/sys/fs/cgroup/{controller}"
            return Path(f"{top}{path}/{v2 if V2 else v1}").read_text().strip()
    raise LookupError(controller)


# -- run ---------------------------------------------------------------------------------------------------------------


def test_exit_code_and_streams(containerd: Containerd) -> None:
    done = containerd.run(["sh", "-c", "echo out; echo error >&2; exit 42"])

    assert (done.returncode, done.stdout, done.stderr) == (42, "out\n", "error\n")


def test_stdin_is_piped(containerd: Containerd) -> None:
    # ctr does not pass the end of its stdin on: the program has to know when it has read enough.
    text = "line\n" * 2000

    assert containerd.run(["head", "-n", "2000"], stdin=text).stdout == text


@pytest.mark.parametrize(
    ("program", "reason"),
    [("no-such-program", "executable file not found in $PATH"), ("/etc/passwd", "permission denied")],
)
def test_a_program_that_cannot_be_started_is_told_from_the_runtime_s_log(
    containerd: Containerd, program: str, reason: str
) -> None:
    done = containerd.run([program])

    assert done.returncode == 1
    assert reason in done.stderr


def test_environment_working_directory_and_mount(containerd: Containerd, tmp_path: Path) -> None:
    (tmp_path / "given").write_text("from the host\n")
    mount = f"type=bind,src={tmp_path},dst=/data,options=rbind:ro"

    # The working directory does not exist in the image: the runtime makes it.
    answer = containerd.shell(
        'echo "$WORD"; pwd; cat /data/given', "--env", "WORD=two words", "--cwd", "/made/for/it", "--mount", mount
    )

    assert answer.splitlines() == ["two words", "/made/for/it", "from the host"]
    assert "Read-only file system" in containerd.run(["touch", "/data/no"], "--mount", mount).stderr


def test_a_terminal_of_its_own(containerd: Containerd) -> None:
    with containerd.terminal(*containerd.run_arguments("--rm", "--tty"), "sh") as terminal:
        terminal.type("tty; echo $((20 + 22))\n")
        terminal.expect("/dev/pts/0")
        terminal.expect("42")
        terminal.type("exit 5\n")

        assert terminal.wait() == 5


def test_the_container_s_init_is_a_child_of_the_shim(containerd: Containerd) -> None:
    pid, status = containerd.task(containerd.start(["sleep", "1000"]))

    assert (status, parent_of(pid)[1]) == ("RUNNING", "containerd-shim")


# -- exec --------------------------------------------------------------------------------------------------------------


def test_exec_has_its_exit_code_and_streams(containerd: Containerd) -> None:
    container = containerd.start(["sleep", "1000"], "--env", "WORD=given")

    done = containerd.exec(container, "sh", "-c", 'echo "$WORD"; pidof sleep; echo error >&2; exit 7')

    assert (done.returncode, done.stdout, done.stderr) == (7, "given\n1\n", "error\n")
    assert containerd.exec(container, "head", "-n", "1", stdin="text\n").stdout == "text\n"


def test_exec_with_a_terminal(containerd: Containerd) -> None:
    container = containerd.start(["sleep", "1000"])

    with containerd.terminal("task", "exec", "--tty", "--exec-id", "one", container, "sh") as terminal:
        terminal.type("tty; echo $((20 + 22))\n")
        terminal.expect("/dev/pts/")
        terminal.expect("42")
        terminal.type("exit 6\n")

        assert terminal.wait() == 6


def test_exec_of_a_missing_program_leaves_the_container_running(containerd: Containerd) -> None:
    container = containerd.start(["sleep", "1000"])

    done = containerd.exec(container, "no-such-program")

    assert done.returncode == 1
    assert "executable file not found in $PATH" in done.stderr
    assert containerd.task(container)[1] == "RUNNING"


# -- signals and the freezer -------------------------------------------------------------------------------------------


def test_kill_sends_the_named_signal(containerd: Containerd, tmp_path: Path) -> None:
    mount = f"type=bind,src={tmp_path},dst=/data,options=rbind:rw"
    script = "trap 'echo caught > /data/told; exit 3' USR1; touch /data/ready; while :; do sleep 0.05; done"
    container = containerd.start(["sh", "-c", script], "--mount", mount)
    eventually((tmp_path / "ready").exists, "the trap is set")

    containerd.ok("task", "kill", "--signal", "SIGUSR1", container)

    eventually(lambda: containerd.task(container)[1] == "STOPPED", "it ended")
    assert (tmp_path / "told").read_text() == "caught\n"


def test_kill_all_ends_every_process(containerd: Containerd) -> None:
    container = containerd.start(["sleep", "1000"])
    containerd.ok("task", "exec", "--detach", "--exec-id", "one", container, "sleep", "2000")
    listed = containerd.ok("task", "ps", container).splitlines()[1:]
    pids = [int(line.split()[0]) for line in listed]
    assert len(pids) == 2

    containerd.ok("task", "kill", "--all", "--signal", "SIGKILL", container)

    eventually(lambda: not any(running(pid) for pid in pids), "all have ended")


def test_killing_what_has_ended_is_told_as_not_found(containerd: Containerd) -> None:
    container = containerd.start(["true"])
    eventually(lambda: containerd.task(container)[1] == "STOPPED", "it ended")

    done = containerd("task", "kill", container)

    assert "not found" in done.stderr or "process already finished" in done.stderr


def test_pause_freezes_and_resume_thaws(containerd: Containerd, tmp_path: Path) -> None:
    mount = f"type=bind,src={tmp_path},dst=/data,options=rbind:rw"
    script = "while :; do echo x >> /data/ticks; sleep 0.02; done"
    container = containerd.start(["sh", "-c", script], "--mount", mount)
    ticks = tmp_path / "ticks"
    eventually(ticks.exists, "it runs")

    containerd.ok("task", "pause", container)
    assert containerd.task(container)[1] == "PAUSED"
    frozen = ticks.stat().st_size
    time.sleep(0.3)
    assert ticks.stat().st_size == frozen

    containerd.ok("task", "resume", container)
    assert containerd.task(container)[1] == "RUNNING"
    eventually(lambda: ticks.stat().st_size > frozen, "it runs on")


# -- limits ------------------------------------------------------------------------------------------------------------


def test_memory_and_cpu(containerd: Containerd) -> None:
    container = containerd.start(["sleep", "1000"], "--memory-limit", str(32 << 20), "--cpus", "0.5")

    assert _cgroup_value(containerd, container, "memory", "memory.limit_in_bytes", "memory.max") == str(32 << 20)
    quota = _cgroup_value(containerd, container, "cpu", "cpu.cfs_quota_us", "cpu.max")
    assert quota.split()[0] == "50000"


def test_metrics_are_read_from_the_cgroup(containerd: Containerd) -> None:
    container = containerd.start(["sleep", "1000"], "--memory-limit", str(32 << 20))

    metrics = containerd.ok("task", "metrics", container)

    assert container in metrics
    assert "memory" in metrics


def test_more_memory_than_allowed_is_an_oom_event(containerd: Containerd) -> None:
    events = subprocess.Popen(
        ["ctr", "--address", containerd.address, "--namespace", containerd.namespace, "events"],
        stdout=subprocess.PIPE, text=True,
    )  # fmt: skip
    try:
        script = "tail /dev/zero; code=$?; sleep 1; exit $code"
        assert containerd.run(["sh", "-c", script], "--memory-limit", str(16 << 20)).returncode == 137
    finally:
        events.terminate()

    assert "/tasks/oom" in events.communicate()[0]


# -- what keeps it in ---------------------------------------------------------------------------------------------------


def test_read_only_root(containerd: Containerd) -> None:
    assert "Read-only file system" in containerd.run(["touch", "/no"], "--read-only").stderr


def test_capabilities_no_new_privileges_and_seccomp(containerd: Containerd) -> None:
    fields = "awk '/^(CapEff|NoNewPrivs|Seccomp):/ {print $2}' /proc/self/status"

    capabilities, no_new_privileges, _ = containerd.shell(fields, "--cap-drop", "CAP_CHOWN").split()
    assert int(capabilities, 16) & 1 == 0
    assert no_new_privileges == "1"
    assert containerd.shell(fields, "--seccomp").split()[2] == "2"


def test_a_user_namespace_maps_ids(containerd: Containerd) -> None:
    answer = containerd.shell(
        "id -u; cat /proc/self/uid_map", "--uidmap", "0:100000:1000", "--gidmap", "0:100000:1000"
    )  # fmt: skip

    assert answer.split() == ["0", "0", "100000", "1000"]


def test_namespaces_of_another_container_are_joined(containerd: Containerd) -> None:
    first, _ = containerd.task(containerd.start(["sleep", "1000"]))
    joined = ["--with-ns", f"network:/proc/{first}/ns/net", "--with-ns", f"pid:/proc/{first}/ns/pid"]

    answer = containerd.shell("readlink /proc/self/ns/net; readlink /proc/self/ns/pid", *joined)

    assert answer.split() == [os.readlink(f"/proc/{first}/ns/net"), os.readlink(f"/proc/{first}/ns/pid")]


def test_the_host_s_network(containerd: Containerd) -> None:
    answer = containerd.shell("readlink /proc/self/ns/net", "--net-host", "--mount", "type=tmpfs,dst=/run")

    assert answer == os.readlink("/proc/self/ns/net")


# -- the end -----------------------------------------------------------------------------------------------------------


def test_nothing_is_left(containerd: Containerd) -> None:
    container = containerd.start(["sleep", "1000"])
    pid, _ = containerd.task(container)
    shim, _ = parent_of(pid)
    containerd.run(["true"])
    containerd.run(["no-such-program"])
    os.kill(pid, signal.SIGKILL)
    eventually(lambda: containerd.task(container)[1] == "STOPPED", "the shim saw its end")

    containerd.remove_containers()

    eventually(lambda: not running(shim), "the shim has ended")
    assert [point for point in mounts_below(containerd.directory) if "rootfs" in point] == []
    assert [
        str(child) for top in cgroups_named(containerd.namespace) for child in top.iterdir() if child.is_dir()
    ] == []
    assert list((containerd.directory / "runtime").glob("*/*")) == []
