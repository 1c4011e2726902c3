"""Hostile words on both sides: what a spare makes of odd requests, and a launcher of an odd server.

A spare must survive to say no, and the server must not notice; a launcher must do its command all the same.
"""

from __future__ import annotations

import contextlib
import json
import os
import random
import shutil
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from harness.confine import call_server
from harness.installation import Installation, eventually
from harness.runtime import PROJECT, Result
from precondition import requires

from pysandbox.warm import proof

pytestmark = pytest.mark.skipif(os.geteuid() != 0, reason="requires root")

LIMIT = 10.0


@pytest.fixture(scope="module")
def installation() -> Iterator[Installation]:
    """An installation with its server."""
    made = Installation()
    yield made.serve()
    made.remove()


@pytest.fixture(autouse=True)
def unharmed(request: pytest.FixtureRequest) -> Iterator[None]:
    """After each test the same server serves; no spare has died without a word."""
    if "installation" not in request.fixturenames:
        yield
        return
    installation = request.getfixturevalue("installation")
    before = installation.settled()
    yield
    assert installation.settled()["pid"] == before["pid"]
    assert call_server(installation.socket, ["--version"]) == [{"serving": True}, {"exit": 0}]


# -- requests ----------------------------------------------------------------------------------------------------------

ODD: dict[str, dict[str, Any]] = {
    "no program": {"program": None},
    "another program": {"program": "../../bin/sh"},
    "args a number": {"args": 7},
    "args null": {"args": None},
    "env a number": {"env": 7},
    "env of lists": {"env": [["="], {}, 7]},
    "a NUL in the environment": {"env": ["A=\0"]},
    "a surrogate in the environment": {"env": ["A=\ud800"]},
    "a name that is empty": {"env": ["=A"]},
    "umask infinite": {"umask": float("inf")},
    "umask not a number": {"umask": float("nan")},
    "umask large": {"umask": 1 << 70},
    "umask a text": {"umask": "x"},
    "umask a list": {"umask": []},
    "securebits large": {"securebits": 1 << 70},
    "ignored a text": {"ignored": "x"},
    "ignored a fraction": {"ignored": 1.5},
    "ignored SIGKILL": {"ignored": 1 << 8},
    "blocked a list": {"blocked": [1]},
    "fewer descriptors": {"descriptors": [0, 1]},
    "a descriptor that is not open": {"descriptors": [0, 1, 2, 400]},
    "descriptors null": {"descriptors": None},
    "a descriptor below zero": {"descriptors": [0, 1, -3]},
    "a descriptor of the server's": {"descriptors": [0, 1, 512]},
    "a descriptor far above": {"descriptors": [0, 1, 1 << 40]},
    "a descriptor infinite": {"descriptors": [0, 1, float("inf")]},
}  # fmt: skip


@pytest.mark.parametrize("what", ODD)
def test_a_request_that_is_none_is_sent_away(installation: Installation, what: str) -> None:
    with installation.counted() as count:
        answers = call_server(installation.socket, ["--version"], request=ODD[what])

    assert [list(answer) for answer in answers] == [["cold"]], answers
    assert (count["served"], len(count["refused"])) == (0, 1)


SERVED: dict[str, dict[str, Any]] = {
    "10,000 variables": {"env": [f"V{number}=" for number in range(10_000)]},
    "entries without a name": {"env": ["A", "", "B=1"]},
    "a surrogate of bytes": {"env": ["A=\udcff"]},
    "every signal blocked": {"blocked": -1},
    "signals that there are not": {"blocked": 1 << 200},
    "a descriptor twice": {"descriptors": [2, 0, 1, 2]},
    "what is not known": {"more": [1, 2, 3]},
}


@pytest.mark.parametrize("what", SERVED)
def test_an_odd_request_that_can_be_served_is(installation: Installation, what: str) -> None:
    answers = call_server(installation.socket, ["--version"], request=SERVED[what])

    assert answers == [{"serving": True}, {"exit": 0}]


def body(data: bytes) -> bytes:
    return len(data).to_bytes(4, "little") + data


FRAMES: dict[str, bytes] = {
    "nothing": b"",
    "half a header": b"\1\0",
    "half a frame": b"\xff\0\0\0{",
    "an endless frame": b"\xff\xff\xff\xff",
    "no JSON": body(b"\xff\xfe"),
    "an empty frame": body(b""),
    "a list": body(b"[]"),
    "a number with 5000 digits": body(b'{"umask":' + b"9" * 5000 + b"}"),
    "100,000 brackets": body(b"[" * 100_000),
    "an object without anything": body(b"{}"),
    "garbage": random.Random(3).randbytes(4000),
}


@pytest.mark.parametrize("what", FRAMES)
@pytest.mark.parametrize("descriptors", [0, 4, 250])
def test_bytes_that_are_no_request_are_sent_away_in_time(
    installation: Installation, what: str, descriptors: int
) -> None:
    with raw(installation) as connection, open("/dev/null") as null:
        began = time.monotonic()
        with contextlib.suppress(BrokenPipeError):
            send_raw(connection, FRAMES[what], [null.fileno()] * descriptors)
        answer = read_all(connection)

    assert answer == b"" or list(json.loads(answer[4:])) == ["cold"]
    assert time.monotonic() - began < 3


def test_a_request_that_comes_byte_by_byte_is_not_waited_for(installation: Installation) -> None:
    """A second for the whole, not for each byte."""
    frame = body(b'{"program":"pysandbox"}')
    with raw(installation) as connection:
        began = time.monotonic()
        with contextlib.suppress(BrokenPipeError, ConnectionResetError):
            for byte in frame[:-1]:
                connection.send(bytes([byte]))
                time.sleep(0.2)
        elapsed = time.monotonic() - began

    assert elapsed < 3


@pytest.mark.parametrize("what", ["/dev/zero", "/dev/null"])
def test_a_claim_that_is_no_eventfd_is_its_callers_trouble(installation: Installation, what: str) -> None:
    answers = call_server(installation.socket, ["--version"], claim=what)

    assert len(answers) in (1, 2)


def test_random_requests_do_no_harm(installation: Installation) -> None:
    chance = random.Random(11)
    values: list[Any] = [
        None,
        True,
        -1,
        1 << 80,
        1.5,
        "x",
        "\0",
        "\ud800",
        [],
        [None],
        [[]],
        {},
        {"a": 1},
        ["A=1"],
        [0, 1, 2],
    ]
    names = ["program", "args", "env", "umask", "securebits", "ignored", "blocked", "descriptors", "else"]
    for _ in range(40):
        odd = {name: chance.choice(values) for name in chance.sample(names, chance.randint(1, 3))}
        answers = call_server(installation.socket, ["--version"], request=odd)
        assert list(answers[0]) in (["cold"], ["serving"]), (odd, answers)


@contextlib.contextmanager
def raw(installation: Installation) -> Iterator[socket.socket]:
    """A connection that says nothing by itself."""
    with socket.socket(socket.AF_UNIX) as connection:
        connection.settimeout(LIMIT)
        connection.connect(str(installation.socket))
        yield connection


def send_raw(connection: socket.socket, data: bytes, descriptors: list[int]) -> None:
    if data:
        socket.send_fds(connection, [data], descriptors)
    connection.shutdown(socket.SHUT_WR)


def read_all(connection: socket.socket) -> bytes:
    found = b""
    with contextlib.suppress(ConnectionResetError):
        while piece := connection.recv(65536):
            found += piece
    return found


# -- the server's side, as the launcher sees it ------------------------------------------------------------------------


@pytest.fixture
def alone() -> Iterator[Installation]:
    """An installation without a server. One that a command starts is stopped."""
    made = Installation()
    shutil.rmtree(made.directory)
    yield made
    if made.directory.is_symlink() or made.directory.is_file():
        made.directory.unlink()
    made.remove()


def directory_of_another_user(made: Installation) -> None:
    made.directory.mkdir(mode=0o700)
    os.chown(made.directory, 65534, 65534)


def directory_that_others_may_enter(made: Installation) -> None:
    made.directory.mkdir(mode=0o755)


def directory_that_others_may_write_to(made: Installation) -> None:
    made.directory.mkdir()
    made.directory.chmod(0o1777)


def link_to_a_directory(made: Installation) -> None:
    (made.top / "else").mkdir(mode=0o700)
    made.directory.symlink_to(made.top / "else")


def link_to_nothing(made: Installation) -> None:
    made.directory.symlink_to(made.top / "nothing")


def file(made: Installation) -> None:
    made.directory.write_text("")


def no_parent(made: Installation) -> None:
    made.top.joinpath("lib").touch()
    made.directory = made.top / "nowhere/server"


@pytest.mark.parametrize(
    "make",
    [
        directory_of_another_user, directory_that_others_may_enter, directory_that_others_may_write_to,
        link_to_a_directory, link_to_nothing, file, no_parent,
    ],
)  # fmt: skip
def test_a_directory_that_is_not_roots_alone_is_not_used(
    alone: Installation, make: Callable[[Installation], None]
) -> None:
    make(alone)

    answers = [alone.call("--version") for _ in range(2)]

    assert [answer.code for answer in answers] == [0, 0]
    assert [answer.err for answer in answers] == ["", ""]
    time.sleep(1)
    assert sockets_below(alone.top) == []


def sockets_below(top: Path) -> list[Path]:
    return [path for path in top.rglob("*") if path.is_socket() or path.suffix == ".lock"]


@contextlib.contextmanager
def listening(made: Installation, owner: int = 0, backlog: int = 8) -> Iterator[socket.socket]:
    """A socket of ours where the launcher looks, listened at by a user."""
    made.directory.mkdir(mode=0o700, exist_ok=True)
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(str(made.socket))
        listener.settimeout(LIMIT)
        os.seteuid(owner)
        try:
            listener.listen(backlog)
        finally:
            os.seteuid(0)
        proof.make()
        try:
            yield listener
        finally:
            os.close(proof.NUMBER)


def test_a_socket_of_another_user_gets_no_request(alone: Installation) -> None:
    with listening(alone, owner=65534) as listener:
        answer = alone.call("--version")
        connection, _ = listener.accept()
        connection.settimeout(LIMIT)
        received = connection.recv(1)
        connection.close()

    assert (answer.code, received) == (0, b"")


#: Root that has got hold of the server's directory, and lacks something that the caller has.
CONFINED = {
    "bounding set": ["setpriv", "--bounding-set", "-sys_admin"],
    "no_new_privs": ["setpriv", "--no-new-privs"],
    "inheritable set": ["setpriv", "--inh-caps", "+chown"],
    "user namespace": ["unshare", "--user", "--map-root-user"],
    "pid namespace": ["unshare", "--pid", "--fork", "--kill-child"],
}
IMPOSTOR = """
import socket, sys
sys.path.insert(0, sys.argv[1])
from pysandbox.warm import proof
proof.make()
listener = socket.socket(socket.AF_UNIX)
listener.bind(sys.argv[2])
listener.listen()
print("ready", flush=True)
connection, _ = listener.accept()
connection.settimeout(5)
print(len(connection.recv(1)), flush=True)
"""


@pytest.mark.parametrize("confinement", CONFINED.values(), ids=list(CONFINED))
def test_a_server_with_less_power_than_the_caller_gets_no_request(alone: Installation, confinement: list[str]) -> None:
    answer, received = call_impostor(alone, confinement)

    assert (answer.code, received) == (0, "0")


def test_a_server_with_the_callers_power_gets_the_request(alone: Installation) -> None:
    _, received = call_impostor(alone, [])

    assert received == "1"


def call_impostor(made: Installation, confinement: list[str]) -> tuple[Result, str]:
    """Have a process of that confinement listen in the server's place; return the command's answer and what it got."""
    requires("command setpriv", "command unshare")
    made.directory.mkdir(mode=0o700, exist_ok=True)
    arguments = [sys.executable, "-c", IMPOSTOR, str(PROJECT / "runtime_api"), str(made.socket)]
    with subprocess.Popen([*confinement, *arguments], stdout=subprocess.PIPE, text=True) as impostor:
        assert impostor.stdout is not None
        try:
            assert impostor.stdout.readline() == "ready\n"
            answer = made.call("--version")
            return answer, impostor.stdout.readline().strip()
        finally:
            impostor.kill()


def test_a_listener_that_never_accepts_costs_a_second(alone: Installation) -> None:
    with listening(alone):
        answer = alone.call("--version")

    assert answer.code == 0
    assert 0.9 < answer.seconds < 5


def test_a_full_queue_costs_nothing(alone: Installation) -> None:
    with listening(alone, backlog=0), socket.socket(socket.AF_UNIX) as first:
        first.connect(str(alone.socket))
        answer = alone.call("--version")

    assert answer.code == 0
    assert answer.seconds < 0.9


@pytest.mark.parametrize(
    "said",
    [b"", b"\0\0\0\0", b"\xff\xff\xff\xff", body(b"[]"), body(b'{"exit":0}'), body(b'{"serving":true}'), body(b"\xff"),
     body(b'{"spawn":{}}'), body(b'{"cold":7}'), random.Random(5).randbytes(4000)],
    ids=lambda said: repr(said[:24]),
)  # fmt: skip
@pytest.mark.parametrize("claimed", [False, True])
def test_a_server_that_says_garbage_gets_no_command_done_twice(alone: Installation, said: bytes, claimed: bool) -> None:
    """Not claimed, the command is done cold. Claimed, it may have been done: one line."""
    with listening(alone) as listener:
        thread = threading.Thread(target=lambda: answer_with(listener, said, claimed))
        thread.start()
        answer = alone.call("--version")
        thread.join()

    if claimed:
        assert (answer.code, answer.out) == (1, "")
        assert answer.err.startswith("pysandbox: the process that serve")
        assert answer.err.count("\n") == 1
    else:
        assert (answer.code, answer.err) == (0, "")
        assert answer.out.startswith("pysandbox version")


def answer_with(listener: socket.socket, said: bytes, claimed: bool) -> None:
    connection, _ = listener.accept()
    with connection:
        connection.settimeout(LIMIT)
        _, descriptors, _, _ = socket.recv_fds(connection, 4, 250)
        if claimed:
            os.eventfd_read(descriptors[0])
        with contextlib.suppress(OSError):
            connection.send(said)
        for descriptor in descriptors:
            os.close(descriptor)


def test_a_listener_without_a_proof_gets_no_request(alone: Installation) -> None:
    """It is no server of this version."""
    with listening(alone) as listener:
        os.close(proof.NUMBER)
        answer = alone.call("--version")
        os.dup2(0, proof.NUMBER)
        connection, _ = listener.accept()
        connection.settimeout(LIMIT)
        received = connection.recv(1)
        connection.close()

    assert (answer.code, received) == (0, b"")


@pytest.mark.parametrize("kind", ["file", "directory", "link", "fifo"])
def test_what_takes_the_sockets_place_is_replaced_by_the_next_server(alone: Installation, kind: str) -> None:
    alone.directory.mkdir(mode=0o700)
    {
        "file": lambda: alone.socket.write_text("x"),
        "directory": alone.socket.mkdir,
        "link": lambda: alone.socket.symlink_to("/nothing"),
        "fifo": lambda: os.mkfifo(alone.socket),
    }[kind]()

    answer = alone.call("--version")

    assert (answer.code, answer.err) == (0, "")
    if kind in ("link", "file", "fifo"):
        eventually(lambda: alone.call("--version").code == 0 and served(alone), "a server that serves")
    else:
        assert not served(alone)


def served(made: Installation) -> bool:
    return bool(made.status().get("served"))


def test_a_stale_socket_is_replaced(alone: Installation) -> None:
    with listening(alone):
        pass

    assert alone.call("--version").code == 0

    eventually(lambda: alone.call("--version").code == 0 and served(alone), "a server that serves")


@pytest.mark.parametrize(
    "name", ["x\rboom", "x\rstale 1 over", "x\rpages 1 0+ffffffffffff", "x\nserved 1 ", "x" * 9000]
)
def test_a_reason_to_refuse_is_no_word_to_the_server(installation: Installation, name: str) -> None:
    with installation.counted() as count:
        answers = call_server(installation.socket, [], request={"program": name})

    assert list(answers[0]) == ["cold"]
    assert (count["served"], len(count["refused"])) == (0, 1)
    assert len(count["refused"][0]) <= 200
