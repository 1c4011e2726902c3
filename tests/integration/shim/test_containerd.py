"""containerd itself, three versions of it, driven by ctr, with our shim by its name."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import uuid
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from daemon import image
from daemon.process import Completed, mounts_below, running
from integration.shim.conftest import eventually

if TYPE_CHECKING:
    from collections.abc import Iterator

    from daemon.containerd import Containerd

RUNTIME = "io.containerd.pysandbox.v2"
#: ctr sets a terminal's size some time after the program has begun.
SIZE = "until stty size 2>/dev/null | grep .; do sleep 0.1; done"  # busybox fails with exit code 0
BACKGROUND = ("--detach", "--null-io")


def run_words(containerd: Containerd, name: str, *options: str, runtime: str = RUNTIME) -> list[str]:
    containerd.containers.append(name)
    return ["run", "--runtime", runtime, *options, image.NAME, name]


def run(containerd: Containerd, *command: str, options: tuple[str, ...] = ("--rm",), **more: Any) -> Completed:
    return containerd(*run_words(containerd, "web", *options), *command, **more)


def start(
    containerd: Containerd, name: str, *command: str, options: tuple[str, ...] = (), runtime: str = RUNTIME
) -> int:
    """Run a container in the background; return its pid."""
    containerd.ok(*run_words(containerd, name, *BACKGROUND, *options, runtime=runtime), *command)
    return containerd.task(name)[0]


def shim_of(pid: int) -> int:
    parent = int(Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[1])
    assert "containerd-shim-pysandbox-v2" in Path(f"/proc/{parent}/cmdline").read_text()
    return parent


@contextmanager
def listening(containerd: Containerd) -> Iterator[Path]:
    """Write containerd's events into a file, from before the body on."""
    file = containerd.directory / f"events-{uuid.uuid4().hex[:8]}"
    probe = f"probe-{uuid.uuid4().hex[:8]}"
    with (
        file.open("wb") as output,
        subprocess.Popen(containerd._ctr(["events"]), stdout=output, stderr=subprocess.DEVNULL) as listener,
    ):

        def listens() -> bool:
            containerd("namespace", "label", containerd.namespace, f"{probe}={uuid.uuid4().hex}")
            return probe in file.read_text()

        try:
            eventually(listens)
            yield file
        finally:
            listener.terminate()


def told(file: Path, name: str) -> list[str]:
    """Return the topics of a container's task events, in the order in which they were told."""
    lines = [line for line in file.read_text().splitlines() if f'"container_id":"{name}"' in line]
    return [topic for line in lines for topic in re.findall(r" /tasks/([a-z-]+) ", line)]


# -- run ---------------------------------------------------------------------------------------------------------------


def test_run(containerd: Containerd) -> None:
    done = run(containerd, "sh", "-c", "echo out; echo err >&2; exit 7")

    assert (done.returncode, done.stdout, done.stderr) == (7, "out\n", "err\n")


def test_the_runtime_may_be_a_path(containerd: Containerd, shim_program: Path) -> None:
    words = run_words(containerd, "web", "--rm", runtime=str(shim_program))

    assert containerd.ok(*words, "echo", "here") == "here"


@pytest.mark.parametrize(
    ("script", "code"), [("exit 0", 0), ("exit 255", 255), ("kill -TERM $$", 143), ("kill -9 $$", 137)]
)
def test_exit_codes(containerd: Containerd, script: str, code: int) -> None:
    # Init of a pid namespace is not ended by its own signals: a child is.
    assert run(containerd, "sh", "-c", f"sh -c '{script}'; exit $?").returncode == code


def test_input_reaches_the_program_and_ends(containerd: Containerd) -> None:
    assert run(containerd, "cat", stdin="some\nlines\n").stdout == "some\nlines\n"


def test_a_mebibyte_comes_through_whole(containerd: Containerd) -> None:
    text = "0123456789abcde\n" * 65536

    assert run(containerd, "cat", stdin=text).stdout == text


def test_a_program_that_is_not_there_leaves_nothing(containerd: Containerd) -> None:
    done = run(containerd, "nosuchprogram")

    assert done.returncode != 0
    assert '"nosuchprogram": executable file not found' in done.stderr
    assert "web" not in containerd.ok("task", "list")
    assert not list(containerd.directory.glob("state/io.containerd.runtime.v2.task/*/web"))


def test_the_settings_file_that_the_options_name(containerd: Containerd, tmp_path: Path) -> None:
    settings = tmp_path / "settings.toml"
    settings.write_text('backend = "namespaces"\n')
    settings.chmod(0o600)
    options = ("--rm", "--runtime-config-path", str(settings))
    assert run(containerd, "echo", "here", options=options).stdout == "here\n"
    settings.write_text('backend = "nosuch"\n')

    done = run(containerd, "true", options=options)

    assert done.returncode != 0
    assert "nosuch" in done.stderr


# -- terminals ---------------------------------------------------------------------------------------------------------


def test_a_terminal(containerd: Containerd) -> None:
    words = run_words(containerd, "web", "--rm", "--tty")
    script = f"test -t 0; {SIZE}; read line; echo got $line; stty size; exit 6"
    with containerd.terminal(*words, "sh", "-c", script) as terminal:
        terminal.expect("24 80")
        terminal.resize(30, 100)
        eventually(lambda: containerd.exec("web", "stty", "-F", "/dev/console", "size").stdout == "30 100\n")
        terminal.type("words\n")
        terminal.expect("got words")
        terminal.expect("30 100")

        assert terminal.wait() == 6


def test_a_terminal_of_an_exec(containerd: Containerd) -> None:
    start(containerd, "web", "sleep", "100")
    words = ("task", "exec", "--tty", "--exec-id", "shell", "web", "sh", "-c", f"tty; {SIZE}; exit 3")
    with containerd.terminal(*words) as terminal:
        terminal.expect("/dev/pts/")
        terminal.expect("24 80")

        assert terminal.wait() == 3


# -- a container in the background -------------------------------------------------------------------------------------


def test_exec(containerd: Containerd) -> None:
    start(containerd, "web", "sleep", "100")

    done = containerd.exec("web", "sh", "-c", "echo in exec; cat; exit 3", stdin="input\n")

    assert (done.returncode, done.stdout) == (3, "in exec\ninput\n")


def test_pause_and_resume(containerd: Containerd) -> None:
    start(containerd, "web", "sleep", "100")
    containerd.ok("task", "pause", "web")
    assert containerd.task("web")[1] == "PAUSED"

    containerd.ok("task", "resume", "web")

    assert containerd.task("web")[1] == "RUNNING"


def test_metrics(containerd: Containerd) -> None:
    start(containerd, "web", "sleep", "100")

    metrics = json.loads(containerd.ok("task", "metrics", "--format", "json", "web"))

    assert metrics["pids"]["current"] == 1
    usage = metrics["memory"]["usage"]
    assert (usage["usage"] if isinstance(usage, dict) else usage) > 0


def test_processes_are_listed_with_their_exec(containerd: Containerd) -> None:
    pid = start(containerd, "web", "sleep", "100")
    words = containerd._ctr(["task", "exec", "--exec-id", "second", "web", "sleep", "100"])
    with subprocess.Popen(words, stdin=subprocess.DEVNULL) as client:
        eventually(lambda: "second" in containerd.ok("task", "ps", "web"))

        assert str(pid) in containerd.ok("task", "ps", "web")
        containerd.ok("task", "kill", "--signal", "KILL", "--exec-id", "second", "web")
        assert client.wait(10) == 137


def test_a_signal_reaches_the_program(containerd: Containerd) -> None:
    script = "trap 'exit 9' TERM; touch /ready; while :; do sleep 0.1; done"
    start(containerd, "web", "sh", "-c", script)
    eventually(lambda: containerd.exec("web", "test", "-e", "/ready").returncode == 0)

    containerd.ok("task", "kill", "--signal", "TERM", "web")

    eventually(lambda: containerd.task("web")[1] == "STOPPED")
    assert "code 9" in containerd("task", "delete", "web").stderr


def test_kill_all_reaches_every_process(containerd: Containerd) -> None:
    """Children in the host's pid namespace do not end with init."""
    host = f"pid:/proc/{os.getpid()}/ns/pid"
    start(containerd, "web", "sh", "-c", "sleep 100 & sleep 100", options=("--with-ns", host))
    eventually(lambda: len(containerd.ok("task", "ps", "web").splitlines()) == 3)
    pids = [int(line.split()[0]) for line in containerd.ok("task", "ps", "web").splitlines()[1:]]

    containerd.ok("task", "kill", "--all", "--signal", "KILL", "web")

    eventually(lambda: not any(running(pid) for pid in pids))
    eventually(lambda: containerd.task("web")[1] == "STOPPED")


def test_out_of_memory(containerd: Containerd) -> None:
    with listening(containerd) as events:
        script = "x=$(cat /dev/zero | tr '\\0' x)"
        done = run(containerd, "sh", "-c", f"{script}; exit 0", options=("--rm", "--memory-limit", str(16 << 20)))

        assert done.returncode != 0
        eventually(lambda: "oom" in told(events, "web"))


def test_events_come_in_the_contracts_order(containerd: Containerd) -> None:
    with listening(containerd) as events:
        start(containerd, "web", "sleep", "100")
        assert containerd.exec("web", "true").returncode == 0
        containerd.ok("task", "pause", "web")
        containerd.ok("task", "resume", "web")
        containerd.ok("task", "kill", "--signal", "KILL", "web")
        eventually(lambda: containerd.task("web")[1] == "STOPPED")
        containerd("task", "delete", "web")
        eventually(lambda: "delete" in told(events, "web"))

        expected = "create start exec-added exec-started exit paused resumed exit delete"
        assert told(events, "web") == expected.split()


# -- deaths ------------------------------------------------------------------------------------------------------------


def test_containerd_cleans_up_after_a_killed_shim(containerd: Containerd) -> None:
    pid = start(containerd, "web", "sleep", "100")
    bundle = next(containerd.directory.glob("state/io.containerd.runtime.v2.task/*/web"))
    socket = Path((bundle / "address").read_text().removeprefix("unix://"))
    assert socket.is_socket()
    os.kill(shim_of(pid), signal.SIGKILL)

    eventually(lambda: not running(pid), 5)
    eventually(lambda: "web" not in containerd.ok("task", "list"), 5)
    eventually(lambda: not [point for point in mounts_below(containerd.directory) if "/web/" in point], 5)
    eventually(lambda: not bundle.exists() and not socket.exists(), 5)
    assert not list(Path(f"/run/pysandbox-containerd/{containerd.namespace}").glob("web*"))


def test_tasks_survive_containerd_and_no_exit_is_lost(own_containerd: Containerd) -> None:
    names = [f"live{number}" for number in range(10)]
    pids = {name: start(own_containerd, name, "sleep", "100") for name in names}
    pids["ended"] = start(own_containerd, "ended", "sh", "-c", "sleep 1; exit 5")
    own_containerd.kill()
    eventually(lambda: not running(pids["ended"]))
    own_containerd.boot()
    with listening(own_containerd) as events:
        assert {name: own_containerd.task(name) for name in names} == {name: (pids[name], "RUNNING") for name in names}
        assert own_containerd.task("ended") == (pids["ended"], "STOPPED")
        done = own_containerd("task", "delete", "ended")
        assert "exit with non-zero exit code 5" in done.stderr
        assert own_containerd.exec("live0", "sh", "-c", "exit 4").returncode == 4
        for name in names:
            own_containerd.ok("task", "kill", "--signal", "KILL", name)
        eventually(lambda: all(own_containerd.task(name)[1] == "STOPPED" for name in names))
        eventually(lambda: all(told(events, name)[-1:] == ["exit"] for name in names))


def test_attach_after_containerd_was_killed(own_containerd: Containerd) -> None:
    words = run_words(own_containerd, "web", "--detach")
    own_containerd.ok(*words, "sh", "-c", "while read line; do echo got $line; done; exit 8")
    own_containerd.kill()
    own_containerd.boot()

    done = own_containerd("task", "attach", "web", stdin="one\ntwo\n")

    assert (done.returncode, done.stdout) == (8, "got one\ngot two\n")


def test_what_the_shim_says_of_itself(containerd: Containerd) -> None:
    if containerd.release.version < (2,):
        pytest.skip("containerd 1 does not ask")

    info = json.loads(containerd.ok("plugins", "inspect-runtime", "--runtime", RUNTIME))

    assert info["Name"] == RUNTIME
    assert info["Version"]["Version"]
    assert info["Features"]["linux"]["namespaces"]
