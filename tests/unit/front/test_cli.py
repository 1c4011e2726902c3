"""The command line: runc's flags, words and exit codes, one line for what is wrong, and nothing created by it."""

from __future__ import annotations

import array
import json
import os
import pty
import select
import signal
import socket
import subprocess
import time
from pathlib import Path
from typing import Any

import pytest
from runtime import Runtime

from pysandbox.cli.creation import write_pid_file
from pysandbox.cli.events import duration
from pysandbox.cli.update import byte_count, without_unset
from pysandbox.errors import InvalidArgument


def last_line(done: subprocess.CompletedProcess[str]) -> str:
    """Return the error without its time and level."""
    text: str = json.loads(done.stderr.strip().splitlines()[-1].partition("msg=")[2])
    return text


# -- a life --------------------------------------------------------------------------------------------------------------


def test_a_life_step_by_step(fake: Runtime, bundle_of: Any, tmp_path: Path) -> None:
    bundle = bundle_of("sleep", "100")
    null = {"stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL}

    fake.ok("create", "-b", bundle.path, "--pid-file", tmp_path / "pid", "c", **null)
    state = json.loads(fake.ok("state", "c"))
    assert (state["status"], state["pid"]) == ("created", int((tmp_path / "pid").read_text()))
    fake.ok("start", "c")
    assert json.loads(fake.ok("list", "-f", "json"))[0]["status"] == "running"
    assert fake.ok("exec", "c", "echo", "--detach", "-x") == "--detach -x\n"
    assert fake("exec", "c", "sh", "-c", "exit 42").returncode == 42
    assert json.loads(fake.ok("ps", "-f", "json", "c")) == [state["pid"]]
    assert fake.ok("ps", "c", "-o", "pid,args").splitlines()[1].split()[1:] == ["sleep", "100"]
    fake.ok("pause", "c")
    assert json.loads(fake.ok("state", "c"))["status"] == "paused"
    fake.ok("resume", "c")
    assert json.loads(fake.ok("events", "--stats", "c"))["type"] == "stats"
    fake.ok("kill", "c", "KILL")
    while json.loads(fake.ok("state", "c"))["status"] != "stopped":
        time.sleep(0.01)
    assert json.loads(fake.ok("state", "c"))["pid"] == 0
    fake.ok("delete", "c")
    assert fake.ok("list", "-q") == ""
    assert fake.ok("list", "-f", "json") == "null\n"


def test_cruns_flags_are_understood(fake: Runtime, bundle_of: Any) -> None:
    bundle = bundle_of("echo", "hello")
    Path(bundle.path, "specs").mkdir()
    Path(bundle.path, "config.json").rename(Path(bundle.path, "specs/other.json"))

    flags = ["--bundle", bundle.path, "--config", "specs/other.json"]
    assert fake.ok("--cgroup-manager", "cgroupfs", "run", *flags, "c") == "hello\n"
    refused = fake("--cgroup-manager=disabled", "run", *flags, "c")
    assert last_line(refused) == "--cgroup-manager disabled: must be cgroupfs or systemd"
    missing = fake("create", "-b", bundle.path, "-f", "none.json", "c")
    assert last_line(missing).endswith("JSON specification file none.json not found")


def test_in_a_bundle_a_word_with_a_slash_is_a_wrong_id(fake: Runtime, bundle_of: Any) -> None:
    refused = fake("run", "no/such", cwd=bundle_of("true").path)
    assert "invalid container ID format" in last_line(refused)


@pytest.mark.parametrize("arguments", [["run", "-b", "{bundle}", "c"], ["run", "{bundle}"], ["run", "{bundle}/"]])
def test_run_returns_the_programs_exit_code_and_leaves_nothing(
    fake: Runtime, bundle_of: Any, arguments: list[str]
) -> None:
    bundle = bundle_of("sh", "-c", "echo out; exit 3")

    done = fake(*(argument.format(bundle=bundle.path) for argument in arguments))

    assert (done.returncode, done.stdout, done.stderr) == (3, "out\n", "")
    assert os.listdir(fake.root) == []


def test_run_in_a_bundle_takes_an_id_as_runc_does(fake: Runtime, bundle_of: Any, tmp_path: Path) -> None:
    bundle = bundle_of("sh", "-c", "exit 3")

    assert fake("run", "--keep", "c", cwd=bundle.path).returncode == 3
    assert json.loads(fake.ok("state", "c"))["bundle"] == bundle.path


def test_run_beside_a_bundle_takes_its_name(fake: Runtime, bundle_of: Any) -> None:
    bundle = bundle_of("sh", "-c", "exit 3")

    assert fake("run", os.path.basename(bundle.path), cwd=os.path.dirname(bundle.path)).returncode == 3


def test_run_dies_as_the_program_does_and_passes_signals_on(fake: Runtime, bundle_of: Any, tmp_path: Path) -> None:
    bundle = bundle_of("sh", "-c", f"trap 'exit 9' USR1; touch {tmp_path}/ready; while :; do sleep 0.01; done")
    process = subprocess.Popen(fake.argv("run", "-b", bundle.path, "c"), stdin=subprocess.DEVNULL)
    while not (tmp_path / "ready").exists():
        time.sleep(0.01)

    process.send_signal(signal.SIGUSR1)

    assert process.wait(timeout=30) == 9
    assert os.listdir(fake.root) == []


def test_run_reaps_what_the_container_leaves_to_it(fake: Runtime, bundle_of: Any) -> None:
    """The orphan dies while init lives: as the subreaper we must not keep a zombie."""
    script = "(sh -c 'sleep 0.1; exit 0' & echo $!) ; sleep 1; grep -l sleep /proc/[0-9]*/stat >/dev/null; exit 4"
    bundle = bundle_of("sh", "-c", script)

    done = fake("run", "-b", bundle.path, "c")

    assert done.returncode == 4
    assert not Path(f"/proc/{int(done.stdout)}").exists()


def test_detach_leaves_it_running(fake: Runtime, bundle_of: Any) -> None:
    bundle = bundle_of("sleep", "100")

    fake.ok("run", "-d", "-b", bundle.path, "c", stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)

    assert json.loads(fake.ok("state", "c"))["status"] == "running"


# -- what is refused -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("arguments", "code", "said"),
    [
        (["state", "none"], 1, "container does not exist"),
        (["start", "none"], 1, "container does not exist"),
        (["kill", "none"], 1, "container does not exist"),
        (["delete", "none"], 1, "container does not exist"),
        (["pause", "none"], 1, "container does not exist"),
        (["update", "--memory", "1M", "none"], 1, "container does not exist"),
        (["exec", "none", "true"], 255, "exec failed: container does not exist"),
        (["delete", "--force", "none"], 0, ""),
        (["start"], 1, 'pysandbox: "start" requires exactly 1 argument(s)'),
        (["state", "a", "b"], 1, 'pysandbox: "state" requires exactly 1 argument(s)'),
        (["kill"], 1, 'pysandbox: "kill" requires a minimum of 1 argument(s)'),
        (["exec"], 1, 'pysandbox: "exec" requires a minimum of 1 argument(s)'),
        (["run"], 1, 'pysandbox: "run" requires exactly 1 argument(s)'),
        (["state", "--nonsense", "x"], 1, "flag provided but not defined: -nonsense"),
        (["nonsense"], 3, "No help topic for 'nonsense'"),
        (["create", "a/b"], 1, "pysandbox create failed: invalid container ID format: 'a/b'"),
        (["create", ""], 1, "pysandbox create failed: container id cannot be empty"),
        (["state", "../etc"], 1, "invalid container ID format: '../etc'"),
        (["kill", "none", "SIGNONSENSE"], 1, 'unknown signal "SIGNONSENSE"'),
        (["list", "-f", "xml"], 1, "invalid format option"),
        (["run", "-b", "/nonexistent", "x"], 1, "pysandbox run failed: chdir /nonexistent: no such file or directory"),
        (["checkpoint", "x"], 1, "checkpoint is not supported: pysandbox does not drive CRIU"),
        (["restore", "--image-path", "/x", "x"], 1, "restore is not supported: pysandbox does not drive CRIU"),
        (["spec", "--rootless"], 1, "spec --rootless: rootless containers are not supported"),
    ],
)
def test_a_refusal_is_one_line_and_an_exit_code(fake: Runtime, arguments: list[str], code: int, said: str) -> None:
    done = fake(*arguments)

    assert done.returncode == code
    assert (last_line(done) if done.stderr else "") == said
    assert len(done.stderr.splitlines()) == (1 if said else 0)
    assert not fake.root.exists() or os.listdir(fake.root) == []


def test_rootless_is_refused(fake: Runtime) -> None:
    done = Runtime([*fake.command, "--rootless", "true"], fake.root)("list")

    assert (done.returncode, last_line(done)) == (1, "--rootless true: rootless containers are not supported")


def test_statuses_are_refused_in_runcs_words(fake: Runtime, bundle_of: Any) -> None:
    fake.ok(
        "run", "-d", "-b", bundle_of("sleep", "100").path, "c", stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
    )

    assert last_line(fake("start", "c")) == "cannot start an already running container"
    assert last_line(fake("delete", "c")) == "cannot delete container c that is not stopped: running"
    assert last_line(fake("run", "-b", bundle_of("true").path, "c")).endswith("container with given ID already exists")
    fake.ok("kill", "c", "9")
    while json.loads(fake.ok("state", "c"))["status"] != "stopped":
        time.sleep(0.01)
    assert last_line(fake("kill", "c")) == "container not running"
    assert last_line(fake("exec", "c", "true")) == "exec failed: cannot exec in a stopped container"
    assert last_line(fake("events", "--stats", "c")) == "container with id c is not running"
    fake.ok("kill", "--all", "c", "KILL")


def test_a_terminal_needs_a_socket_when_nobody_stays(fake: Runtime, bundle_of: Any) -> None:
    with_terminal, without = bundle_of("true", terminal=True).path, bundle_of("true").path

    done = fake("create", "-b", with_terminal, "c")
    assert last_line(done).endswith("cannot allocate tty if runc will detach without setting console socket")
    done = fake("create", "-b", without, "--console-socket", "/x", "c")
    assert last_line(done).endswith("cannot use console socket if runc will not detach or allocate tty")
    assert os.listdir(fake.root) == [] if fake.root.exists() else True


# -- the log -------------------------------------------------------------------------------------------------------------


def test_the_log_file_gets_json_and_stderr_the_bare_text(fake: Runtime, tmp_path: Path) -> None:
    log = tmp_path / "log.json"
    log.write_text("before\n")

    done = Runtime([*fake.command, "--log", str(log), "--log-format", "json"], fake.root)("state", "none")

    assert done.stderr == "container does not exist\n"
    before, line = log.read_text().splitlines()
    assert before == "before"
    document = json.loads(line)
    assert (document["level"], document["msg"]) == ("error", "container does not exist")
    assert time.strptime(document["time"], "%Y-%m-%dT%H:%M:%SZ")


def test_a_log_that_is_a_link_is_refused(fake: Runtime, tmp_path: Path) -> None:
    (tmp_path / "log").symlink_to(tmp_path / "precious")

    done = Runtime([*fake.command, "--log", str(tmp_path / "log")], fake.root)("list")

    assert done.returncode == 1
    assert not (tmp_path / "precious").exists()


def test_an_unknown_log_format_is_refused(fake: Runtime) -> None:
    done = Runtime([*fake.command, "--log-format", "xml"], fake.root)("list")

    assert (done.returncode, last_line(done)) == (1, "invalid log-format: xml")


def test_the_version_has_the_lines_that_docker_reads(fake: Runtime) -> None:
    lines = fake.ok("--version").splitlines()

    assert lines[0].startswith("pysandbox version ")
    assert [line.partition(": ")[0] for line in lines[1:3]] == ["commit", "spec"]


@pytest.mark.parametrize("arguments", [["--help"], ["help", "run"], ["exec", "--help"], ["kill", "-h"]])
def test_help_is_no_error(fake: Runtime, arguments: list[str]) -> None:
    assert "USAGE:" in fake.ok(*arguments)


# -- descriptors ---------------------------------------------------------------------------------------------------------


def test_only_what_is_preserved_reaches_the_program(fake: Runtime, bundle_of: Any) -> None:
    reader, writer = os.pipe()
    # 3 and 4 are the caller's; only 3 is promised to the container.
    script = "for n in 3 4 5 6 7 8; do test -e /proc/$$/fd/$n && echo $n >&3; done; true"
    command = fake.argv("run", "--preserve-fds", "1", "-b", bundle_of("sh", "-c", script).path, "c")
    subprocess.run(
        ["bash", "-c", f'exec 3>&{writer} 4>&{writer} {writer}>&-; exec "$@"', "sh", *command],
        pass_fds=[writer], check=True, timeout=60, stdin=subprocess.DEVNULL,
    )  # fmt: skip
    os.close(writer)

    with open(reader) as output:
        assert output.read().split() == ["3"]


def test_a_preserved_descriptor_that_is_not_there_is_refused(fake: Runtime, bundle_of: Any) -> None:
    done = fake("run", "--preserve-fds", "1", "-b", bundle_of("true").path, "c")

    assert done.returncode == 1
    assert "unable to stat preserved-fd 0 (of 1)" in done.stderr


def test_sockets_of_systemd_are_passed_on_when_they_are_for_us(fake: Runtime, bundle_of: Any) -> None:
    bundle = bundle_of("sh", "-c", "echo $LISTEN_FDS $LISTEN_PID; test -e /proc/$$/fd/3 && echo three")
    command = fake.argv("run", "-b", bundle.path, "c")
    script = 'exec 3</dev/null; export LISTEN_FDS=1 LISTEN_PID=$$; exec "$@"'

    ours = subprocess.run(["sh", "-c", script, "sh", *command], capture_output=True, text=True, timeout=60, check=True)
    script = script.replace("$$", "1")
    others = subprocess.run(
        ["sh", "-c", script, "sh", *command], capture_output=True, text=True, timeout=60, check=False
    )

    assert ours.stdout == "1 1\nthree\n"
    assert others.stdout == "\n"


def test_closed_standard_streams_are_no_trap(fake: Runtime, bundle_of: Any, tmp_path: Path) -> None:
    """Without 0, 1 and 2 the first files opened would become them: the log would get the program's output."""
    bundle = bundle_of("sh", "-c", f"echo output; touch {tmp_path}/ran")
    argv = [*fake.command, "--log", str(tmp_path / "log"), "--root", str(fake.root), "run", "-b", bundle.path, "c"]

    subprocess.run(["sh", "-c", 'exec "$@" <&- >&- 2>&-', "sh", *argv], timeout=60, check=True)

    assert (tmp_path / "ran").exists()
    assert (tmp_path / "log").read_text() == ""


def _console(path: Path, work: Any) -> tuple[int, str]:
    """Listen on a socket while `work` runs; return the descriptor that came, and its name."""
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(str(path))
        listener.listen()
        listener.settimeout(30)
        work()
        connection = listener.accept()[0]
        with connection:
            name, ancillary, _, _ = connection.recvmsg(4096, socket.CMSG_SPACE(4))
    return array.array("i", ancillary[0][2])[0], name.decode()


def test_the_console_goes_to_its_socket(fake: Runtime, bundle_of: Any, tmp_path: Path) -> None:
    bundle = bundle_of("sh", "-c", "tty -s && echo terminal; sleep 100", terminal=True)
    path = tmp_path / "console"

    master, name = _console(path, lambda: fake.ok("create", "-b", bundle.path, "--console-socket", path, "c"))
    fake.ok("start", "c")

    assert name == "/dev/ptmx"
    assert os.read(master, 100) == b"terminal\r\n"
    os.close(master)


def test_the_pidfd_goes_to_its_socket(fake: Runtime, bundle_of: Any, tmp_path: Path) -> None:
    path, null = tmp_path / "pidfd", {"stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL}

    pidfd, _ = _console(
        path, lambda: fake.ok("create", "-b", bundle_of("sleep", "100").path, "--pidfd-socket", path, "c", **null)
    )

    signal.pidfd_send_signal(pidfd, signal.SIGKILL)
    while json.loads(fake.ok("state", "c"))["status"] != "stopped":
        time.sleep(0.01)
    os.close(pidfd)


def test_a_console_socket_that_is_not_there_creates_nothing(fake: Runtime, bundle_of: Any, tmp_path: Path) -> None:
    done = fake("create", "-b", bundle_of("true", terminal=True).path, "--console-socket", tmp_path / "none", "c")

    assert done.returncode == 1
    assert f"socket {tmp_path}/none: " in done.stderr
    assert os.listdir(fake.root) == []


def test_a_terminal_in_the_foreground_is_relayed_and_restored(fake: Runtime, bundle_of: Any) -> None:
    import termios

    bundle = bundle_of("sh", "-c", "stty size; read line; echo got $line; exit 5", terminal=True)
    master, slave = pty.openpty()
    termios.tcsetwinsize(slave, (33, 77))
    before = termios.tcgetattr(slave)
    process = subprocess.Popen(fake.argv("run", "-b", bundle.path, "c"), stdin=slave, stdout=slave, stderr=slave)

    _read_until(master, b"33 77")
    assert termios.tcgetattr(slave)[3] & termios.ICANON == 0
    os.write(master, b"hello\r")
    _read_until(master, b"got hello")

    assert process.wait(timeout=30) == 5
    assert termios.tcgetattr(slave) == before
    os.close(master)
    os.close(slave)


def _read_until(master: int, wanted: bytes) -> None:
    output, deadline = b"", time.monotonic() + 30
    while wanted not in output:
        assert select.select([master], [], [], max(0, deadline - time.monotonic()))[0], output
        output += os.read(master, 1000)


# -- small grammars --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "count"),
    [("0", 0), ("1024", 1024), ("1k", 1024), ("512M", 512 << 20), ("1.5GiB", 3 << 29), ("2gb", 2 << 30)],
)
def test_bytes_take_units(text: str, count: int) -> None:
    assert byte_count(text) == count


@pytest.mark.parametrize("text", ["", "k", "-5", "1x", "1e3", "1 2", "∞"])
def test_what_is_no_number_of_bytes_is_refused(text: str) -> None:
    with pytest.raises(ValueError):
        byte_count(text)


@pytest.mark.parametrize(("text", "seconds"), [("5s", 5), ("100ms", 0.1), ("1m30s", 90), ("1.5h", 5400)])
def test_intervals_are_gos(text: str, seconds: float) -> None:
    assert duration(text) == pytest.approx(seconds)


@pytest.mark.parametrize("text", ["5", "s", "5x", "-5s", "1.2.3s", "."])
def test_what_is_no_interval_is_refused(text: str) -> None:
    with pytest.raises(InvalidArgument):
        duration(text)


def test_an_update_leaves_out_what_is_unchanged() -> None:
    given = {
        "memory": {"limit": 0, "swap": 5}, "cpu": {"shares": 0, "idle": 0}, "pids": {}, "blockIO": {},
        "devices": [{"allow": True}], "unified": {"memory.high": "1"},
    }  # fmt: skip

    assert without_unset(given) == {"memory": {"swap": 5}, "cpu": {"idle": 0}, "unified": {"memory.high": "1"}}


def test_a_limit_of_no_processes_is_a_limit() -> None:
    assert without_unset({"pids": {"limit": 0}}) == {"pids": {"limit": 0}}


def test_lifting_the_memory_limit_lifts_that_on_swap() -> None:
    assert without_unset({"memory": {"limit": -1}}) == {"memory": {"swap": -1, "limit": -1}}
    assert without_unset({"memory": {"limit": -1, "swap": 7}}) == {"memory": {"swap": 7, "limit": -1}}


def test_a_pid_file_that_cannot_be_written_leaves_nothing(tmp_path: Path) -> None:
    (tmp_path / "pid").mkdir()

    with pytest.raises(IsADirectoryError):
        write_pid_file(str(tmp_path / "pid"), 7)

    assert os.listdir(tmp_path) == ["pid"]
