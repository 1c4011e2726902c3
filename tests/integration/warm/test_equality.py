"""Who calls cannot tell warm from cold: what is printed, the exit code, what is left, what the container sees."""

from __future__ import annotations

import fcntl
import json
import os
import socket
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from runtime import eventually
from side import LIMIT, LOOK, add_hooks, cgroup_of

if TYPE_CHECKING:
    from side import Side, Sides

WORDS: list[tuple[str, ...]] = [
    (), ("--version",), ("-v",), ("--help",), ("-h",), ("help",), ("help", "run"), ("h",),
    ("--bad",), ("frobnicate",), ("--root",), ("--log-format", "xml", "list"), ("--rootless", "true", "list"),
    ("--cgroup-manager", "x", "list"), ("--systemd-cgroup", "features"),
    *((command, "--help") for command in (
        "backends", "check", "checkpoint", "create", "delete", "env", "events", "exec", "explain", "features", "image",
        "kill", "list", "pause", "ps", "restore", "resume", "run", "server", "spec", "start", "state", "template",
        "update")),
    *((command,) for command in (
        "backends", "checkpoint", "create", "delete", "events", "exec", "explain", "features", "image", "kill", "list",
        "pause", "ps", "restore", "resume", "run", "server", "spec", "start", "state", "template", "update")),
    *((command, "no-such-id") for command in (
        "checkpoint", "delete", "events", "kill", "pause", "ps", "restore", "resume", "start", "state")),
    ("exec", "no-such-id", "true"), ("update", "--pids-limit", "5", "no-such-id"), ("delete", "--force", "no-such-id"),
    ("kill", "no-such-id", "NOSIGNAL"), ("state", "../x"), ("state", "a\nb"), ("state", "é"), ("list", "extra", "words"),
    ("list", "--format", "json"), ("list", "--format", "x"), ("list", "-q"), ("state", "--frob", "x"),
    ("create", "--bundle", "/nonexistent", "c"), ("run", "--bundle", "/dev/null", "c"), ("spec", "--bundle", "/nonexistent"),
    ("explain", "/nonexistent"), ("--config", "/nonexistent", "list"), ("--backend", "none", "run", "c"),
    ("--log", "log", "state", "x"), ("--log", "log", "--log-format", "json", "--debug", "state", "x"),
    ("--log", "/nonexistent/log", "list"), ("--debug", "list"),
]  # fmt: skip


def test_words_that_make_no_container(sides: Sides) -> None:
    def scene(side: Side) -> None:
        for words in WORDS:
            side(*words)

    sides.compare(scene)


def test_the_state_is_kept_where_it_was(sides: Sides) -> None:
    """Nothing in the place but what a command was asked for."""

    def scene(side: Side) -> None:
        side("list")
        side("spec")
        assert sorted(path.name for path in side.place.iterdir()) == ["config.json"]
        side("spec")  # it exists

    sides.compare(scene)


# -- the life of a container -------------------------------------------------------------------------------------------


def test_a_containers_life(sides: Sides) -> None:
    def scene(side: Side) -> None:
        bundle = side.bundle(["sleep", "1000"])
        side("create", "--bundle", bundle, "--pid-file", "pid", "c")
        side("create", "--bundle", bundle, "c")
        for words in (["state", "c"], ["list"], ["list", "--format", "json"], ["ps", "c"], ["ps", "--format", "json", "c"],
                      ["start", "c"], ["start", "c"], ["state", "c"], ["delete", "c"], ["pause", "c"], ["state", "c"],
                      ["exec", "c", "true"], ["resume", "c"], ["resume", "c"], ["update", "--pids-limit", "50", "c"],
                      ["exec", "c", "cat", "/proc/self/cgroup"], ["explain", "c"], ["kill", "c", "USR3"]):  # fmt: skip
            side(*words)
        limit = next(Path("/sys/fs/cgroup").glob(f"**/{cgroup_of(bundle)}/pids.max"))
        assert limit.read_text() == "50\n"
        for words in (["kill", "c", "KILL"], ["delete", "--force", "c"], ["state", "c"], ["delete", "c"]):
            side(*words)

    sides.compare(scene)


def test_what_a_container_uses_has_the_same_form(sides: Sides) -> None:
    """Zeros are left out of the document, so the container sees to it that what it uses is none: processor, memory, cache."""

    def form(value: Any) -> Any:
        if isinstance(value, dict):
            return {key: form(inner) for key, inner in value.items()}
        return [form(inner) for inner in value[:1]] if isinstance(value, list) else type(value).__name__

    def scene(side: Side) -> None:
        with tempfile.NamedTemporaryFile() as out:
            script = "head -c 8000000 /dev/zero > /dev/shm/zeros; echo written; exec sleep 1000"
            side("create", "--bundle", side.bundle(script), "c", stdout=out)
            side("start", "c")
            eventually(lambda: Path(out.name).read_text() == "written\n", "it has written")
        events = side.place / "events"
        with events.open("wb") as file:
            assert side.start(side.argv("events", "--stats", "c"), stdout=file).wait(LIMIT) == 0
        document = json.loads(events.read_text())
        events.unlink()
        assert document["data"]["memory"]["cache"] > 1_000_000
        assert document["data"]["cpu"]["usage"]["total"] > 0
        assert isinstance(document["data"].pop("blkio"), dict)  # what it holds depends on what was in the page cache
        side.note("events", json.dumps(form(document)))

    sides.compare(scene)


def test_what_a_container_sees(sides: Sides) -> None:
    def scene(side: Side) -> None:
        seen = side("run", "--bundle", side.bundle(LOOK), "c")
        assert "NoNewPrivs:\t1" in seen.out, seen.err

    sides.compare(scene, off=True)


def test_what_a_detached_container_and_its_execs_see(sides: Sides) -> None:
    def scene(side: Side) -> None:
        with tempfile.NamedTemporaryFile() as out:
            bundle = side.bundle(f"{LOOK}\necho all; sleep 1000")
            side("create", "--bundle", bundle, "--pid-file", "pid", "c", stdout=out)
            side("start", "c")
            eventually(lambda: Path(out.name).read_text().endswith("all\n"), "it has looked")
            side.note("seen", Path(out.name).read_text())
        seen = side("exec", "--env", "A=b", "--cwd", "/tmp", "c", "sh", "-c", LOOK)
        assert "A=b" in seen.out, seen.err
        side("exec", "--detach", "--pid-file", "exec-pid", "--user", "1000:1000", "c", "sleep", "1000")
        side.learn()
        for name in ("pid", "exec-pid"):
            pid = int((side.place / name).read_text())
            side.known(pid, name)
            side.note(f"{name} on the host", _on_host(pid))

    sides.compare(scene)


def _on_host(pid: int) -> dict[str, Any]:
    """What the host sees of a process that its caller has left."""
    words = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    links = {name: os.readlink(f"/proc/{pid}/{name}") for name in ("cwd", "root", "exe")}
    return {
        "parent is the tests": int(words[1]) == os.getpid(),
        "leads a group and a session": [int(word) == pid for word in words[2:4]],
        "terminal": words[4],
        "nice": words[16],
        "cgroup": Path(f"/proc/{pid}/cgroup").read_text(),
        "oom_score_adj": Path(f"/proc/{pid}/oom_score_adj").read_text(),
        "command": Path(f"/proc/{pid}/cmdline").read_text(),
        "scheduler": os.sched_getscheduler(pid),
        "affinity": sorted(os.sched_getaffinity(pid)),
        **links,
    }


@pytest.mark.parametrize(
    "script", ["exit 0", "exit 3", "exit 255", "kill -9 $$", "kill -15 $$", "echo out; echo err >&2; exit 4"]
)
def test_how_a_program_ends(sides: Sides, script: str) -> None:
    def scene(side: Side) -> None:
        side("run", "--bundle", side.bundle(script), "c")
        side("run", "--detach", "--bundle", side.bundle(["sleep", "1000"]), "d")
        side("exec", "d", "sh", "-c", script)

    sides.compare(scene)


def test_programs_that_cannot_be_run(sides: Sides) -> None:
    def scene(side: Side) -> None:
        side("run", "--bundle", side.bundle(["no-such-program"]), "c")
        side("run", "--bundle", side.bundle(["/etc/passwd"]), "c")
        side("--debug", "create", "--bundle", side.bundle(["/bin/"]), "c")
        side("run", "--detach", "--bundle", side.bundle(["sleep", "1000"]), "d")
        side("exec", "d", "no-such-program")
        side("exec", "--user", "x", "d", "true")
        side("exec", "--cwd", "/nowhere", "d", "true")

    sides.compare(scene)


@pytest.mark.parametrize(
    "text",
    ["", "{", "[]", '{"ociVersion": 1}', '{"a": 1, "a": 2}', "\xff", '{"ociVersion":"1.0.0","process":{"args":[]}}'],
)
def test_bundles_that_are_refused(sides: Sides, text: str) -> None:
    def scene(side: Side) -> None:
        bundle = side.bundle("true")
        (bundle / "config.json").write_bytes(text.encode("latin-1"))
        side("run", "--bundle", bundle, "c")
        side("create", "--bundle", bundle, "c")
        side("explain", bundle)

    sides.compare(scene)


def test_every_step_is_told(sides: Sides) -> None:
    def scene(side: Side) -> None:
        side("--debug", "run", "--bundle", side.bundle("echo ran"), "c")
        side("--debug", "--log", "log", "run", "--bundle", side.bundle("echo ran"), "c")
        side("--debug", "--log", "log.json", "--log-format", "json", "run", "--bundle", side.bundle("echo ran"), "c")
        side("run", "--plan", "--bundle", side.bundle("echo ran"), "c")

    sides.compare(scene)


# -- standard streams and descriptors ----------------------------------------------------------------------------------


def test_input_is_piped(sides: Sides) -> None:
    def scene(side: Side) -> None:
        side("run", "--bundle", side.bundle("cat; wc -c"), "c", stdin=b"text\n" * 50_000)
        side("run", "--detach", "--bundle", side.bundle(["sleep", "1000"]), "d")
        side("exec", "d", "sh", "-c", "head -n 1; tail -c 4", stdin=b"first\n" + b"x" * 200_000 + b"end\n")

    sides.compare(scene)


def test_nobody_reads(sides: Sides) -> None:
    def scene(side: Side) -> None:
        for words in (["--help"], ["features"], ["list"], ["run", "--bundle", side.bundle("echo x; echo y"), "c"]):
            reader, writer = os.pipe()
            os.close(reader)
            side(*words, stdout=writer)
            os.close(writer)
        with open("/dev/full", "wb") as full:
            for words in (["--help"], ["features"], ["list"], ["--frob"], ["state", "x"]):
                side(*words, stdout=full)

    sides.compare(scene)


def test_both_outputs_are_one_file(sides: Sides) -> None:
    """What is written first stands first."""

    def scene(side: Side) -> None:
        for words in (["spec", "--frob"], ["--frob"], ["features", "x"], ["--debug", "list"]):
            with (side.place / "both").open("wb") as both:
                side(*words, stdout=both, stderr=both)

    sides.compare(scene)


@pytest.mark.parametrize("closed", ["0<&-", "1>&-", "2>&-", "0<&- 1>&-", "1>&- 2>&-", "0<&- 1>&- 2>&-"])
def test_closed_standard_streams(sides: Sides, closed: str) -> None:
    def scene(side: Side) -> None:
        bundle = side.bundle(
            "for each in 0 1 2 3 4; do readlink /proc/self/fd/$each > /dev/null && echo $each; done; true"
        )
        for words in (["--version"], ["state", "x"], ["run", "--bundle", bundle, "c"], ["run", "--frob"]):
            side(*words, argv=["sh", "-c", f'exec "$@" {closed}', "sh", *side.argv(*words)])

    sides.compare(scene, off=True)


def test_descriptors_that_are_kept_and_those_that_are_not(sides: Sides) -> None:
    def scene(side: Side) -> None:
        script = 'for each in /proc/self/fd/*; do echo "${each##*/} $(readlink $each)"; done; cat <&3; echo wrote >&4'
        (side.place / "given").write_text("given\n")
        read, write = os.open(side.place / "given", os.O_RDONLY), os.open(side.place / "got", os.O_WRONLY | os.O_CREAT)
        high = [fcntl.fcntl(read, fcntl.F_DUPFD, number) for number in (99, 200, 500)]
        kept = {"3": read, "4": write}
        moved = 'exec "$@" ' + " ".join(f"{number}<>/proc/self/fd/{fd}" for number, fd in kept.items())
        for count in ("0", "2", "3"):
            argv = [
                "sh",
                "-c",
                moved,
                "sh",
                *side.argv("run", "--preserve-fds", count, "--bundle", side.bundle(script), "c"),
            ]
            side("run", count, argv=argv, pass_fds=[read, write, *high])
        for number in (read, write, *high):
            os.close(number)

    sides.compare(scene, off=True)


@pytest.mark.parametrize("number", [512, 900])
def test_a_descriptor_with_a_high_number_runs_cold(sides: Sides, number: int) -> None:
    def scene(side: Side) -> None:
        null = os.open("/dev/null", os.O_RDONLY)
        descriptor = fcntl.fcntl(null, fcntl.F_DUPFD, number)
        os.close(null)
        side("--version", pass_fds=[descriptor])
        side("run", "--bundle", side.bundle("ls /proc/self/fd"), "c", pass_fds=[descriptor])
        os.close(descriptor)

    sides.compare(scene, served=False)


def test_very_many_descriptors_run_cold(sides: Sides) -> None:
    def scene(side: Side) -> None:
        many = [os.open("/dev/null", os.O_RDONLY) for _ in range(201)]
        side("--version", pass_fds=many)
        for descriptor in many:
            os.close(descriptor)

    sides.compare(scene, served=False)


def test_a_console_socket_gets_the_terminal(sides: Sides) -> None:
    def scene(side: Side) -> None:
        def terminal(spec: dict[str, Any]) -> None:
            spec["process"].update(terminal=True, consoleSize={"height": 30, "width": 90})

        with socket.socket(socket.AF_UNIX) as listener:
            listener.bind(str(side.place / "console"))
            listener.listen()
            bundle = side.bundle("tty; stty size; exec sleep 1000", terminal)
            side("run", "--detach", "--console-socket", "console", "--bundle", bundle, "c")
            side.note("terminal", _console(listener))
            side("exec", "--detach", "--tty", "--console-socket", "console", "c", "sh", "-c", "tty; stty size")
            side.note("terminal of the exec", _console(listener))
            side("run", "--console-socket", "nowhere", "--detach", "--bundle", bundle, "d")

    sides.compare(scene)


def _console(listener: socket.socket) -> str:
    listener.settimeout(10)
    connection, _ = listener.accept()
    with connection:
        name, descriptors, _, _ = socket.recv_fds(connection, 100, 1)
    text = b""
    with open(descriptors[0], "rb", buffering=0) as terminal:
        while text.count(b"\n") < 2:
            text += terminal.read(100)
    return f"{name.decode()}: {text.decode()}"


def test_a_pidfd_socket_gets_init(sides: Sides) -> None:
    def scene(side: Side) -> None:
        with socket.socket(socket.AF_UNIX) as listener:
            listener.bind(str(side.place / "pidfd"))
            listener.listen()
            side("create", "--pidfd-socket", "pidfd", "--bundle", side.bundle(["sleep", "1000"]), "c")
            listener.settimeout(10)
            connection, _ = listener.accept()
            with connection:
                name, descriptors, _, _ = socket.recv_fds(connection, 100, 1)
            lines = Path(f"/proc/self/fdinfo/{descriptors[0]}").read_text().splitlines()
            side.note(name.decode(), next(line for line in lines if line.startswith("Pid:")))
            os.close(descriptors[0])

    sides.compare(scene)


# -- hooks -------------------------------------------------------------------------------------------------------------

KINDS = ("prestart", "createRuntime", "createContainer", "startContainer", "poststart", "poststop")


@pytest.mark.parametrize("environment", [None, ["PATH=/usr/bin:/bin", "A=b=c", "B="]])
def test_what_hooks_see(sides: Sides, environment: list[str] | None) -> None:
    fields = {} if environment is None else {"env": environment}

    def scene(side: Side) -> None:
        out = side.place / "hooks"
        bundle = side.bundle("echo ran", lambda spec: add_hooks(spec, out, **fields))
        with (side.place / "out").open("wb") as seen:
            assert side("run", "--bundle", bundle, "c", stdout=seen).code == 0, side.seen
        assert out.read_text().count("== ") == 5, out.read_text()

    sides.compare(scene)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("script", ["echo out; echo err >&2; exit 3", "kill -9 $$", "sleep 1000", None])
def test_hooks_that_fail(sides: Sides, kind: str, script: str | None) -> None:
    def failing(spec: dict[str, Any]) -> None:
        hook = {"path": "/nonexistent"} if script is None else {"path": "/bin/sh", "args": ["sh", "-c", script]}
        spec["hooks"] = {kind: [{**hook, "timeout": 1}]}

    def scene(side: Side) -> None:
        bundle = side.bundle("echo ran", failing)
        side("run", "--bundle", bundle, "c")
        side("list")
        side("create", "--bundle", bundle, "c")
        side("start", "c")
        side("delete", "--force", "c")
        side("list")

    sides.compare(scene)
