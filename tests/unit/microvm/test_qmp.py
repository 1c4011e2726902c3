"""QMP over a socket whose other end is a QEMU, or somebody who has taken it over."""

from __future__ import annotations

import contextlib
import json
import os
import socket
import subprocess
import sys
import threading
import time
from typing import TYPE_CHECKING, Any

import pytest

from pysandbox.errors import DeadlineExceeded, SandboxError, Unavailable
from pysandbox_microvm.qmp import LONGEST_LINE, LONGEST_MESSAGE, Client, QmpError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

GREETING = (
    b'{"QMP": {"version": {"qemu": {"micro": 0, "minor": 2, "major": 7}, "package": ""}, "capabilities": ["oob"]}}'
)


class FakeQemu:
    """Greets, and answers each command by `answer`: None says nothing."""

    def __init__(self) -> None:
        ours, theirs = socket.socketpair()
        self._socket = theirs
        self.commands: list[dict[str, Any]] = []
        self.descriptors: list[int] = []
        self.answers: dict[str, Callable[[dict[str, Any]], bytes | None]] = {}
        self.client = Client(ours)

    def start(self) -> Client:
        self.serve().start()
        return self.client

    def serve(self) -> Client:
        """Answer; the client's library is not there yet."""
        self.say(GREETING)
        threading.Thread(target=self._serve, daemon=True).start()
        return self.client

    def say(self, line: bytes) -> None:
        self._socket.sendall(line + b"\r\n")

    def event(self, name: str, **data: object) -> None:
        self.say(json.dumps({"event": name, "data": data, "timestamp": {}}).encode())

    def hang_up(self) -> None:
        self._socket.shutdown(socket.SHUT_RDWR)

    def _serve(self) -> None:
        text = ""
        while True:
            try:
                data, descriptors, _, _ = socket.recv_fds(self._socket, 65536, 4)
            except OSError:
                return
            self.descriptors += descriptors
            if not data:
                return
            text = (text + data.decode()).lstrip()
            while text:  # commands need not end with a line
                command, end = json.JSONDecoder().raw_decode(text)
                text = text[end:].lstrip()
                self._take(command)

    def _take(self, command: dict[str, Any]) -> None:
        self.commands.append(command)
        answer = self.answers.get(command["execute"], lambda c: json.dumps({"return": {}, "id": c["id"]}).encode())
        if (said := answer(command)) is not None:
            with contextlib.suppress(OSError):  # nobody listens any more
                self.say(said)

    def close(self) -> None:
        self.client.close()
        self._socket.close()
        for descriptor in self.descriptors:
            os.close(descriptor)


@pytest.fixture
def qemu() -> Iterator[FakeQemu]:
    fake = FakeQemu()
    yield fake
    fake.close()


def soon() -> float:
    return time.monotonic() + 5


def test_a_command_is_answered(qemu):
    qemu.answers["query-status"] = lambda c: json.dumps({"return": {"status": "running"}, "id": c["id"]}).encode()
    assert qemu.start().execute("query-status") == {"status": "running"}


def test_what_is_sent_ahead_comes_first_and_in_order(qemu):
    qemu.client.first("migrate-incoming", uri="fd:9")
    client = qemu.start()
    client.execute("query-status")
    assert [each["execute"] for each in qemu.commands] == ["qmp_capabilities", "migrate-incoming", "query-status"]
    assert qemu.commands[1]["arguments"] == {"uri": "fd:9"}


def test_a_command_can_be_sent_ahead_while_the_library_is_being_imported(qemu):
    client = qemu.start()
    client.first("cont")
    client.execute("query-status")
    assert "cont" in [each["execute"] for each in qemu.commands]


def test_a_refused_command_says_so_in_qemus_words(qemu):
    error = {"class": "DeviceNotFound", "desc": "no \x1b[31mdevice"}
    qemu.answers["device_del"] = lambda c: json.dumps({"error": error, "id": c["id"]}).encode()
    with pytest.raises(QmpError, match="qemu: device_del: no ") as caught:
        qemu.start().execute("device_del")
    assert caught.value.kind == "DeviceNotFound"
    assert "\x1b" not in str(caught.value)


def test_one_sent_ahead_that_is_refused_fails_whoever_waits(qemu):
    refusal = {"class": "GenericError", "desc": "no state"}
    qemu.answers["migrate-incoming"] = lambda c: json.dumps({"error": refusal, "id": c["id"]}).encode()
    client = qemu.start()
    client.first("migrate-incoming", uri="fd:9")
    with pytest.raises(QmpError, match="migrate-incoming: no state"):
        client.wait_event(lambda _: False, soon(), "")


def test_silence_has_a_limit_and_is_named(qemu):
    qemu.answers["stop"] = lambda _: None
    client = qemu.start()
    client.wait_ready(soon())
    began = time.monotonic()
    with pytest.raises(DeadlineExceeded, match=r"qemu has not answered stop for 0\.2 s"):
        client.execute("stop", timeout=0.2)
    assert time.monotonic() - began < 2


def test_a_qemu_that_never_greets_has_a_limit(qemu):
    qemu.client.start()
    with pytest.raises(DeadlineExceeded, match="has not opened its monitor"):
        qemu.client.wait_ready(time.monotonic() + 0.5)


def test_events_are_kept_until_somebody_waits_for_them(qemu):
    client = qemu.start()
    qemu.event("DEVICE_DELETED", device="disk1")
    qemu.event("RESUME")
    event = client.wait_event(lambda each: each.get("event") == "DEVICE_DELETED", soon(), "")
    assert event["data"] == {"device": "disk1"}
    with pytest.raises(DeadlineExceeded, match="nothing more"):
        client.wait_event(lambda each: each.get("event") == "DEVICE_DELETED", time.monotonic() + 0.1, "nothing more")
    assert [each["event"] for each in client.events("RESUME")] == ["RESUME"]


def test_a_flood_of_events_is_forgotten(qemu):
    client = qemu.start()
    for number in range(2000):
        qemu.event("NOISE", number=number)
    client.execute("query-status")
    kept = client.events("NOISE")
    assert len(kept) <= 256
    assert kept[-1]["data"] == {"number": 1999}


def test_a_descriptor_goes_with_its_command(qemu):
    reader, writer = os.pipe()
    qemu.start().execute("getfd", {"fdname": "x"}, descriptor=writer)
    os.close(writer)
    (passed,) = qemu.descriptors
    os.write(passed, b"through")
    assert os.read(reader, 10) == b"through"
    os.close(reader)


@pytest.mark.parametrize(
    "said",
    [
        b"not json",
        b"[1, 2, 3]",
        b'"text"',
        b"[" * 100_000 + b"]" * 100_000,
        b'{"return": {}, "id": 7}' + b" " * (LONGEST_MESSAGE + 10),
        b'{"error": {}, "id": "nobody\'s"}',
        b'{"error": {"class": 1, "desc": []}}',
    ],
    ids=["text", "array", "string", "nested", "too long", "another's", "no id"],
)
def test_garbage_in_place_of_an_answer_is_an_error_within_the_limit(qemu, said):
    qemu.answers["stop"] = lambda _: said
    client = qemu.start()
    client.wait_ready(soon())
    with pytest.raises(SandboxError):
        client.execute("stop", timeout=1)


def test_an_answer_whose_error_is_malformed_is_an_error(qemu):
    qemu.answers["stop"] = lambda c: json.dumps({"error": {"class": 1}, "id": c["id"]}).encode()
    with pytest.raises(Unavailable):
        qemu.start().execute("stop", timeout=2)


def test_a_qemu_that_hangs_up_is_noticed_by_all_who_wait(qemu):
    qemu.answers["stop"] = lambda _: qemu.hang_up()
    client = qemu.start()
    client.wait_ready(soon())
    errors = []

    def wait() -> None:
        try:
            client.wait_event(lambda _: False, soon(), "too late")
        except SandboxError as error:
            errors.append(error)

    waiter = threading.Thread(target=wait)
    waiter.start()
    with pytest.raises(Unavailable):
        client.execute("stop", timeout=5)
    waiter.join(5)
    assert isinstance(errors[0], Unavailable)
    with pytest.raises(Unavailable):
        client.execute("query-status")


def test_who_knows_that_qemu_has_ended_says_why_to_all_who_wait(qemu):
    client = qemu.start()
    client.wait_ready(soon())
    client.interrupt(Unavailable("killed by signal 9"))
    with pytest.raises(Unavailable, match="killed by signal 9"):
        client.wait_event(lambda _: False, soon(), "")


def test_closing_ends_the_thread_at_any_time():
    for delay in (0.0, 0.01, 0.3):
        fake = FakeQemu()
        fake.start()
        time.sleep(delay)
        fake.close()
    assert "qmp" not in [thread.name for thread in threading.enumerate()]


def test_nothing_of_it_is_written_to_standard_error():
    program = f"""
import gc, socket, sys, time
sys.path[:0] = sys.argv[1].split(":")
from pysandbox_microvm.qmp import Client
for delay in (0.3, 0, 0.01, 0.02):
    ours, theirs = socket.socketpair()
    client = Client(ours)
    theirs.sendall({GREETING!r} + b"\\r\\n")
    theirs.sendall(b'{{"return": {{}}, "id": 7}}\\r\\n')
    client.start()
    time.sleep(delay)
    client.close()
    gc.collect()
"""
    argv = [sys.executable, "-c", program, ":".join(sys.path)]
    done = subprocess.run(argv, check=False, capture_output=True, timeout=60)
    assert (done.returncode, done.stderr) == (0, b"")


# -- without the library -----------------------------------------------------------------------------------------------


def threads() -> list[str]:
    return [thread.name for thread in threading.enumerate()]


def test_what_a_start_says_needs_no_library(qemu):
    qemu.answers["query-status"] = lambda c: json.dumps({"return": {"status": "running"}, "id": c["id"]}).encode()
    client = qemu.serve()
    client.first("migrate-incoming", uri="fd:9")
    assert client.direct("query-status") == {"status": "running"}
    assert [each["execute"] for each in qemu.commands] == ["qmp_capabilities", "migrate-incoming", "query-status"]
    assert "qmp" not in threads()


def test_the_library_takes_over_where_it_ended(qemu):
    client = qemu.serve()
    client.direct("query-status")
    qemu.event("RESUME")
    assert client.execute("query-status") == {}
    assert "qmp" in threads()
    assert [each["event"] for each in client.events("RESUME")] == ["RESUME"]
    assert client.direct("query-status") == {}


def test_a_descriptor_goes_with_a_direct_command(qemu):
    reader, writer = os.pipe()
    qemu.serve().direct("getfd", {"fdname": "x"}, descriptor=writer)
    os.close(writer)
    (passed,) = qemu.descriptors
    os.write(passed, b"through")
    assert os.read(reader, 10) == b"through"
    os.close(reader)


def test_a_direct_command_that_is_refused_says_so_and_others_go_on(qemu):
    refusal = {"class": "GenericError", "desc": "no such bus"}
    qemu.answers["device_add"] = lambda c: json.dumps({"error": refusal, "id": c["id"]}).encode()
    client = qemu.serve()
    with pytest.raises(QmpError, match="qemu: device_add: no such bus"):
        client.direct("device_add")
    assert client.direct("query-status") == {}


def test_one_sent_ahead_that_is_refused_fails_a_direct_command(qemu):
    refusal = {"class": "GenericError", "desc": "no state"}
    qemu.answers["migrate-incoming"] = lambda c: json.dumps({"error": refusal, "id": c["id"]}).encode()
    qemu.answers["stop"] = lambda _: None
    client = qemu.serve()
    client.first("migrate-incoming", uri="fd:9")
    with pytest.raises(QmpError, match="migrate-incoming: no state"):
        client.direct("stop")


def test_events_come_without_the_library_in_parts_too(qemu):
    client = qemu.serve()
    client.direct("query-status")  # from here on it says nothing by itself
    whole = json.dumps({"event": "RESUME", "data": {}}).encode() + b"\r\n"
    rest = threading.Timer(0.2, lambda: qemu._socket.sendall(whole[7:]))
    qemu._socket.sendall(whole[:7])
    rest.start()
    assert client.wait_event(lambda each: each.get("event") == "RESUME", soon(), "")["data"] == {}
    with pytest.raises(DeadlineExceeded, match="nothing more"):
        client.wait_event(lambda each: each.get("event") == "RESUME", time.monotonic() + 0.1, "nothing more")
    qemu.event("SHUTDOWN", reason="guest-reset")
    assert [each["data"] for each in client.events("SHUTDOWN")] == [{"reason": "guest-reset"}]


def test_silence_has_a_limit_without_the_library(qemu, monkeypatch):
    monkeypatch.setattr("pysandbox_microvm.qmp.COMMAND_TIMEOUT", 0.2)
    qemu.answers["stop"] = lambda _: None
    with pytest.raises(DeadlineExceeded, match=r"qemu has not answered stop for 0\.2 s"):
        qemu.serve().direct("stop")


@pytest.mark.parametrize(
    "said",
    [
        b"not json",
        b"[1, 2, 3]",
        b"[" * 20_000 + b"]" * 20_000,
        b'{"return": {}, "id": "' + b"x" * LONGEST_LINE,
        b'{"error": {}, "id": "nobody\'s"}',
        b'{"error": {"class": 1, "desc": []}, "id": {}}',
    ],
    ids=["text", "array", "nested", "too long", "another's", "odd id"],
)
def test_garbage_is_an_error_within_the_limit_without_the_library(qemu, monkeypatch, said):
    monkeypatch.setattr("pysandbox_microvm.qmp.COMMAND_TIMEOUT", 1.0)
    qemu.answers["stop"] = lambda _: said
    with pytest.raises(SandboxError):
        qemu.serve().direct("stop")


def test_who_knows_why_qemu_has_hung_up_is_waited_for(qemu):
    """Its last words are read by whoever waits; who tells why reads them from there."""
    client = qemu.serve()
    why: list[str] = []

    def last_words(_: dict[str, Any]) -> None:
        qemu.event("SHUTDOWN", reason="guest-panic")
        qemu.hang_up()
        time.sleep(0.1)
        why.extend(each["data"]["reason"] for each in client.events("SHUTDOWN"))
        client.interrupt(Unavailable("the guest has panicked"))

    qemu.answers["stop"] = last_words
    with pytest.raises(Unavailable, match="the guest has panicked"):
        client.direct("stop")
    assert why == ["guest-panic"]


def test_who_asks_for_its_last_words_does_not_wait_for_more(qemu):
    client = qemu.serve()
    client.direct("query-status")
    qemu.event("SHUTDOWN", reason="guest-reset")
    qemu.hang_up()
    began = time.monotonic()
    assert [each["data"]["reason"] for each in client.events("SHUTDOWN")] == ["guest-reset"]
    assert time.monotonic() - began < 0.4  # of the half second that it would wait


def test_many_threads_may_talk_directly(qemu):
    qemu.answers["echo"] = lambda c: json.dumps({"return": c["arguments"], "id": c["id"]}).encode()
    client = qemu.serve()
    heard: list[Any] = []
    talkers = [
        threading.Thread(target=lambda number=number: heard.append(client.direct("echo", {"n": number})))
        for number in range(20)
    ]
    for talker in talkers:
        talker.start()
    client.start()
    for talker in talkers:
        talker.join(10)
    assert sorted(each["n"] for each in heard) == list(range(20))
