"""The host's side of the agent against guests that lie: every answer that cannot be is a GuestError, and none is waited for."""

from __future__ import annotations

import re
import socket
import threading
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from pysandbox import errors
from pysandbox.executor import ExecutorError
from pysandbox.ttrpc.errors import Code, RpcError
from pysandbox.ttrpc.server import Server
from pysandbox_microvm.agent import LEAST_COST, LONGEST_CHUNK, WINDOW, Agent, GuestError, ProcessStream, translate
from pysandbox_microvm.messages import agent as messages
from pysandbox_microvm.messages.agent import Chunk, Event

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from pysandbox.ttrpc.server import Call

TREE = Path(__file__).parents[3]


class Guest:
    """A guest that answers as a test has it answer: attributes are the service's methods."""

    def __init__(self) -> None:
        self.ours, self.theirs = socket.socketpair()
        self.server = Server()
        self.server.register(messages.Agent, self)
        self.hello = threading.Thread(target=self._say_hello, daemon=True)
        self.hello.start()

    def _say_hello(self) -> None:
        self.theirs.sendall(self.theirs.recv(42, socket.MSG_WAITALL))
        self.server.attach(self.theirs)

    def answers(self, method: str, answer: Any) -> None:
        """Have a method give this answer, or fail with this error."""

        def serve(request: Any, call: Call) -> Any:
            if isinstance(answer, Exception):
                raise answer
            return answer

        setattr(self, method, serve)

    def streams(self, method: str, parts: list[Any], before: Callable[[Call], None] = lambda _: None) -> None:
        """Have a method send these messages, then wait."""

        def serve(request: Any, call: Call) -> None:
            before(call)
            for part in parts:
                call.send(part)
            time.sleep(0.2)

        setattr(self, method, serve)


@pytest.fixture
def guest() -> Iterator[Guest]:
    guest = Guest()
    yield guest
    guest.ours.close()
    guest.server.close()


@pytest.fixture
def agent(guest: Guest) -> Iterator[Agent]:
    with Agent(guest.ours, 5.0) as agent:
        yield agent


# -- hello -------------------------------------------------------------------------------------------------------------


def guest_that_sends(data: Callable[[bytes], bytes]) -> socket.socket:
    ours, theirs = socket.socketpair()

    def answer() -> None:
        with theirs:
            try:
                theirs.sendall(data(theirs.recv(42, socket.MSG_WAITALL)))
                theirs.recv(1)
            except OSError:
                pass  # hung up on

    threading.Thread(target=answer, daemon=True).start()
    return ours


def test_what_was_meant_for_another_host_is_dropped() -> None:
    with Agent(guest_that_sends(lambda hello: hello[:41] * 1000 + bytes(100_000) + hello), 5.0):
        pass


def test_a_guest_that_says_nothing_is_waited_for_no_longer_than_asked() -> None:
    began = time.monotonic()
    with pytest.raises(errors.DeadlineExceeded, match="not said hello in time"):
        Agent(guest_that_sends(lambda hello: b""), 0.3)
    assert time.monotonic() - began < 2


def test_the_hello_of_another_nonce_is_none() -> None:
    with pytest.raises(errors.DeadlineExceeded):
        Agent(guest_that_sends(lambda hello: hello[:26] + bytes(16)), 0.3)


def test_a_guest_that_babbles_is_not_listened_to_for_ever() -> None:
    with pytest.raises(GuestError, match="no hello"):
        Agent(guest_that_sends(lambda hello: bytes(9 * 1024 * 1024)), 5.0)


def test_a_guest_that_talks_before_it_is_asked_is_none_of_ours() -> None:
    with pytest.raises(GuestError, match="before it is asked"):
        Agent(guest_that_sends(lambda hello: hello + b"more"), 5.0)


def test_a_guest_that_hangs_up_is_told_as_one() -> None:
    ours, theirs = socket.socketpair()
    theirs.close()
    with pytest.raises(errors.Unavailable, match="hung up"):
        Agent(ours, 5.0)


# -- answers -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "answer",
    [
        messages.CheckResponse(version=1, processors=0, memory=1),
        messages.CheckResponse(version=1, processors=5000, memory=1),
        messages.CheckResponse(version=1, processors=1, memory=0),
        messages.CheckResponse(version=1, processors=1, memory=1 << 50),
    ],
)
def test_sizes_that_cannot_be_are_not_believed(guest: Guest, agent: Agent, answer: messages.CheckResponse) -> None:
    guest.answers("Check", answer)
    with pytest.raises(GuestError, match="says that it has"):
        agent.check()


def test_an_agent_of_another_version_is_named_with_the_remedy(guest: Guest, agent: Agent) -> None:
    guest.answers("Check", messages.CheckResponse(version=2, processors=1, memory=1))
    with pytest.raises(errors.FailedPrecondition, match="version 2 .* rebuild the image"):
        agent.check()


def test_text_of_the_guest_is_cut_and_cannot_drive_a_terminal(guest: Guest, agent: Agent) -> None:
    guest.answers("Check", messages.CheckResponse(version=1, kernel="\x1b[2J" + "x" * 9999, processors=1, memory=1))
    kernel = agent.check().kernel
    assert "\x1b" not in kernel
    assert len(kernel) <= 128

    guest.answers("Prepare", RpcError(Code.UNKNOWN, "\x1b]0;owned\a\n" + "y" * 100_000))
    with pytest.raises(errors.Unknown) as failure:
        agent.prepare(bytes(64))
    assert str(failure.value).isprintable()
    assert len(str(failure.value)) <= 8192


@pytest.mark.parametrize("pid", [0, 1, 4 * 1024 * 1024 + 1, 2**32 - 1])
def test_a_pid_that_cannot_be_is_not_believed(guest: Guest, agent: Agent, pid: int) -> None:
    guest.answers("Create", messages.ProcessResponse(pid=pid))
    with pytest.raises(GuestError, match="is process"):
        agent.create(messages.CreateRequest(container="c"))

    guest.answers("Pids", messages.PidsResponse(pids=[2, pid] if pid != 1 else [5, 0]))
    with pytest.raises(GuestError, match="cannot be"):
        agent.pids("c")


def test_more_pids_than_any_guest_has_are_refused(guest: Guest, agent: Agent) -> None:
    guest.answers("Pids", messages.PidsResponse(pids=[7] * 65537))
    with pytest.raises(GuestError, match="65537"):
        agent.pids("c")


@pytest.mark.parametrize("path", ["relative", "", "/x\0y", "/" + "x" * 5000])
def test_a_path_of_the_guest_is_one(guest: Guest, agent: Agent, path: str) -> None:
    guest.answers("Attach", messages.AttachResponse(path=path))
    with pytest.raises(GuestError):
        agent.attach("a", "virtiofs", "a")


def test_only_files_that_were_asked_for_are_taken(guest: Guest, agent: Agent) -> None:
    for contents in ({"other": "x"}, {"memory.max": "x" * 70000}):
        guest.answers("Read", messages.ReadResponse(contents=contents))
        with pytest.raises(GuestError, match="nobody asked for"):
            agent.read("c", ["memory.max"])


def test_a_call_that_is_not_answered_has_a_limit(guest: Guest, agent: Agent) -> None:
    def serve(request: Any, call: Call) -> Any:
        time.sleep(1.0)
        return messages.Empty()

    guest.Write = serve  # type: ignore[attr-defined]
    with pytest.raises(errors.DeadlineExceeded):
        agent.write("c", [("a", "b")], timeout=0.2)


def test_what_the_executor_says_is_raised_as_on_a_host() -> None:
    text = '{"error":{"op":"find_program","index":3,"call":"lookpath","path":"x\\u001b","errno":2,"text":"not found"}}'
    error = translate(RpcError(Code.ABORTED, text), "Create")

    assert isinstance(error, ExecutorError)
    assert (error.op, error.index, error.call, error.errno, error.text) == (
        "find_program",
        3,
        "lookpath",
        2,
        "not found",
    )
    assert error.path == "x\N{REPLACEMENT CHARACTER}"


@pytest.mark.parametrize(
    "text", ["{", '{"error":1}', '{"error":{"op":1,"index":1,"errno":1}}', "{" * 50_000, '{"error":{"op":"x"}}']
)
def test_what_no_executor_says_is_a_lie(text: str) -> None:
    assert isinstance(translate(RpcError(Code.ABORTED, text), "Create"), GuestError)


# -- events ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "events",
    [
        [Event(container="d", sequence=1)],  # nobody started it
        [Event(container="c", sequence=1), Event(container="c", sequence=2)],  # it ends twice
        [Event(container="c", exec_id="e", sequence=1)],
        [Event(container="c", sequence=0)],
        [Event(container="c", oom=True, sequence=2), Event(container="c", sequence=2)],  # told twice
        [Event(container="c", code=256, sequence=1)],
        [Event(container="d", oom=True, sequence=1)],
        [Event(container="c", exec_id="e", oom=True, sequence=1)],
    ],
)
def test_events_that_cannot_be_end_the_guest(guest: Guest, agent: Agent, events: list[Event]) -> None:
    guest.answers("Create", messages.ProcessResponse(pid=7))
    agent.create(messages.CreateRequest(container="c"))
    guest.streams("Events", events)

    with pytest.raises(GuestError):
        list(agent.events())


def test_events_that_can_be_are_told_in_order(guest: Guest, agent: Agent) -> None:
    guest.answers("Create", messages.ProcessResponse(pid=7))
    guest.answers("Exec", messages.ProcessResponse(pid=8))
    agent.create(messages.CreateRequest(container="c"))
    agent.execute(messages.ExecRequest(container="c", exec_id="e"))
    told = [
        Event(container="c", exec_id="e", code=3, sequence=1),
        Event(container="c", oom=True, sequence=2),
        Event(container="c", code=137, sequence=4),
    ]
    guest.streams("Events", told)

    assert list(agent.events()) == told


def test_a_name_is_free_again_when_the_exit_was_told(guest: Guest, agent: Agent) -> None:
    guest.answers("Create", messages.ProcessResponse(pid=7))
    guest.streams("Events", [Event(container="c", sequence=1)], before=lambda _: time.sleep(0.3))
    agent.create(messages.CreateRequest(container="c"))
    listener = threading.Thread(target=lambda: list(agent.events()))
    listener.start()

    assert agent.create(messages.CreateRequest(container="c")) == 7  # waits for the event
    listener.join(5)
    with pytest.raises(errors.AlreadyExists):
        agent.create(messages.CreateRequest(container="c"))


# -- streams -----------------------------------------------------------------------------------------------------------


def drain(stream: ProcessStream) -> None:
    while stream.receive() is not None:
        pass


def data(length: int, stream: int = 1) -> Chunk:
    return Chunk(stream=stream, data=bytes(length))


@pytest.mark.parametrize(
    "chunks",
    [
        [data(LONGEST_CHUNK + 1)],
        [data(1)] * (WINDOW // LEAST_COST + 1),  # cheap to send, dear to keep
        [data(LONGEST_CHUNK)] * (WINDOW // LONGEST_CHUNK + 1),
        [data(1, stream=3)],
        [Chunk(stream=1, end=True), data(1)],
        [Chunk(stream=1)],  # nothing at all
        [Chunk(stream=1, drained=True)] * 2,
        [Chunk(stream=1, credit=5)],
        [Chunk(credit=WINDOW + 1)],
        [Chunk()],
        [Chunk(end=True), Chunk(end=True)],
        [Chunk(data=b"input?")],
    ],
)
def test_a_stream_that_breaks_the_rules_ends_the_guest(guest: Guest, agent: Agent, chunks: list[Chunk]) -> None:
    guest.streams("Stream", chunks)
    stream = agent.stream("c")

    with pytest.raises(GuestError):
        drain(stream)


def test_credit_that_is_given_back_lets_more_come(guest: Guest, agent: Agent) -> None:
    many = 3 * WINDOW // LONGEST_CHUNK

    def send(call: Call) -> None:
        credit = call.receive().credit
        for _ in range(many):
            while credit < LONGEST_CHUNK:
                credit += call.receive().credit
            call.send(data(LONGEST_CHUNK))
            credit -= LONGEST_CHUNK

    guest.streams("Stream", [], before=send)
    stream = agent.stream("c")
    taken = 0
    while (part := stream.receive()) is not None:
        taken += len(part.data)
        stream.give_back(part)

    assert taken == many * LONGEST_CHUNK


def test_no_more_is_written_than_there_is_credit_for(guest: Guest, agent: Agent) -> None:
    came: list[Chunk] = []

    def take(call: Call) -> None:
        came.append(call.receive())
        call.send(Chunk(credit=2 * LEAST_COST))
        while (chunk := call.receive()) is not None:
            came.append(chunk)

    guest.streams("Stream", [], before=take)
    stream = agent.stream("c", "e")
    ended: list[BaseException] = []

    def listen() -> None:
        try:
            drain(stream)
        except errors.Unavailable as error:
            ended.append(error)

    taker = threading.Thread(target=listen)
    taker.start()
    assert stream.write(b"x", timeout=5.0)
    assert stream.write(b"x", timeout=5.0)
    with pytest.raises(errors.DeadlineExceeded, match="takes no input"):
        stream.write(b"x", timeout=0.5)

    assert (came[0].container, came[0].exec_id, came[0].credit) == ("c", "e", WINDOW)
    assert [chunk.data for chunk in came[1:]] == [b"x", b"x"]
    agent.close()
    taker.join(5)
    assert ended
    assert stream.write(b"x") is False


# -- the agent's own messages ------------------------------------------------------------------------------------------


def test_the_numbers_of_fields_in_rust_are_those_of_the_proto() -> None:
    text = (TREE / "guest_agent/src/agent/messages.rs").read_text()
    found = {
        name: {field: int(number) for field, number in re.findall(r"(\w+): [\w<>, ]+? = (\d+)", body)}
        for name, body in re.findall(r"^    (\w+) \{(.*?)\}", text, re.DOTALL | re.MULTILINE)
    }
    for name in ("Request", "Response", "Status"):
        assert found.pop(name)
    expected = {
        name: {field[1]: field[0] for field in getattr(messages, name).FIELDS}
        for name in dir(messages)
        if isinstance(getattr(messages, name), type) and name in found
    }

    assert found == expected
    assert len(found) > 20
