"""A bundle runs in a machine as it runs in namespaces: the same tests on both backends, where both are to do the same."""

from __future__ import annotations

import fcntl
import hashlib
import json
import os
import pty
import select
import signal
import struct
import subprocess
import termios
import time
from pathlib import Path
from typing import Any

import pytest
from precondition import requires
from runtime import MakeBundle, Runtime, eventually

pytestmark = pytest.mark.usefixtures("leaks")


@pytest.fixture(autouse=True)
def _root() -> None:
    requires("root")


def sh(text: str) -> list[str]:
    return ["sh", "-c", text]


# -- ends --------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("program", "code"), [("exit 0", 0), ("exit 7", 7), ("exit 255", 255), ("kill -9 $$", 137), ("kill -TERM $$; sleep 9", 143)]
)  # fmt: skip
def test_run_exits_as_the_program_does(either: Runtime, make_bundle: MakeBundle, program: str, code: int) -> None:
    # As pid 1 of its namespace it could not be killed from within.
    bundle = make_bundle(sh(f"sh -c '{program}'; exit $?"))

    assert either("run", bundle).returncode == code


def test_a_program_that_is_not_there_is_named(either: Runtime, make_bundle: MakeBundle) -> None:
    done = either("run", make_bundle(["/no/such/program"]))

    assert done.returncode == 1
    assert 'exec: \\"/no/such/program\\": stat /no/such/program: no such file or directory' in done.stderr


def test_a_signal_reaches_init(either: Runtime, make_bundle: MakeBundle) -> None:
    container_id = either.run_detached(make_bundle(sh("trap 'exit 9' USR1; while :; do sleep 0.1; done")))
    time.sleep(0.5)

    either.ok("kill", container_id, "USR1")

    either.wait_status(container_id, "stopped")
    either.ok("delete", container_id)


def test_a_signal_for_the_sandbox_process_is_inits(microvm: Runtime, make_bundle: MakeBundle) -> None:
    bundle = make_bundle(sh("trap 'echo caught; exit 9' TERM; echo ready; while :; do sleep 0.1; done"))
    argv = microvm.argv("run", "--bundle", bundle, microvm.new_id())
    with subprocess.Popen(argv, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, text=True) as running:
        assert running.stdout is not None
        assert running.stdout.readline() == "ready\n"

        running.send_signal(signal.SIGTERM)

        assert running.stdout.read() == "caught\n"
        assert running.wait(30) == 9


# -- what the program is given -----------------------------------------------------------------------------------------


def test_environment_directory_and_user_are_the_specs(either: Runtime, make_bundle: MakeBundle) -> None:
    user = {"uid": 1000, "gid": 1000, "additionalGids": [5]}
    bundle = make_bundle(
        sh("echo $COLOUR; pwd; id -u; id -g; id -G; umask"),
        cwd="/tmp", env=["PATH=/bin:/usr/bin", "COLOUR=blue"], user={**user, "umask": 0o027},
    )  # fmt: skip

    done = either("run", bundle)

    assert done.stdout.split("\n")[:6] == ["blue", "/tmp", "1000", "1000", "1000 5", "0027"]


def test_the_hostname_is_the_specs(either: Runtime, make_bundle: MakeBundle) -> None:
    bundle = make_bundle(["hostname"], lambda spec: spec.update(hostname="inside"))

    assert either("run", bundle).stdout == "inside\n"


def test_capabilities_seccomp_and_no_new_privileges_are_on(either: Runtime, make_bundle: MakeBundle) -> None:
    def restrict(spec: dict[str, Any]) -> None:
        rule = {"names": ["mkdir", "mkdirat"], "action": "SCMP_ACT_ERRNO", "errnoRet": 1}
        architectures = ["SCMP_ARCH_X86_64"]
        spec["linux"]["seccomp"] = {
            "defaultAction": "SCMP_ACT_ALLOW",
            "architectures": architectures,
            "syscalls": [rule],
        }
        spec["process"]["capabilities"] = {name: ["CAP_KILL"] for name in ("bounding", "effective", "permitted")}

    bundle = make_bundle(
        sh("grep -E 'CapEff|CapBnd|NoNewPrivs|Seccomp:' /proc/self/status; mkdir /tmp/x; echo $?"), restrict
    )

    done = either("run", bundle)

    assert done.stdout.split() == [
        "CapEff:", "0000000000000020", "CapBnd:", "0000000000000020", "NoNewPrivs:", "1", "Seccomp:", "2", "1",
    ]  # fmt: skip


def test_masked_and_readonly_paths_are(either: Runtime, make_bundle: MakeBundle) -> None:
    def mask(spec: dict[str, Any]) -> None:
        spec["linux"] |= {"maskedPaths": ["/etc/passwd"], "readonlyPaths": ["/etc"]}

    bundle = make_bundle(sh("wc -c < /etc/passwd; touch /etc/x || echo refused"), mask)

    assert either("run", bundle).stdout == "0\nrefused\n"


def test_devices_are_those_of_the_spec(either: Runtime, make_bundle: MakeBundle) -> None:
    def deny(spec: dict[str, Any]) -> None:
        spec["linux"]["resources"] = {"devices": [{"allow": False, "access": "rwm"}]}

    program = sh("head -c 3 /dev/zero | wc -c; mknod /tmp/mem c 1 1 && head -c 1 /tmp/mem; echo $?")
    bundle = make_bundle(program, deny)

    done = either("run", bundle)

    assert done.stdout == "3\n1\n"
    assert "not permitted" in done.stderr


# -- the machine -------------------------------------------------------------------------------------------------------


def test_the_kernel_is_another_than_the_hosts(microvm: Runtime, make_bundle: MakeBundle) -> None:
    release = microvm("run", make_bundle(["uname", "-r"])).stdout.strip()

    assert release
    assert release != os.uname().release


def test_its_pids_are_its_own(either: Runtime, make_bundle: MakeBundle) -> None:
    done = either("run", make_bundle(sh("echo $$; ls -d /proc/[0-9]* | wc -l")))

    first, count = done.stdout.split()
    assert first == "1"
    assert int(count) <= 4  # sh, ls, wc


def test_processors_and_memory_are_those_that_the_spec_asks_for(microvm: Runtime, make_bundle: MakeBundle) -> None:
    def ask(spec: dict[str, Any]) -> None:
        spec["vm"] = {"hwConfig": {"vcpus": 2, "memory": 1 << 30}}

    bundle = make_bundle(sh("nproc; grep MemTotal /proc/meminfo"), ask)

    done = microvm("run", bundle)

    processors, _, kilobytes, _ = done.stdout.split()
    assert processors == "2"
    assert 900 * 1024 < int(kilobytes) < 1024 * 1024


def test_two_machines_from_one_template_have_nothing_in_common(microvm: Runtime, make_bundle: MakeBundle) -> None:
    bundle = make_bundle(sh("head -c 16 /dev/urandom | md5sum; cat /proc/sys/kernel/random/uuid"))

    one, other = microvm("run", bundle).stdout, microvm("run", bundle).stdout

    assert len(one.split()) == len(other.split()) == 3
    assert set(one.split()) & set(other.split()) == {"-"}


def test_the_clock_is_the_hosts(microvm: Runtime, make_bundle: MakeBundle) -> None:
    bundle = make_bundle(["date", "+%s"])

    before = time.time()
    done = microvm("run", bundle)

    assert before - 1 <= int(done.stdout) <= time.time() + 1


# -- stdio -------------------------------------------------------------------------------------------------------------


def test_stdin_stdout_and_stderr_are_the_callers(either: Runtime, make_bundle: MakeBundle) -> None:
    done = either("run", make_bundle(sh("cat; echo error >&2")), input="from the caller\n")

    assert (done.stdout, done.stderr) == ("from the caller\n", "error\n")


def test_64_mebibytes_through_a_slow_reader_come_whole(microvm: Runtime, make_bundle: MakeBundle) -> None:
    """The reader sleeps again and again: what the program writes is held up, and nothing of it is lost."""
    size = 64 << 20
    # awk of busybox is slow: what repeats is as good for a hash over all of it.
    program = sh(f"yes 0123456789abcdefghijklmnopqrstuvwxyz | head -c {size}")
    argv = microvm.argv("run", "--bundle", make_bundle(program), microvm.new_id())
    whole = (b"0123456789abcdefghijklmnopqrstuvwxyz\n" * (size // 37 + 1))[:size]
    got, received = hashlib.sha256(), 0

    with subprocess.Popen(argv, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE) as running:
        assert running.stdout is not None
        while data := os.read(running.stdout.fileno(), 1 << 16):
            got.update(data)
            received += len(data)
            if received % (8 << 20) < len(data):
                time.sleep(0.3)
        assert running.wait(60) == 0

    assert received == size
    assert got.hexdigest() == hashlib.sha256(whole).hexdigest()


def test_what_was_written_before_the_end_is_there_however_late_it_is_read(
    microvm: Runtime, make_bundle: MakeBundle
) -> None:
    program = sh("head -c 65536 /dev/zero; head -c 65536 /dev/zero >&2")
    argv = microvm.argv("run", "--bundle", make_bundle(program), microvm.new_id())
    with subprocess.Popen(argv, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.PIPE) as running:
        assert running.wait(30) == 0  # nobody has read a byte
        assert running.stdout is not None
        assert running.stderr is not None
        assert len(running.stdout.read()) == 65536
        assert len(running.stderr.read()) == 65536


def test_a_closed_reader_is_epipe_for_the_program(either: Runtime, make_bundle: MakeBundle) -> None:
    bundle = make_bundle(sh("trap '' PIPE; while echo line; do :; done; exit 5"))
    argv = either.argv("run", "--bundle", bundle, either.new_id())
    with subprocess.Popen(argv, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL) as running:
        assert running.stdout is not None
        running.stdout.readline()
        running.stdout.close()

        assert running.wait(30) == 5


# -- terminals ---------------------------------------------------------------------------------------------------------


def in_terminal(argv: list[str], answer: bytes, until: bytes, size: tuple[int, int] = (24, 80)) -> tuple[int, bytes]:
    """Run a program in a terminal, say something to it, and return its exit code and what it showed."""
    pid, master = pty.fork()
    if pid == 0:
        os.execv(argv[0], argv)
    fcntl.ioctl(master, termios.TIOCSWINSZ, struct.pack("HHHH", *size, 0, 0))
    shown, said = b"", False
    deadline = time.monotonic() + 60
    while time.monotonic() < deadline:
        if not select.select([master], [], [], 0.1)[0]:
            continue
        try:
            shown += os.read(master, 65536)
        except OSError:
            break
        if until in shown and not said:
            os.write(master, answer)
            said = True
    os.close(master)
    return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]), shown


def test_a_terminal_is_one(either: Runtime, make_bundle: MakeBundle) -> None:
    bundle = make_bundle(sh("tty; stty size; read line; echo got $line; exit 3"), terminal=True)
    argv = either.argv("run", "--bundle", bundle, either.new_id())

    code, shown = in_terminal(argv, b"word\n", b"\r\n24 ", size=(24, 99))

    assert code == 3
    assert b"got word" in shown
    assert b"24 99" in shown
    assert b"/dev/pts/0" in shown or b"/dev/console" in shown


def test_control_c_in_a_terminal_is_the_programs(either: Runtime, make_bundle: MakeBundle) -> None:
    bundle = make_bundle(
        sh("trap 'echo interrupted; exit 4' INT; echo ready; while :; do sleep 0.1; done"), terminal=True
    )
    argv = either.argv("run", "--bundle", bundle, either.new_id())

    code, shown = in_terminal(argv, b"\x03", b"ready")

    assert code == 4
    assert b"interrupted" in shown


@pytest.mark.parametrize("command", ["run", "exec"])
def test_a_new_size_of_the_terminal_reaches_the_program(either: Runtime, make_bundle: MakeBundle, command: str) -> None:
    watch = "trap 'stty size; exit 6' WINCH; echo ready; while :; do sleep 0.1; done"
    if command == "run":
        argv = either.argv("run", "--bundle", make_bundle(sh(watch), terminal=True), either.new_id())
    else:
        container_id = either.run_detached(make_bundle(["sleep", "100"]))
        argv = either.argv("exec", "--tty", container_id, "sh", "-c", watch)
    pid, master = pty.fork()
    if pid == 0:
        os.execv(argv[0], argv)
    shown = b""
    while b"ready" not in shown:
        shown += os.read(master, 65536)

    fcntl.ioctl(master, termios.TIOCSWINSZ, struct.pack("HHHH", 33, 44, 0, 0))

    deadline = time.monotonic() + 30
    while time.monotonic() < deadline:
        try:
            shown += os.read(master, 65536)
        except OSError:
            break
    os.close(master)
    code = os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
    if command == "exec":
        either.ok("delete", "--force", container_id)
    assert code == 6
    assert b"33 44" in shown


# -- exec --------------------------------------------------------------------------------------------------------------


@pytest.fixture
def sleeping(either: Runtime, make_bundle: MakeBundle) -> Any:
    container_id = either.run_detached(make_bundle(["sleep", "1000"]))
    yield container_id
    either.ok("delete", "--force", container_id)


def test_exec_runs_beside_init(either: Runtime, sleeping: str) -> None:
    done = either("exec", "--env", "A=b", "--cwd", "/tmp", "--user", "1000:1000", sleeping, "sh", "-c", "echo $A; pwd; id -u; cat; exit 8", input="in\n")  # fmt: skip

    assert (done.returncode, done.stdout) == (8, "b\n/tmp\n1000\nin\n")


def test_exec_of_what_is_not_there_is_named(either: Runtime, sleeping: str) -> None:
    done = either("exec", sleeping, "/no/such")

    assert done.returncode == 255
    assert 'exec: \\"/no/such\\": stat /no/such: no such file or directory' in done.stderr


def test_a_signal_for_exec_is_the_processs(either: Runtime, sleeping: str) -> None:
    argv = either.argv("exec", sleeping, "sh", "-c", "trap 'exit 11' TERM; echo ready; while :; do sleep 0.1; done")
    with subprocess.Popen(argv, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, text=True) as running:
        assert running.stdout is not None
        assert running.stdout.readline() == "ready\n"

        running.send_signal(signal.SIGTERM)

        assert running.wait(30) == 11


def test_a_killed_exec_takes_its_process_with_it(microvm: Runtime, make_bundle: MakeBundle, tmp_path: Path) -> None:
    container_id = microvm.run_detached(make_bundle(["sleep", "1000"]))
    pid_file = tmp_path / "pid"
    microvm.ok(
        "exec",
        "--detach",
        "--pid-file",
        pid_file,
        container_id,
        "sleep",
        "4711",
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    count = lambda: microvm.ok("exec", container_id, "sh", "-c", "ps | grep -c '[4]711'; :").strip()  # noqa: E731
    assert count() == "1"

    os.kill(int(pid_file.read_text()), signal.SIGKILL)

    eventually(lambda: count() == "0", "the process in the guest is gone")
    microvm.ok("delete", "--force", container_id)


def test_a_hundred_execs_leave_nothing(microvm: Runtime, make_bundle: MakeBundle) -> None:
    container_id = microvm.run_detached(make_bundle(["sleep", "1000"]))
    pid = microvm.state(container_id)["pid"]
    microvm.ok("exec", container_id, "true")
    before = len(os.listdir(f"/proc/{pid}/fd")), len(os.listdir(f"/proc/{pid}/task"))

    for number in range(20):
        assert microvm("exec", container_id, "sh", "-c", f"exit {number}").returncode == number

    def settled() -> bool:
        return (len(os.listdir(f"/proc/{pid}/fd")), len(os.listdir(f"/proc/{pid}/task"))) <= before

    eventually(settled, "as few descriptors and threads as before")
    microvm.ok("delete", "--force", container_id)


# -- volumes -----------------------------------------------------------------------------------------------------------


def test_files_are_seen_from_both_sides(either: Runtime, make_bundle: MakeBundle, tmp_path: Path) -> None:
    (tmp_path / "data").mkdir()
    (tmp_path / "data/host").write_text("from the host")
    (tmp_path / "single").write_text("one file")
    mounts = [
        {"destination": "/data", "source": str(tmp_path / "data"), "options": ["bind"]},
        {"destination": "/ro", "source": str(tmp_path / "data"), "options": ["bind", "ro"]},
        {"destination": "/etc/single", "source": str(tmp_path / "single"), "options": ["bind", "ro"]},
    ]  # fmt: skip
    program = sh(
        "cat /data/host /etc/single; echo from inside > /data/inside; chown 1000:5 /data/inside; touch /ro/x || echo refused"
    )

    def change(spec: dict[str, Any]) -> None:
        spec["mounts"].extend(mounts)
        for capabilities in spec["process"]["capabilities"].values():
            capabilities.append("CAP_CHOWN")

    bundle = make_bundle(program, change)

    done = either("run", bundle)

    assert done.stdout == "from the hostone filerefused\n"
    status = (tmp_path / "data/inside").stat()
    assert (tmp_path / "data/inside").read_text() == "from inside\n"
    assert (status.st_uid, status.st_gid) == (1000, 5)
    assert not (tmp_path / "data/x").exists()


def test_a_read_only_root_is(either: Runtime, make_bundle: MakeBundle) -> None:
    bundle = make_bundle(
        sh("touch /x || echo refused; touch /dev/shm/x && echo fine"), lambda spec: spec["root"].update(readonly=True)
    )

    assert either("run", bundle).stdout == "refused\nfine\n"
    assert not (bundle / "rootfs/x").exists()


# -- commands ----------------------------------------------------------------------------------------------------------


def test_pause_stops_the_program_and_resume_lets_it_go_on(either: Runtime, make_bundle: MakeBundle) -> None:
    bundle = make_bundle(sh("while :; do echo . >> /ticks; sleep 0.05; done"))
    container_id = either.run_detached(bundle)
    ticks = bundle / "rootfs/ticks"
    size = lambda: ticks.stat().st_size if ticks.exists() else 0  # noqa: E731
    eventually(lambda: size() > 4, "it ticks")

    either.ok("pause", container_id)
    assert either.state(container_id)["status"] == "paused"
    time.sleep(0.3)
    still = size()
    time.sleep(0.5)
    assert size() == still
    either.ok("resume", container_id)

    eventually(lambda: size() > still, "it ticks again")
    either.ok("delete", "--force", container_id)


def test_a_paused_container_can_be_deleted(either: Runtime, make_bundle: MakeBundle) -> None:
    container_id = either.run_detached(make_bundle(["sleep", "1000"]))
    either.ok("pause", container_id)

    either.ok("delete", "--force", container_id)

    assert either("state", container_id).returncode == 1


def test_statistics_have_runcs_shape(either: Runtime, sleeping: str) -> None:
    data = json.loads(either.ok("events", "--stats", sleeping))["data"]

    assert data["pids"]["current"] == 1
    assert data["memory"]["usage"]["usage"] > 0
    assert data["cpu"]["usage"]["total"] > 0


def test_update_changes_the_limits(microvm: Runtime, make_bundle: MakeBundle) -> None:
    container_id = microvm.run_detached(make_bundle(["sleep", "1000"]))

    microvm.ok("update", "--pids-limit", "33", "--memory", str(96 << 20), container_id)

    data = json.loads(microvm.ok("events", "--stats", container_id))["data"]
    assert data["pids"]["limit"] == 33
    assert data["memory"]["usage"]["limit"] == 96 << 20
    microvm.ok("delete", "--force", container_id)


def test_ps_shows_what_stands_for_init_on_the_host(microvm: Runtime, make_bundle: MakeBundle) -> None:
    """A guest chooses its own pids: shown as the host's, they would be whatever process of the host it likes."""
    container_id = microvm.run_detached(make_bundle(["sh", "-c", "sleep 1000 & sleep 1000"]))
    pid = json.loads(microvm.ok("state", container_id))["pid"]

    assert json.loads(microvm.ok("ps", "--format", "json", container_id)) == [pid]
    assert [line.split()[1] for line in microvm.ok("ps", container_id).splitlines()[1:]] == [str(pid)]
    microvm.ok("delete", "--force", container_id)


def test_hooks_run_where_they_are_to(either: Runtime, make_bundle: MakeBundle, tmp_path: Path) -> None:
    def hook(spec: dict[str, Any]) -> None:
        def record(kind: str) -> list[dict[str, Any]]:
            script = f"cat > {tmp_path}/{kind}; readlink /proc/self/ns/net >> {tmp_path}/{kind}"
            return [{"path": "/bin/sh", "args": ["sh", "-c", script]}]

        spec["hooks"] = {
            kind: record(kind) for kind in ("prestart", "createRuntime", "createContainer", "poststart", "poststop")
        }
        spec["hooks"]["startContainer"] = [{"path": "/bin/touch", "args": ["touch", "/startContainer"]}]

    bundle = make_bundle(["true"], hook)

    assert either("run", bundle).returncode == 0

    for kind in ("prestart", "createRuntime", "createContainer", "poststart", "poststop"):
        assert json.loads((tmp_path / kind).read_text().rpartition("}")[0] + "}")["id"], kind
    host = os.readlink("/proc/self/ns/net")
    assert host in (tmp_path / "createRuntime").read_text()
    assert host not in (tmp_path / "createContainer").read_text()
    assert (bundle / "rootfs/startContainer").exists()


# -- sizes -------------------------------------------------------------------------------------------------------------


def limited(memory: int) -> Any:
    return lambda spec: spec["linux"].update(resources={"memory": {"limit": memory}})


def seen_memory(text: str) -> int:
    return int(text.split()[1]) * 1024


def test_a_machine_grows_to_its_containers_limit_before_it_starts(microvm: Runtime, make_bundle: MakeBundle) -> None:
    """600 MiB and the guest's own 128 are no size of a template: it starts with 512."""
    done = microvm("run", make_bundle(["grep", "MemTotal", "/proc/meminfo"], limited(600 << 20)))

    assert 650 << 20 < seen_memory(done.stdout) < 728 << 20


def test_update_beyond_the_machines_memory_lets_it_grow(microvm: Runtime, make_bundle: MakeBundle) -> None:
    container_id = microvm.run_detached(make_bundle(["sleep", "1000"], limited(64 << 20)))
    look = ("exec", container_id, "grep", "MemTotal", "/proc/meminfo")
    assert seen_memory(microvm.ok(*look)) < 512 << 20

    microvm.ok("update", "--memory", str(800 << 20), container_id)

    eventually(lambda: seen_memory(microvm.ok(*look)) > 800 << 20, "the guest has brought it into use")
    microvm.ok("delete", "--force", container_id)


def test_lives_leave_nothing(microvm: Runtime, make_bundle: MakeBundle) -> None:
    """`leaks` compares processes, mounts, cgroups, network namespaces, descriptors and records. A soak has a hundred."""
    bundle = make_bundle(["true"])
    lives = int(os.environ.get("PYSANDBOX_SOAK_MACHINES", "10"))
    print(f"{lives} machines, one after the other")

    for _ in range(lives):
        container_id = microvm.create(bundle)
        microvm.ok("start", container_id)
        microvm.wait_status(container_id, "stopped")
        microvm.ok("delete", container_id)
