"""The launcher against a server that is this test: what it hands over, does when asked to, and when it goes cold.

The stand-in speaks the protocol of docs/warm.md over a real socket; the cold start is a stub that says `cold`.
"""

from __future__ import annotations

import contextlib
import errno
import os
import shutil
import signal
import socket
import struct
import subprocess
import tempfile
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from precondition import requires
from runtime import children, eventually

from pysandbox.linux import pidfd_getfd
from pysandbox.warm import proof
from pysandbox.warm.peer import SO_PEERPIDFD
from pysandbox.warm.wire import Closed, receive, send

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

STUB = '#!/bin/sh\necho cold "$@"\n'
DIED = "pysandbox: the process that served this command has died\n"
#: Signals as bits of a mask.
USR1, USR2, HUP, PIPE = (1 << n - 1 for n in (signal.SIGUSR1, signal.SIGUSR2, signal.SIGHUP, signal.SIGPIPE))

#: Signals 32 and 33, which posix_spawn(3) keeps for the C library: they are ignored in what it starts.
THREADS = 1 << 31 | 1 << 32


def key_of(script: Path) -> str:
    status = script.stat()
    return f"{status.st_dev:x}-{status.st_ino:x}-{status.st_mtime_ns:x}"


class Installation:
    """A launcher with a stub beside it, and the directory where it looks for a server."""

    def __init__(self, launcher: Path, place: Path) -> None:
        self.program, self.cold = place / "pysandbox", place / "pysandbox-cold"
        shutil.copy(launcher, self.program)
        self.write_cold(STUB)
        self.directory = place / "server"
        self.started: list[subprocess.Popen[str]] = []

    def write_cold(self, text: str) -> None:
        self.cold.write_text(text)
        self.cold.chmod(0o755)

    @property
    def key(self) -> str:
        return key_of(self.cold)

    def environment(self) -> dict[str, str]:
        return {"PATH": os.defpath, "PYSANDBOX_WARM": str(self.directory)}

    def start(self, *args: str | bytes, **keywords: Any) -> subprocess.Popen[str]:
        keywords = {"env": self.environment(), "stdout": subprocess.PIPE, "stderr": subprocess.PIPE, **keywords}
        process = subprocess.Popen([self.program, *args], stdin=subprocess.DEVNULL, text=True, **keywords)
        self.started.append(process)
        return process

    def run(self, *args: str | bytes, **keywords: Any) -> tuple[int, str, str]:
        return end(self.start(*args, **keywords))


def end(process: subprocess.Popen[str], seconds: float = 20) -> tuple[int, str, str]:
    """Return exit code and outputs."""
    out, err = process.communicate(timeout=seconds)
    return process.returncode, out, err


class Conversation:
    """The server's end of a connection."""

    def __init__(self, connection: socket.socket) -> None:
        self.connection = connection
        self.received: list[int] = []
        self.request, (self.claim, self.life, self.cwd, self.proof) = self.hear()
        given = _taken(connection, self.request["descriptors"])
        # What the caller gave; kept open, its pipes would not end with the launcher.
        self.given = [os.fstat(descriptor) for descriptor in given]
        for descriptor in given:
            os.close(descriptor)
        connection.settimeout(10)

    def hear(self) -> tuple[dict[str, Any], list[int]]:
        message, descriptors = receive(self.connection)
        self.received += descriptors
        return message, descriptors

    def take(self) -> None:
        assert os.eventfd_read(self.claim) == 1

    def serve(self, pid: int | None = None) -> None:
        """Claim the command, and give the pidfd of the process that signals are to go to."""
        self.take()
        pidfd = os.pidfd_open(os.getpid() if pid is None else pid)
        send(self.connection, {"serving": True}, [pidfd])
        os.close(pidfd)

    def ask(self, message: dict[str, Any], *descriptors: int) -> dict[str, Any]:
        send(self.connection, message, descriptors)
        return self.hear()[0]

    def spawn(
        self, program: str | None, args: Sequence[str], *descriptors: int, cwd: str = "/", **fields: Any
    ) -> dict[str, Any]:
        """Have a program started: `fields` are those of the message, `descriptors` the ones before the directory."""
        request = {"program": program, "args": args, "env": [], "streams": [0, 1, 2], "group": False, **fields}
        directory = os.open(cwd, os.O_PATH)
        try:
            return self.ask({"spawn": request}, *descriptors, directory)
        finally:
            os.close(directory)

    def shell(self, script: str, **fields: Any) -> int:
        """Have a shell started; its pid."""
        answer = self.spawn("/bin/sh", ["sh", "-c", script], **{"env": ["PATH=" + os.defpath], **fields})
        return int(answer["pid"])

    def reap(self, pid: int) -> int:
        """Wait for a child; its exit code."""
        status = eventually(
            lambda: [found] if (found := self.ask({"reap": pid})["status"]) is not None else None, "end"
        )
        return os.waitstatus_to_exitcode(status[0])

    def exit(self, code: int) -> None:
        send(self.connection, {"exit": code})

    def _close(self, descriptors: Sequence[int]) -> None:
        for descriptor in descriptors:
            self.received.remove(descriptor)
            os.close(descriptor)

    def close(self) -> None:
        self.connection.close()
        self._close(self.received.copy())


def _taken(connection: socket.socket, numbers: list[int]) -> list[int]:
    """Copy descriptors out of the process that has connected."""
    pidfd = connection.getsockopt(socket.SOL_SOCKET, SO_PEERPIDFD)
    try:
        return [pidfd_getfd(pidfd, number) for number in numbers]
    finally:
        os.close(pidfd)


class Server:
    """What listens where the launcher looks."""

    def __init__(self, installation: Installation, backlog: int = 8) -> None:
        installation.directory.mkdir(mode=0o700, exist_ok=True)
        self.listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        self.listener.bind(str(installation.directory / f"{installation.key}.sock"))
        self.listener.listen(backlog)
        self.listener.settimeout(10)
        self.proof = proof.make()
        self.conversations: list[Conversation] = []

    def accept(self) -> Conversation:
        connection, _ = self.listener.accept()
        self.conversations.append(Conversation(connection))
        return self.conversations[-1]

    def nobody_called(self) -> bool:
        self.listener.settimeout(0)
        try:
            self.listener.accept()[0].close()
        except BlockingIOError:
            return True
        return False

    def close(self) -> None:
        for conversation in self.conversations:
            conversation.close()
        self.listener.close()
        with contextlib.suppress(OSError):  # some tests close it themselves
            os.close(proof.NUMBER)


@pytest.fixture
def installation(launcher: Path) -> Iterator[Installation]:
    requires("root")
    place = Path(tempfile.mkdtemp(prefix="psb-launcher-"))  # short enough for a socket, and open to other users
    place.chmod(0o755)
    installation = Installation(launcher, place)
    yield installation
    for process in installation.started:
        if process.poll() is None:
            process.kill()
        process.wait()
        for stream in (process.stdout, process.stderr):
            if stream is not None:
                stream.close()
    shutil.rmtree(place)


@pytest.fixture
def server(installation: Installation) -> Iterator[Server]:
    server = Server(installation)
    yield server
    server.close()


@pytest.fixture
def served(installation: Installation, server: Server) -> tuple[subprocess.Popen[str], Conversation]:
    """A launcher whose command is served by this process."""
    process = installation.start("state", "x")
    conversation = server.accept()
    conversation.serve()
    return process, conversation


Served = tuple[subprocess.Popen[str], Conversation]


@pytest.fixture
def sleeper() -> Iterator[subprocess.Popen[bytes]]:
    """A process that any signal ends."""
    process = subprocess.Popen(["sleep", "100"])
    yield process
    process.kill()
    process.wait()


# -- the request -------------------------------------------------------------------------------------------------------


def test_the_request_tells_what_the_caller_has(installation: Installation, server: Server, tmp_path: Path) -> None:
    place = tmp_path / "place"
    place.mkdir()
    reader, writer = os.pipe()

    def leave() -> None:
        signal.signal(signal.SIGUSR2, signal.SIG_IGN)
        signal.signal(signal.SIGPIPE, signal.SIG_DFL)
        signal.pthread_sigmask(signal.SIG_SETMASK, [signal.SIGUSR1])

    words = ["exec", 'a "b"\\\n\x01', "ä€😀", ""]
    environment = {**installation.environment(), "QUOTED": '"\\', "EMPTY": "", "TÄG": "x"}
    installation.start(
        *words, env=environment, umask=0o27, cwd=place, pass_fds=[writer], restore_signals=False, preexec_fn=leave
    )  # fmt: skip
    conversation = server.accept()

    request = conversation.request
    assert request.pop("program") == "pysandbox"
    assert request.pop("args") == words
    assert sorted(request.pop("env")) == sorted(f"{name}={value}" for name, value in environment.items())
    assert request.pop("umask") == 0o27
    assert request.pop("securebits") == 0
    # Whoever started us with posix_spawn(3) has left 32 and 33, the C library's own, ignored.
    of_others = 1 << signal.SIGXFSZ - 1 | 1 << 32 - 1 | 1 << 33 - 1
    assert request.pop("ignored") & ~of_others == USR2
    assert request.pop("blocked") == USR1
    assert request.pop("descriptors") == [0, 1, 2, writer]
    assert request == {}
    assert os.readlink(f"/proc/self/fd/{conversation.cwd}") == str(place)
    proof.check(conversation.proof, server.proof)
    assert [status.st_ino for status in conversation.given][3] == os.fstat(reader).st_ino
    os.close(reader)
    os.close(writer)


def test_a_closed_standard_input_is_dev_null(installation: Installation, server: Server) -> None:
    installation.start(preexec_fn=lambda: os.close(0))
    conversation = server.accept()

    assert conversation.request["descriptors"] == [0, 1, 2]
    assert conversation.given[0].st_rdev == os.makedev(1, 3)


def test_a_large_environment_is_handed_over(installation: Installation, server: Server) -> None:
    large = {f"V{number}": "x" * 100_000 for number in range(10)}
    installation.start(env={**installation.environment(), **large})

    conversation = server.accept()

    assert set(conversation.request["env"]) >= {f"{name}={value}" for name, value in large.items()}


def test_the_death_of_the_launcher_hangs_up_the_pipe(served: Served) -> None:
    process, conversation = served
    os.set_blocking(conversation.life, False)
    with pytest.raises(BlockingIOError):
        os.read(conversation.life, 1)

    process.kill()
    process.wait(10)

    assert os.read(conversation.life, 1) == b""


# -- what it does when asked -------------------------------------------------------------------------------------------


def test_the_exit_code_is_the_commands(served: Served) -> None:
    process, conversation = served

    conversation.exit(42)

    assert end(process) == (42, "", "")


def test_a_program_gets_what_it_was_given(served: Served, tmp_path: Path) -> None:
    process, conversation = served
    reader, writer = os.pipe()

    answer = conversation.spawn(
        "/bin/sh", ["name", "-c", 'echo "$0 $A $(pwd -P)"; env', "one"], writer,
        env=["A=b"], streams=[0, -1, 2], cwd=str(tmp_path),
    )  # fmt: skip

    os.close(writer)
    with open(reader, encoding="utf-8") as output:
        lines = output.read().splitlines()
    assert lines[0] == f"one b {tmp_path}"
    assert "A=b" in lines[1:]
    assert not any(line.startswith("PYSANDBOX") for line in lines)
    assert conversation.reap(answer["pid"]) == 0
    conversation.exit(0)
    assert end(process) == (0, "", "")


def test_a_program_can_be_a_descriptor(served: Served) -> None:
    process, conversation = served
    program = os.open("/bin/sh", os.O_PATH)

    answer = conversation.spawn(None, ["sh", "-c", "echo said"], program)

    os.close(program)
    assert conversation.reap(answer["pid"]) == 0
    conversation.exit(0)
    assert end(process) == (0, "said\n", "")


def test_without_an_environment_a_program_has_the_launchers(installation: Installation, server: Server) -> None:
    process = installation.start(env={**installation.environment(), "MARK": "mine"})
    conversation = server.accept()
    conversation.serve()

    assert conversation.reap(conversation.shell('echo "$MARK"', env=None)) == 0

    conversation.exit(0)
    assert end(process)[1] == "mine\n"


def test_streams_may_change_places(served: Served) -> None:
    process, conversation = served

    assert conversation.reap(conversation.shell("echo out; echo err >&2", streams=[0, 2, 1])) == 0

    conversation.exit(0)
    assert end(process) == (0, "err\n", "out\n")


def test_many_sent_streams_keep_their_order(served: Served, tmp_path: Path) -> None:
    _, conversation = served
    files = [tmp_path / str(number) for number in range(20)]
    descriptors = [os.open(file, os.O_WRONLY | os.O_CREAT) for file in files]
    numbers = [-1 - number for number in range(20)]
    script = (
        "for n in /proc/self/fd/*; do n=${n##*/}; [ $n -gt 2 ] && [ $n -lt 23 ] && echo $n > /proc/self/fd/$n; done"
    )

    answer = conversation.spawn("/bin/bash", ["bash", "-c", script], *descriptors, streams=[0, 1, 2, *numbers])

    for descriptor in descriptors:
        os.close(descriptor)
    conversation.reap(answer["pid"])
    assert [file.read_text() for file in files] == [f"{number}\n" for number in range(3, 23)]


def test_a_program_gets_no_other_descriptor(installation: Installation, server: Server) -> None:
    inherited = os.open("/etc/passwd", os.O_RDONLY)
    process = installation.start(pass_fds=[inherited])
    conversation = server.accept()
    conversation.serve()

    assert conversation.reap(conversation.shell("exec ls -l /proc/self/fd")) == 0

    os.close(inherited)
    conversation.exit(0)
    lines = [line for line in end(process)[1].splitlines() if " -> " in line and "/proc/" not in line]
    assert len(lines) == 3, lines


def test_a_programs_signals_are_at_their_default(installation: Installation, server: Server) -> None:
    def leave() -> None:
        signal.signal(signal.SIGUSR2, signal.SIG_IGN)
        signal.signal(signal.SIGPIPE, signal.SIG_IGN)
        signal.pthread_sigmask(signal.SIG_SETMASK, [signal.SIGUSR1])

    process = installation.start(restore_signals=False, preexec_fn=leave)
    conversation = server.accept()
    conversation.serve()

    answer = conversation.spawn("/bin/grep", ["grep", "-E", "^Sig(Blk|Ign)", "/proc/self/status"])

    assert conversation.reap(answer["pid"]) == 0
    conversation.exit(0)
    blocked, ignored = (int(line.split()[1], 16) for line in end(process)[1].splitlines())
    assert blocked == 0
    assert ignored & ~THREADS == 0


def test_a_program_can_lead_a_group(served: Served) -> None:
    _, conversation = served

    leader, member = (conversation.shell("exec sleep 100", group=group) for group in (True, False))

    assert os.getpgid(leader) == leader
    assert os.getpgid(member) == os.getpgid(os.getpid())
    for pid in (leader, member):
        os.kill(pid, signal.SIGKILL)
        assert conversation.reap(pid) == -signal.SIGKILL


@pytest.mark.parametrize(
    ("program", "errno"), [("/nonexistent/x", 2), ("true", 2), ("/etc/passwd", 13), ("/", 13)], ids=str
)
def test_what_cannot_be_executed_tells_why_and_leaves_no_child(served: Served, program: str, errno: int) -> None:
    process, conversation = served

    assert conversation.spawn(program, ["x"]) == {"errno": errno}

    assert list(children(process.pid)) == []


def test_a_child_is_the_launchers_own(served: Served) -> None:
    process, conversation = served

    pid = conversation.shell("exec sleep 100")

    assert list(children(process.pid)) == [pid]
    assert conversation.ask({"reap": pid}) == {"status": None}
    assert conversation.ask({"is_child": pid}) == {"is_child": True}
    assert conversation.ask({"is_child": 1}) == {"is_child": False}
    os.kill(pid, signal.SIGTERM)
    assert conversation.reap(pid) == -signal.SIGTERM
    assert conversation.ask({"is_child": pid}) == {"is_child": False}
    assert conversation.ask({"reap": pid}) == {"errno": 10}


def test_an_ended_child_waits_to_be_reaped(served: Served) -> None:
    _, conversation = served
    pid = conversation.shell("exit 7")

    eventually(lambda: "Z" in Path(f"/proc/{pid}/stat").read_text().split()[2], "the child has ended")

    assert conversation.ask({"is_child": pid}) == {"is_child": True}
    assert conversation.ask({"reap": pid}) == {"status": 7 << 8}


def test_orphans_of_an_attended_child_are_reaped(served: Served) -> None:
    process, conversation = served
    assert conversation.ask({"adopt": True}) == {"adopted": True}
    pid = conversation.shell("(sleep 0.3 & sleep 0.1 &) ; exec sleep 100")
    eventually(lambda: len(list(children(process.pid))) == 3, "the orphans have come")

    assert conversation.ask({"attend": pid}) == {"attending": True}

    eventually(lambda: list(children(process.pid)) == [pid], "the orphans are reaped")
    os.kill(pid, signal.SIGKILL)
    assert conversation.reap(pid) == -signal.SIGKILL


def test_what_is_started_while_attending_is_the_servers_to_reap(served: Served) -> None:
    process, conversation = served
    pid = conversation.shell("exec sleep 100")
    assert conversation.ask({"attend": pid}) == {"attending": True}

    other = conversation.shell("exit 7")
    eventually(lambda: "Z" in Path(f"/proc/{other}/stat").read_text().split()[2], "it has ended")
    process.send_signal(signal.SIGCHLD)
    assert conversation.ask({"attend": pid}) == {"attending": True}

    assert conversation.ask({"reap": other}) == {"status": 7 << 8}
    os.kill(pid, signal.SIGKILL)
    assert conversation.reap(pid) == -signal.SIGKILL


def test_a_caller_that_ignores_sigchld_can_attend_all_the_same(installation: Installation, server: Server) -> None:
    installation.start(preexec_fn=lambda: signal.signal(signal.SIGCHLD, signal.SIG_IGN))
    conversation = server.accept()
    conversation.serve()
    pid = conversation.shell("sleep 0.3; exit 7")

    assert conversation.ask({"attend": pid}) == {"attending": True}

    assert conversation.reap(pid) == 7


# -- signals -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "number", [signal.SIGHUP, signal.SIGINT, signal.SIGTERM, signal.SIGUSR1, signal.SIGSEGV, 40, 64]
)
def test_a_signal_is_passed_on_and_ends_both(
    installation: Installation, server: Server, sleeper: subprocess.Popen[bytes], number: int
) -> None:
    process = installation.start()
    conversation = server.accept()
    conversation.serve(sleeper.pid)
    conversation.ask({"is_child": 1})  # it has read that it is served

    process.send_signal(number)

    assert sleeper.wait(10) == -number
    conversation.close()
    assert end(process) == (-number, "", "")


def test_the_end_of_the_process_is_seen_while_others_hold_its_connection(
    installation: Installation, server: Server, sleeper: subprocess.Popen[bytes]
) -> None:
    process = installation.start()
    server.accept().serve(sleeper.pid)

    sleeper.kill()

    assert end(process) == (1, "", DIED)


def test_a_signal_that_the_command_survives_ends_nothing(installation: Installation, server: Server) -> None:
    process = installation.start()
    conversation = server.accept()
    conversation.serve()
    taken = signal.signal(signal.SIGUSR1, lambda *_: None)
    try:
        process.send_signal(signal.SIGUSR1)
        conversation.ask({"is_child": 1})
        conversation.exit(3)
        assert end(process) == (3, "", "")
    finally:
        signal.signal(signal.SIGUSR1, taken)


def test_a_signal_that_the_caller_blocks_is_not_passed_on(
    installation: Installation, server: Server, sleeper: subprocess.Popen[bytes]
) -> None:
    process = installation.start(preexec_fn=lambda: signal.pthread_sigmask(signal.SIG_BLOCK, [signal.SIGTERM]))
    conversation = server.accept()
    conversation.serve(sleeper.pid)

    process.send_signal(signal.SIGTERM)
    for _ in range(3):
        conversation.ask({"is_child": 1})

    assert sleeper.poll() is None
    conversation.exit(0)
    assert end(process) == (0, "", "")


def test_a_signal_before_anything_is_decided_acts_on_the_cold_command(
    installation: Installation, server: Server
) -> None:
    process = installation.start()
    conversation = server.accept()

    process.send_signal(signal.SIGTERM)
    send(conversation.connection, {"cold": "a test"})

    assert end(process) == (-signal.SIGTERM, "", "")


def test_a_signal_passed_on_in_vain_acts_on_the_cold_command(
    installation: Installation, server: Server, sleeper: subprocess.Popen[bytes]
) -> None:
    process = installation.start()
    conversation = server.accept()
    conversation.serve(sleeper.pid)
    conversation.ask({"is_child": 1})
    process.send_signal(signal.SIGSTOP)
    os.waitid(os.P_PID, process.pid, os.WSTOPPED)
    process.send_signal(signal.SIGTERM)
    process.send_signal(signal.SIGCONT)
    assert sleeper.wait(10) == -signal.SIGTERM

    with contextlib.suppress(Closed):
        send(conversation.connection, {"cold": "a test"})

    assert end(process) == (-signal.SIGTERM, "", "")


# -- going cold --------------------------------------------------------------------------------------------------------


def test_without_a_server_the_command_runs_cold(installation: Installation) -> None:
    installation.directory.mkdir(mode=0o700)
    Path(installation.directory, f"{installation.key}.lock").touch()  # so that none is started

    assert installation.run("state", "x y") == (0, "cold state x y\n", "")


#: Tells how it was started. No shell could: they change masks and actions first.
MIRROR = """#!/usr/bin/perl
printf "%s %04o %s %d\\n", $ENV{MARK}, umask, readlink("/proc/self/cwd"), $$;
open F, "/proc/self/status"; print grep /^Sig(Blk|Ign)/, <F>; close F;
for (glob "/proc/self/fd/*") { print "$_ -> ", readlink($_), "\\n" }
"""


def test_a_cold_command_is_as_its_caller_started_it(installation: Installation, server: Server, tmp_path: Path) -> None:
    installation.write_cold(MIRROR)
    server.close()
    server = Server(installation)
    inherited = os.open("/etc/passwd", os.O_RDONLY)

    def leave() -> None:
        signal.signal(signal.SIGUSR2, signal.SIG_IGN)
        signal.signal(signal.SIGPIPE, signal.SIG_DFL)
        signal.signal(signal.SIGXFSZ, signal.SIG_DFL)
        signal.pthread_sigmask(signal.SIG_SETMASK, [signal.SIGUSR1])

    process = installation.start(
        env={**installation.environment(), "MARK": "mine"}, umask=0o27, cwd=tmp_path, pass_fds=[inherited],
        restore_signals=False, preexec_fn=leave,
    )  # fmt: skip
    server.accept().close()  # only now: it has opened all that it opens

    code, out, _ = end(process)
    server.close()
    os.close(inherited)
    first, blocked, ignored, *descriptors = out.splitlines()
    assert code == 0
    assert first == f"mine 0027 {tmp_path} {process.pid}"
    assert int(blocked.split()[1], 16) & USR1
    assert int(ignored.split()[1], 16) & (HUP | USR1 | USR2 | PIPE) == USR2
    links = (line.split(" -> ") for line in descriptors)
    opened = {link.rpartition("/")[2] for link, target in links if target and "/proc/" not in target}
    script = {"3"}  # the kernel hands it to the interpreter by name, and perl opens it
    assert opened - script == {"0", "1", "2", str(inherited)} - script


@pytest.mark.parametrize("message", [{"cold": "a test"}, {"odd": 1}, [], {"serving": True}], ids=str)
def test_a_server_that_does_not_serve_makes_it_cold(installation: Installation, server: Server, message: Any) -> None:
    process = installation.start("x")

    send(server.accept().connection, message)

    assert end(process) == (0, "cold x\n", "")


@pytest.mark.parametrize(
    "data",
    [b"", b"\0", b"\xff\xff\xff\xff", struct.pack("<I", 16 * 2**20 + 1), struct.pack("<I", 3) + b"{}\xff", b"\0\0\0\0"],
    ids=repr,
)
def test_garbage_makes_it_cold_as_long_as_nobody_has_the_command(
    installation: Installation, server: Server, data: bytes
) -> None:
    process = installation.start("x")
    conversation = server.accept()

    conversation.connection.sendall(data)
    conversation.close()

    assert end(process) == (0, "cold x\n", "")


@pytest.mark.parametrize("data", [b"\xff\xff\xff\xff", struct.pack("<I", 3) + b"{}\xff", b"\0\0\0\0"], ids=repr)
@pytest.mark.parametrize("serving", [False, True])
def test_garbage_from_who_has_the_command_is_the_end(
    installation: Installation, server: Server, data: bytes, serving: bool
) -> None:
    process = installation.start("x")
    conversation = server.accept()
    conversation.serve() if serving else conversation.take()

    conversation.connection.sendall(data)

    code, out, err = end(process)
    assert (code, out) == (1, "")
    assert err.count("\n") == 1
    assert "does not keep to the protocol" in err


@pytest.mark.parametrize("serving", [False, True])
def test_the_death_of_who_has_the_command_is_told(installation: Installation, server: Server, serving: bool) -> None:
    process = installation.start("x")
    conversation = server.accept()
    conversation.serve() if serving else conversation.take()

    conversation.close()

    assert end(process) == (1, "", DIED)


@pytest.mark.parametrize("serving", [False, True])
def test_the_command_can_be_given_back_before_any_effect(
    installation: Installation, server: Server, serving: bool
) -> None:
    process = installation.start("x")
    conversation = server.accept()
    conversation.serve() if serving else conversation.take()

    send(conversation.connection, {"cold": "a test"})

    assert end(process) == (0, "cold x\n", "")


def test_a_command_with_an_effect_cannot_be_given_back(served: Served) -> None:
    process, conversation = served
    conversation.reap(conversation.shell("true"))

    send(conversation.connection, {"cold": "a test"})

    code, out, err = end(process)
    assert (code, out) == (1, "")
    assert "does not keep to the protocol" in err


@pytest.mark.parametrize(
    "fields",
    [{"streams": [-1]}, {"streams": [99]}, {"program": None}, {"streams": "x"}, {"args": None}, {"more": 1}],
    ids=str,
)
def test_a_request_for_what_there_is_not_is_the_end(served: Served, fields: dict[str, Any]) -> None:
    process, conversation = served

    with pytest.raises(Closed):
        conversation.spawn(**{"program": "/bin/true", "args": ["true"], **fields})

    code, out, err = end(process)
    assert (code, out) == (1, "")
    assert "does not keep to the protocol" in err


# -- standing for a process that lives long ----------------------------------------------------------------------------


def test_it_leads_a_session_of_its_own(served: Served) -> None:
    process, conversation = served
    assert os.getsid(process.pid) != process.pid

    assert conversation.ask({"session": True}) == {"session": True}

    assert os.getsid(process.pid) == process.pid


def test_it_enters_a_network_namespace_and_a_cgroup(served: Served, tmp_path: Path) -> None:
    process, conversation = served
    tasks = os.open(tmp_path / "tasks", os.O_CREAT | os.O_WRONLY)
    holder = subprocess.Popen(["unshare", "--net", "sleep", "100"])
    ours = os.stat("/proc/self/ns/net").st_ino
    try:
        eventually(lambda: os.stat(f"/proc/{holder.pid}/ns/net").st_ino != ours, "there is a namespace")
        network = os.open(f"/proc/{holder.pid}/ns/net", os.O_RDONLY)

        answer = conversation.ask({"enter": ["tasks", "network"]}, tasks, network)

        assert answer == {"entered": True}
        assert (tmp_path / "tasks").read_text() == "0"
        assert os.fstat(network).st_ino == os.stat(f"/proc/{process.pid}/ns/net").st_ino
        os.close(network)
    finally:
        os.close(tasks)
        holder.kill()
        holder.wait()


def test_what_it_cannot_enter_is_told(served: Served) -> None:
    _, conversation = served
    null = os.open("/dev/null", os.O_RDONLY)
    try:
        assert conversation.ask({"enter": ["network"]}, null) == {"errno": errno.EINVAL}
    finally:
        os.close(null)


def test_to_enter_what_does_not_come_with_it_is_the_end(served: Served) -> None:
    process, conversation = served

    with pytest.raises(Closed):
        conversation.ask({"enter": ["tasks", "network"]})

    code, _, err = end(process)
    assert code == 1
    assert "does not keep to the protocol" in err


def test_it_ends_with_the_last_code_when_the_process_has_ended_and_not_before(
    installation: Installation, server: Server, sleeper: subprocess.Popen[bytes]
) -> None:
    process = installation.start()
    conversation = server.accept()
    conversation.serve(sleeper.pid)
    assert conversation.ask({"last": 137}) == {"last": True}
    assert conversation.ask({"last": 42}) == {"last": True}

    conversation.close()  # as the kernel closes it a little before the process has ended
    with pytest.raises(subprocess.TimeoutExpired):
        process.wait(0.2)
    sleeper.kill()

    assert end(process) == (42, "", "")


def test_the_launchers_own_descriptors_cannot_be_named(served: Served) -> None:
    process, conversation = served
    own = [int(number) for number in os.listdir(f"/proc/{process.pid}/fd") if int(number) > 2]
    assert own

    with pytest.raises(Closed):
        conversation.spawn("/bin/true", ["true"], streams=[own[0]])

    assert end(process)[0] == 1


def test_silence_makes_it_cold_after_a_second(installation: Installation, server: Server) -> None:
    began = time.monotonic()
    process = installation.start("x")
    conversation = server.accept()

    assert end(process) == (0, "cold x\n", "")

    assert 0.9 < time.monotonic() - began < 4
    with pytest.raises(BlockingIOError):
        os.eventfd_read(conversation.claim)


def test_silence_of_who_has_the_command_ends_after_six_seconds(installation: Installation, server: Server) -> None:
    began = time.monotonic()
    process = installation.start("x")
    server.accept().take()

    assert end(process) == (1, "", "pysandbox: the process that serves this command does not answer\n")

    assert 5.9 < time.monotonic() - began < 10


def test_who_is_late_but_has_the_command_may_serve_it(installation: Installation, server: Server) -> None:
    process = installation.start("x")
    conversation = server.accept()
    conversation.take()
    time.sleep(1.3)
    pidfd = os.pidfd_open(os.getpid())

    send(conversation.connection, {"serving": True}, [pidfd])
    os.close(pidfd)
    conversation.exit(5)

    assert end(process) == (5, "", "")


def test_a_full_queue_makes_it_cold_at_once(installation: Installation) -> None:
    server = Server(installation, backlog=0)
    waiting = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    waiting.connect(server.listener.getsockname())

    began = time.monotonic()
    assert installation.run("x") == (0, "cold x\n", "")

    assert time.monotonic() - began < 0.9
    waiting.close()
    server.close()


# -- whom it trusts ----------------------------------------------------------------------------------------------------


def spoil_mode(directory: Path) -> None:
    directory.chmod(0o750)


def spoil_owner(directory: Path) -> None:
    os.chown(directory, 65534, 0)


def spoil_name(directory: Path) -> None:
    real = directory.with_name(directory.name + ".real")
    directory.rename(real)
    directory.symlink_to(real)


@pytest.mark.parametrize("spoil", [spoil_mode, spoil_owner, spoil_name])
def test_a_directory_that_others_could_have_made_is_not_used(
    installation: Installation, server: Server, spoil: Callable[[Path], None]
) -> None:
    spoil(installation.directory)

    assert installation.run("x") == (0, "cold x\n", "")

    assert server.nobody_called()


def test_a_server_that_is_not_roots_gets_no_request(installation: Installation, server: Server) -> None:
    os.seteuid(65534)
    try:
        server.listener.listen(8)  # SO_PEERCRED is who called listen(2) last
    finally:
        os.seteuid(0)

    assert installation.run("x") == (0, "cold x\n", "")

    connection, _ = server.listener.accept()
    assert connection.recv(1) == b""
    connection.close()


@pytest.mark.parametrize(
    "variables",
    [
        {"PYSANDBOX_WARM": "off"}, {"PYSANDBOX_WARM": "relative"}, {"NOTIFY_SOCKET": "/run/x"}, {b"BAD": b"\xff"},
        {b"\xff": b""},
    ],
    ids=str,
)  # fmt: skip
def test_some_environments_mean_cold(installation: Installation, server: Server, variables: dict[Any, Any]) -> None:
    assert installation.run("x", env={**installation.environment(), **variables}) == (0, "cold x\n", "")
    assert server.nobody_called()


def test_listen_pid_means_cold_for_that_process_only(installation: Installation, server: Server) -> None:
    script = f"export LISTEN_PID=$$; exec {installation.program} x"

    done = subprocess.run(
        ["sh", "-c", script], env=installation.environment(), capture_output=True, text=True, timeout=20, check=False
    )

    assert (done.stdout, server.nobody_called()) == ("cold x\n", True)
    installation.start(env={**installation.environment(), "LISTEN_PID": "1"})
    server.listener.settimeout(10)
    assert "LISTEN_PID=1" in server.accept().request["env"]


def test_an_argument_that_is_not_utf8_means_cold(installation: Installation, server: Server) -> None:
    process = subprocess.run(
        [installation.program, b"\xff"], env=installation.environment(), capture_output=True, timeout=20, check=False
    )

    assert process.stdout == b"cold \xff\n"
    assert server.nobody_called()


def test_another_user_goes_cold(installation: Installation, server: Server) -> None:
    assert installation.run("x", user=65534) == (0, "cold x\n", "")
    assert server.nobody_called()


def test_too_many_descriptors_mean_cold(installation: Installation, server: Server) -> None:
    many = [os.open("/dev/null", os.O_RDONLY) for _ in range(198)]
    try:
        assert installation.run("x", pass_fds=many) == (0, "cold x\n", "")
        assert server.nobody_called()
        server.listener.settimeout(10)

        installation.start("x", pass_fds=many[:197])

        assert len(server.accept().given) == 200
    finally:
        for descriptor in many:
            os.close(descriptor)


# -- its own file ------------------------------------------------------------------------------------------------------


def test_without_its_script_it_says_what_to_do(installation: Installation) -> None:
    installation.cold.unlink()

    code, out, err = installation.run("x")

    assert (code, out) == (1, "")
    assert err == (
        f"pysandbox: {installation.cold}: no such file or directory (the script or its interpreter): "
        "run `make setup` or `make install` again\n"
    )


def test_a_copy_elsewhere_belongs_to_the_installation_on_the_path(installation: Installation, tmp_path: Path) -> None:
    copy = tmp_path / "elsewhere" / "pysandbox"
    copy.parent.mkdir()
    shutil.copy(installation.program, copy)
    place = installation.program.parent
    place.chmod(0o755)
    environment = {"PATH": f"relative:{place}", "PYSANDBOX_WARM": "off"}

    done = subprocess.run([copy, "x"], env=environment, capture_output=True, text=True, timeout=20, check=False)

    assert (done.returncode, done.stdout, done.stderr) == (0, "cold x\n", "")


@pytest.mark.parametrize("open_to_all", ["directory", "script"])
def test_a_copy_trusts_nothing_that_others_may_write(
    installation: Installation, tmp_path: Path, open_to_all: str
) -> None:
    copy = tmp_path / "elsewhere" / "pysandbox"
    copy.parent.mkdir()
    shutil.copy(installation.program, copy)
    place = installation.program.parent
    place.chmod(0o777 if open_to_all == "directory" else 0o755)
    installation.cold.chmod(0o777 if open_to_all == "script" else 0o755)
    environment = {"PATH": str(place), "PYSANDBOX_WARM": "off"}

    done = subprocess.run([copy, "x"], env=environment, capture_output=True, text=True, timeout=20, check=False)

    assert done.returncode == 1
    assert done.stderr.startswith(f"pysandbox: {copy}-cold: no such file or directory")


def test_a_link_leads_to_the_installation(installation: Installation, server: Server, tmp_path: Path) -> None:
    link = tmp_path / "runc"
    link.symlink_to(installation.program)
    process = subprocess.Popen([link, "x"], env=installation.environment(), stdout=subprocess.PIPE, text=True)
    installation.started.append(process)

    conversation = server.accept()
    assert conversation.request["program"] == "pysandbox"
    send(conversation.connection, {"cold": "a test"})

    assert end(process)[1] == "cold x\n"


def test_a_launcher_that_is_replaced_finds_its_script(installation: Installation, server: Server) -> None:
    process = installation.start("x")
    conversation = server.accept()
    installation.program.unlink()

    send(conversation.connection, {"cold": "a test"})

    assert end(process)[1] == "cold x\n"


# -- starting a server -------------------------------------------------------------------------------------------------

#: As `server` it writes down what it was started with; for anything else it is the usual stub.
RECORDER = """#!/bin/bash
if [ "$1" != server ]; then echo cold "$@"; exit; fi
{
    printf '%%s\\n' "$@"; echo --; tr '\\0' '\\n' < /proc/$$/environ; echo --; umask; pwd -P; ps -o sid= -p $$
    grep -E '^Sig(Blk|Ign)' /proc/$$/status; ls -l /proc/$$/fd
} > %(record)s.new 2>&1
mv %(record)s.new %(record)s
"""


def needs_the_host() -> None:
    """Skip where the launcher starts no server by design."""
    for kind in ("mnt", "net", "ipc", "uts", "pid", "user", "cgroup", "time"):
        ours = os.readlink(f"/proc/self/ns/{kind}")
        try:
            its = os.readlink(f"/proc/1/ns/{kind}")
        except PermissionError:
            if not 0xEFFFFFF8 <= int(ours.strip("]").split("[")[1]) <= 0xEFFFFFFF:
                pytest.skip(f"cannot tell whether this is the {kind} namespace of PID 1")
            continue
        if ours != its:
            pytest.skip(f"not in the {kind} namespace of PID 1")


@pytest.fixture
def record(installation: Installation, tmp_path: Path) -> Path:
    record = tmp_path / "record"
    installation.write_cold(RECORDER % {"record": record})
    return record


def test_where_there_is_no_server_one_is_started(installation: Installation, record: Path, tmp_path: Path) -> None:
    needs_the_host()
    inherited = os.open("/etc/passwd", os.O_RDONLY)

    done = installation.run(
        "x", env={**installation.environment(), "PATH": "/nonexistent", "MARK": "mine", "PYTHONPATH": "/tmp"}, umask=0o77,
        cwd=tmp_path, pass_fds=[inherited], preexec_fn=lambda: signal.pthread_sigmask(signal.SIG_BLOCK, [signal.SIGTERM]),
    )  # fmt: skip

    os.close(inherited)
    assert done == (0, "cold x\n", "")
    eventually(record.exists, "the server has started")
    words, environment, rest = record.read_text().split("--\n")
    assert words.splitlines() == ["server", "serve", str(installation.directory), installation.key]
    assert [line.split("=")[0] for line in environment.splitlines()] == ["PATH"]
    assert "nonexistent" not in environment
    umask, cwd, session, blocked, ignored, *descriptors = rest.splitlines()
    assert (umask, cwd) == ("0022", "/")
    assert int(session) != os.getsid(0)
    assert {int(line.split()[1], 16) & (HUP | 1 << signal.SIGTERM - 1) for line in (blocked, ignored)} == {0}
    targets = [line.split(" -> ")[1] for line in descriptors if " -> " in line and "pysandbox-cold" not in line]
    assert set(targets) <= {"/dev/null", f"{record}.new"}
    assert installation.directory.stat().st_mode & 0o7777 == 0o700


def test_no_second_server_is_started_within_five_seconds(installation: Installation, record: Path) -> None:
    needs_the_host()
    installation.run("x")
    eventually(record.exists, "the server has started")
    record.unlink()

    assert installation.run("x") == (0, "cold x\n", "")

    time.sleep(0.3)
    assert not record.exists()
    lock = installation.directory / f"{installation.key}.lock"
    os.utime(lock, (time.time() - 6,) * 2)
    installation.run("x")
    eventually(record.exists, "a server is started again")


@pytest.mark.parametrize("kind", ["--uts", "--mount", "--net", "--ipc", "--cgroup"])
def test_no_server_is_started_in_other_namespaces(installation: Installation, record: Path, kind: str) -> None:
    requires("command unshare")

    done = subprocess.run(
        ["unshare", kind, installation.program, "x"], env=installation.environment(), stdout=subprocess.PIPE, text=True,
        timeout=20, check=True,
    )  # fmt: skip

    assert done.stdout == "cold x\n"
    time.sleep(0.2)
    assert not installation.directory.exists()
    assert not record.exists()


def test_a_dead_servers_socket_starts_another(installation: Installation, record: Path) -> None:
    needs_the_host()
    server = Server(installation)
    server.close()

    assert installation.run("x") == (0, "cold x\n", "")

    eventually(record.exists, "the server has started")


def test_the_caller_hears_nothing_of_the_server(installation: Installation) -> None:
    """Not its output, not a child, not a SIGCHLD: the cold command waits for children of its own."""
    needs_the_host()
    installation.write_cold(
        "#!/usr/bin/perl\n"
        'if (($ARGV[0] // "") eq "server") { print "server\\n"; exit }\n'
        'open F, "/proc/self/status"; print grep /^(SigPnd|ShdPnd)/, <F>; print wait, "\\n";\n'
    )

    done = installation.run(preexec_fn=lambda: signal.pthread_sigmask(signal.SIG_BLOCK, [signal.SIGCHLD]))

    zero = "0" * 16
    assert done == (0, f"SigPnd:\t{zero}\nShdPnd:\t{zero}\n-1\n", "")
