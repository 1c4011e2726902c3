"""The agent, on this host: containers by plans, stdio with credit, events, hostile and broken hosts."""

from __future__ import annotations

import os
import random
import socket
import threading
import time
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from agenthost import Host, Listener, create_request, exec_request, read_all, spec
from precondition import requires
from runtime import eventually

from pysandbox import errors
from pysandbox.executor import ExecutorError
from pysandbox.ttrpc.frame import DATA, REQUEST, header
from pysandbox.ttrpc.messages.request import Request
from pysandbox_microvm.agent import LEAST_COST, LONGEST_CHUNK, WINDOW, Agent, ProcessStream, cost
from pysandbox_microvm.messages import agent as messages
from pysandbox_microvm.place import Place
from pysandbox_microvm.planning import common_device_programs

if TYPE_CHECKING:
    from collections.abc import Iterator


@pytest.fixture
def host() -> Iterator[Host]:
    requires("root", "command unshare", "file /sys/fs/cgroup/unified/cgroup.procs")
    host = Host()
    yield host
    host.close()


@pytest.fixture
def agent(host: Host) -> Iterator[Agent]:
    with Agent(host.socket, 10.0) as agent:
        yield agent


@pytest.fixture
def events(agent: Agent) -> Listener:
    return Listener(agent)


def run(agent: Agent, events: Listener, script: str, **process: object) -> tuple[int, bytes, bytes]:
    """Run a shell script in a container; exit code and output."""
    agent.create(create_request("c", spec(["sh", "-c", script], **process)))
    stream = agent.stream("c")
    agent.start("c")
    output = read_all(stream)
    code = events.exit_code("c")
    agent.delete("c")
    return code, output[1], output[2]


def test_the_agent_says_what_the_guest_is(agent: Agent) -> None:
    guest = agent.check()

    assert guest.kernel == os.uname().release
    assert guest.processors == len(os.sched_getaffinity(0))
    assert guest.memory > 1 << 28


def test_a_container_runs_under_the_guests_plan(agent: Agent, events: Listener) -> None:
    agent.prepare(os.urandom(64), hostname="guest")

    code, out, err = run(agent, events, "echo $$; hostname; tail -n 1 /proc/self/cgroup; id -u; echo oops >&2; exit 7")

    assert (code, err) == (7, b"oops\n")
    assert out == b"1\ninside\n0::/\n0\n"


def test_create_stops_before_the_program_and_start_answers_when_it_runs(agent: Agent, events: Listener) -> None:
    pid = agent.create(create_request("c", spec(["sh", "-c", "echo on; sleep 100"])))
    stream = agent.stream("c")
    assert pid in agent.pids("c")
    time.sleep(0.1)
    assert stream._stream.inbox._payloads.__len__() <= 1  # credit for input, no output

    agent.start("c")
    assert stream.receive() is not None

    with pytest.raises(errors.FailedPrecondition, match="does not wait for start"):
        agent.start("c")
    agent.delete("c")
    assert events.exit_code("c") == 137


def test_a_program_that_is_not_there_fails_as_on_a_host(agent: Agent) -> None:
    with pytest.raises(ExecutorError, match="executable file not found") as failure:
        agent.create(create_request("c", spec(["no-such-program"])))
    assert failure.value.call == "lookpath"

    with pytest.raises(errors.NotFound, match="no container c"):
        agent.pids("c")


def test_a_create_that_fails_leaves_nothing(host: Host, agent: Agent, events: Listener) -> None:
    before = descriptors(host)
    for _ in range(5):
        with pytest.raises(ExecutorError):
            agent.create(create_request("c", spec(["no-such-program"])))
    run(agent, events, "exit 0")  # the same name, the same cgroup

    assert descriptors(host) == before
    assert descendants(host) == 0


def descriptors(host: Host) -> int:
    """Count the agent's descriptors, once the executor that it starts ahead is there again."""
    eventually(lambda: bool(spares(host)), "an executor is started ahead")
    return len(list(Path(f"/proc/{host.find_pid()}/fd").iterdir()))


def children_of(host: Host) -> list[str]:
    return Path(f"/proc/{host.find_pid()}/task/{host.find_pid()}/children").read_text().split()


def spares(host: Host) -> list[str]:
    def is_spare(pid: str) -> bool:
        try:
            return Path(f"/proc/{pid}/cmdline").read_bytes().startswith(b"pysandbox-init\0")
        except FileNotFoundError:
            return False

    return [pid for pid in children_of(host) if is_spare(pid)]


def descendants(host: Host) -> int:
    """Count the agent's children but for the executor that it starts ahead."""
    return len(children_of(host)) - len(spares(host))


def test_processes_beside_init_have_their_own_stdio_and_exit(agent: Agent, events: Listener) -> None:
    document = spec(["sleep", "100"])
    agent.create(create_request("c", document))
    agent.start("c")

    request = exec_request(
        "c", "e", document, ["sh", "-c", "cat; echo $FOO; exit 9"], stdin=True, env=["FOO=bar", "PATH=/bin"]
    )
    agent.execute(request)
    stream = agent.stream("c", "e")
    taker = threading.Thread(target=lambda: output.update(read_all(stream)))
    output: dict[int, bytes] = {}
    taker.start()
    assert stream.write(b"hello\n")
    stream.close_input()
    taker.join(10)

    assert output[1] == b"hello\nbar\n"
    assert events.exit_code("c", "e") == 9
    with pytest.raises(errors.NotFound):
        agent.signal("c", "e", 15)
    with pytest.raises(ExecutorError, match="not found"):
        agent.execute(exec_request("c", "f", document, ["nothing-there"]))
    agent.delete("c")


def test_signals_end_processes_and_the_code_says_which(agent: Agent, events: Listener) -> None:
    document = spec(["sleep", "100"])
    agent.create(create_request("c", document))
    agent.start("c")
    agent.execute(exec_request("c", "e", document, ["sleep", "100"]))

    agent.signal("c", "e", 15)
    assert events.exit_code("c", "e") == 143
    agent.signal("c", "", 9, everyone=True)
    assert events.exit_code("c") == 137
    agent.delete("c")


def test_what_was_not_asked_for_has_no_answer(agent: Agent) -> None:
    agent.create(create_request("c", spec(["sleep", "100"])))

    with pytest.raises(errors.AlreadyExists):
        agent._call("Create", create_request("c", spec(["true"])), 5.0)
    with pytest.raises(errors.NotFound):
        agent.execute(exec_request("d", "e", spec(["true"]), ["true"]))
    with pytest.raises(errors.InvalidArgument):
        agent.signal("c", "", 65)
    for name in ("../x", "/x", "", "a/../../x", "a//b"):
        with pytest.raises(errors.InvalidArgument, match="plain names"):
            agent.read("c", [name])
        with pytest.raises(errors.InvalidArgument, match="plain names"):
            agent.write("c", [(name, "1")])
    with pytest.raises(errors.InvalidArgument):
        agent.attach("../up", "tmpfs", "x")
    with pytest.raises(errors.Unimplemented, match="no such file system"):
        agent.attach("a", "nosuchfs", "x")
    with pytest.raises(errors.NotFound):
        agent.detach("never")
    assert agent.read("c", ["cgroup.freeze", "nothing.there"]) == {"cgroup.freeze": "0\n"}


# -- stdio -------------------------------------------------------------------------------------------------------------


def test_nothing_of_a_large_output_is_lost(agent: Agent, events: Listener) -> None:
    size = 8 * 1024 * 1024
    code, out, err = run(agent, events, f"head -c {size} /dev/zero | tr '\\0' x; head -c 100000 /dev/zero >&2; exit 3")

    assert code == 3
    assert (len(out), out.count(b"x"), len(err)) == (size, size, 100000)


def test_many_large_outputs_at_once_are_all_whole(agent: Agent, events: Listener) -> None:
    """More than the connection takes at a time: who had to wait has its turn again."""
    document = spec(["sleep", "100"])
    agent.create(create_request("c", document))
    agent.start("c")
    names = [f"e{number}" for number in range(8)]
    for name in names:
        script = "head -c 3000000 /dev/zero; head -c 1000000 /dev/zero >&2"
        agent.execute(exec_request("c", name, document, ["sh", "-c", script]))
    streams = {name: agent.stream("c", name) for name in names}
    outputs: dict[str, dict[int, bytes]] = {}
    takers = [threading.Thread(target=lambda n=name: outputs.update({n: read_all(streams[n])})) for name in names]
    for taker in takers:
        taker.start()
    for taker in takers:
        taker.join(30)

    assert {name: (len(output[1]), len(output[2])) for name, output in outputs.items()} == dict.fromkeys(
        names, (3000000, 1000000)
    )
    assert [events.exit_code("c", name) for name in names] == [0] * len(names)
    agent.delete("c")


def test_a_slow_reader_stops_the_process_and_nobody_else(agent: Agent, events: Listener) -> None:
    """One that never takes what it was sent gets a window's worth and no more, and other calls go on."""
    document = spec(["sh", "-c", "head -c 10000000 /dev/zero; echo done > /tmp/done; sleep 100"])
    agent.create(create_request("c", document))
    stream = agent.stream("c")
    agent.start("c")
    taken = 0
    while taken <= WINDOW - LEAST_COST:
        part = stream.receive()
        assert part is not None
        taken += cost(part.data)
    time.sleep(0.3)

    assert stream._stream.inbox._bytes == 0
    agent.execute(exec_request("c", "e", document, ["sh", "-c", "test ! -e /tmp/done"]))
    assert events.exit_code("c", "e") == 0
    agent.delete("c")


def test_many_small_writes_come_whole_and_in_order(agent: Agent, events: Listener) -> None:
    code, out, _ = run(agent, events, "i=0; while [ $i -lt 3000 ]; do echo $i; i=$((i+1)); done")

    assert code == 0
    assert out.split() == [str(number).encode() for number in range(3000)]


def test_input_waits_until_the_process_takes_it(agent: Agent, events: Listener) -> None:
    agent.create(create_request("c", spec(["sh", "-c", "read line; wc -c"]), stdin=True))
    stream = agent.stream("c")
    output: dict[int, bytes] = {}
    taker = threading.Thread(target=lambda: output.update(read_all(stream)))
    taker.start()
    with pytest.raises(errors.DeadlineExceeded):
        stream.write(bytes(WINDOW + 64 * 1024 + LONGEST_CHUNK), timeout=1.0)
    agent.start("c")
    assert stream.write(b"\n" + bytes(1_000_000), timeout=10.0)
    stream.close_input()
    taker.join(10.0)

    assert events.exit_code("c") == 0
    assert int(output[1]) == 1_000_000
    agent.delete("c")


def test_a_process_that_closes_its_input_says_so(agent: Agent, events: Listener) -> None:
    agent.create(create_request("c", spec(["sh", "-c", "exec <&-; sleep 0.2; echo still here"]), stdin=True))
    stream = agent.stream("c")
    taker = threading.Thread(target=read_all, args=(stream,))
    taker.start()
    agent.start("c")
    deadline = time.monotonic() + 10
    while stream.write(b"x"):
        assert time.monotonic() < deadline
        time.sleep(0.01)
    assert events.exit_code("c") == 0
    taker.join(10.0)
    agent.delete("c")


def test_an_output_that_the_host_refuses_is_a_broken_pipe(agent: Agent, events: Listener) -> None:
    agent.create(create_request("c", spec(["sh", "-c", "while echo x; do :; done; exit 5"])))
    stream = agent.stream("c")
    agent.start("c")
    stream.refuse(1)
    read_all(stream)

    assert events.exit_code("c") in (5, 141)
    agent.delete("c")


def test_an_exit_with_a_child_that_holds_the_output_is_told_with_what_was_written(
    agent: Agent, events: Listener
) -> None:
    document = spec(["sleep", "100"])
    agent.create(create_request("c", document))
    agent.start("c")
    agent.execute(exec_request("c", "e", document, ["sh", "-c", "sleep 50 & echo before; exit 4"]))
    stream = agent.stream("c", "e")
    data, drained = b"", set()
    while drained != {1, 2}:
        part = stream.receive()
        assert part is not None
        assert not part.end
        data += part.data
        drained |= {part.stream} if part.drained else set()

    assert data == b"before\n"
    assert events.exit_code("c", "e") == 4
    agent.delete("c")
    assert read_all(stream) == {1: b"", 2: b""}


def test_a_terminal_has_a_size_an_echo_and_an_end(agent: Agent, events: Listener) -> None:
    document = spec(["sh", "-c", "tty; stty size; read x; stty size; echo got $x; exit 2"], terminal=True)
    document["process"]["consoleSize"] = {"width": 80, "height": 25}
    agent.create(create_request("c", document, stdin=True))
    stream = agent.stream("c")
    output: dict[int, bytes] = {}
    taker = threading.Thread(target=lambda: output.update(read_all(stream)))
    taker.start()
    agent.start("c")
    time.sleep(0.3)
    agent.resize("c", "", 100, 50)
    stream.write(b"word\r")
    taker.join(10.0)

    assert events.exit_code("c") == 2
    assert output[1] == b"/dev/pts/0\r\n25 80\r\nword\r\n50 100\r\ngot word\r\n"
    agent.delete("c")


# -- the life of a sandbox ---------------------------------------------------------------------------------------------


def test_two_containers_may_share_a_pid_namespace(agent: Agent, events: Listener) -> None:
    first = spec(["sleep", "100"])
    pid = agent.create(create_request("a", first))
    agent.start("a")

    second = spec(["sh", "-c", "cat /proc/1/comm; hostname"])
    for namespace in second["linux"]["namespaces"]:
        if namespace["type"] == "pid":
            namespace["path"] = "/proc/4242/ns/pid"  # as the host numbers the first one's init
    agent.create(create_request("b", second, place=Place("test", {4242: pid})))
    stream = agent.stream("b")
    agent.start("b")

    assert read_all(stream)[1] == b"sleep\ninside\n"
    assert events.exit_code("b") == 0
    agent.delete("b")
    agent.delete("a")


def test_a_user_namespace_gets_its_maps(agent: Agent, events: Listener) -> None:
    def change(document: dict[str, object]) -> None:
        linux = document["linux"]
        linux["namespaces"].append({"type": "user"})  # type: ignore[index]
        # The kernel mounts a sysfs only for who owns the network namespace, which is the guest's.
        document["mounts"] = [mount for mount in document["mounts"] if not mount["destination"].startswith("/sys")]  # type: ignore[attr-defined]
        for name in ("uidMappings", "gidMappings"):
            linux[name] = [{"containerID": 0, "hostID": 100000, "size": 65536}]  # type: ignore[index]

    agent.create(create_request("c", spec(["cat", "/proc/self/uid_map"], change)))
    stream = agent.stream("c")
    agent.start("c")

    assert read_all(stream)[1].split() == [b"0", b"100000", b"65536"]
    assert events.exit_code("c") == 0
    agent.delete("c")


def test_delete_ends_what_is_left(host: Host, agent: Agent, events: Listener) -> None:
    agent.create(create_request("c", spec(["sh", "-c", "for i in 1 2 3; do (trap '' TERM; sleep 100) & done; wait"])))
    agent.start("c")
    time.sleep(0.2)
    assert len(agent.pids("c")) >= 4

    agent.delete("c")

    assert events.exit_code("c") == 137
    assert descendants(host) == 0


def test_a_hundred_lives_leave_no_descriptor(host: Host, agent: Agent, events: Listener) -> None:
    run(agent, events, "exit 0")
    before, memory = descriptors(host), resident(host)
    for number in range(100):
        assert run(agent, events, f"exit {number}")[0] == number

    assert descriptors(host) == before
    assert resident(host) < memory + 512 * 1024
    assert agent.check().agent


def resident(host: Host) -> int:
    return int(Path(f"/proc/{host.find_pid()}/statm").read_text().split()[1]) * 4096


def test_an_executor_is_started_ahead_and_another_when_it_has_gone(host: Host, agent: Agent, events: Listener) -> None:
    agent.check()
    (first,) = spares(host)
    assert run(agent, events, "readlink /proc/self/fd/0")[:2] == (0, b"/dev/null\n")
    assert first not in spares(host)

    eventually(lambda: bool(spares(host)), "another is started")
    (second,) = spares(host)
    os.kill(int(second), 9)
    eventually(lambda: second not in children_of(host), "the killed one is reaped")
    assert run(agent, events, "exit 4")[0] == 4


def test_a_rehearsed_machine_makes_containers_as_any_other(host: Host, agent: Agent, events: Listener) -> None:
    for program in common_device_programs():
        agent.rehearse(program)
    before = descriptors(host)

    assert run(agent, events, "echo first; cat /dev/zero | head -c 1 | wc -c")[:2] == (0, b"first\n1\n")
    eventually(lambda: descriptors(host) <= before, "nothing of the container is left")


def test_a_rehearsal_has_a_limit_and_tells_what_the_kernel_refuses(agent: Agent) -> None:
    program = common_device_programs()[0]
    with pytest.raises(errors.SandboxError, match="BPF_PROG_LOAD"):
        agent.rehearse(program[:-8])  # without its last instruction, the exit
    for _ in range(8):
        agent.rehearse(program)
    with pytest.raises(errors.Unavailable, match="too many device programs"):
        agent.rehearse(program)


def test_orphans_are_reaped(host: Host, agent: Agent, events: Listener) -> None:
    document = spec(["sleep", "100"])
    document["linux"]["namespaces"] = [each for each in document["linux"]["namespaces"] if each["type"] != "pid"]
    agent.create(create_request("c", document))
    agent.start("c")
    agent.execute(exec_request("c", "e", document, ["sh", "-c", "for i in 1 2 3 4 5; do (sleep 0.1 &) ; done"]))
    assert events.exit_code("c", "e") == 0

    eventually(lambda: descendants(host) == 1, "orphans are reaped")
    agent.delete("c")


# -- hosts that come and go, and hosts that talk nonsense --------------------------------------------------------------


def test_a_new_host_begins_anew_on_the_same_bytes(host: Host) -> None:
    """As after a clone: calls, streams and events of the host before are forgotten, containers are not."""
    second = socket.socket(fileno=os.dup(host.socket.fileno()))
    first = Agent(host.socket, 10.0)
    document = spec(["sh", "-c", "sleep 0.3; echo late; exit 6"])
    first.create(create_request("c", document))
    first.stream("c")
    first.start("c")
    first.close()  # its socket; the stream of bytes goes on in the second
    time.sleep(0.6)

    with Agent(second, 10.0) as agent:
        agent._running.add(("c", ""))
        events = Listener(agent)
        assert read_all(agent.stream("c"))[1] in (b"late\n", b"")
        assert events.exit_code("c") == 6
        agent.delete("c")


def test_a_host_that_hangs_up_may_come_back() -> None:
    """As over vsock: containers, exits that were not told and output that was not taken wait for the next host."""
    requires("root", "command unshare", "file /sys/fs/cgroup/unified/cgroup.procs")
    host = Host(listening=True)
    try:
        document = spec(["sh", "-c", "echo early; sleep 0.5; echo late; exit 6"])
        with Agent(host.socket, 10.0) as first:
            first.create(create_request("c", document))
            first.start("c")
        time.sleep(0.8)
        with Agent(host.connect(), 10.0) as second:
            second._running.add(("c", ""))
            assert read_all(second.stream("c"))[1] == b"early\nlate\n"
            assert Listener(second).exit_code("c") == 6
            second.delete("c")
        with Agent(host.connect(), 10.0) as third, Agent(host.connect(), 10.0) as fourth:
            assert fourth.check().agent
            with pytest.raises(errors.Unavailable):
                third.check()
    finally:
        host.close()


def test_bytes_before_a_reset_do_no_harm(host: Host) -> None:
    chance = random.Random(7)
    host.socket.sendall(chance.randbytes(100_000))

    with Agent(host.socket, 10.0) as agent:
        assert agent.check().processors > 0


def test_frames_of_chance_crash_nothing(host: Host) -> None:
    """What no host of ours would send: every kind of frame, requests with changed bytes, streams of nobody."""
    chance = random.Random(11)
    good = [
        create_request("c", spec(["true"])).encode(),
        messages.SignalRequest(container="c", signal=9).encode(),
        messages.ReadRequest(container="c", files=["cgroup.procs"]).encode(),
        messages.Chunk(container="c", stream=1, data=b"x" * 10, credit=5).encode(),
    ]
    with Agent(socket.socket(fileno=os.dup(host.socket.fileno())), 10.0) as agent:
        agent.check()
    host.socket.setblocking(True)
    host.socket.settimeout(10.0)
    threading.Thread(target=drain, args=(host.socket,), daemon=True).start()
    methods = [*messages.Agent.methods, "Nothing"]
    for number in range(1500):
        payload = bytearray(chance.choice(good))
        for _ in range(chance.randrange(4)):
            payload[chance.randrange(len(payload))] = chance.randrange(256)
        request = Request(service=messages.Agent.name, method=chance.choice(methods), payload=bytes(payload)).encode()
        kind = chance.choice([REQUEST, REQUEST, REQUEST, DATA])
        body = request if kind == REQUEST else bytes(payload)
        host.socket.sendall(header(2 * number + 1, kind, chance.choice([0, 1, 2, 4, 5]), len(body)) + body)
    host.socket.sendall(chance.randbytes(5000))
    time.sleep(0.5)

    assert host.program.poll() is None, "the agent has died"


def drain(connected: socket.socket) -> None:
    while True:
        try:
            if not connected.recv(65536):
                return
        except OSError:
            return


def test_a_host_that_reads_nothing_is_not_kept_answers_for(host: Host) -> None:
    """Unread answers stop the reading of calls: memory stays where it is."""
    with Agent(socket.socket(fileno=os.dup(host.socket.fileno())), 10.0) as agent:
        agent.check()
    request = Request(service=messages.Agent.name, method="Check", payload=b"").encode()
    calls = b"".join(header(2 * number + 1, REQUEST, 0, len(request)) + request for number in range(200_000))
    before, sent, blocked = resident(host), 0, 0
    while sent < len(calls) and blocked < 50:
        try:
            sent += host.socket.send(calls[sent : sent + 65536])
            blocked = 0
        except BlockingIOError:
            blocked += 1
            time.sleep(0.02)
    assert sent < len(calls), "all calls were read, though no answer was"

    assert resident(host) < before + 8 * 1024 * 1024
    assert host.program.poll() is None


def test_the_agent_ends_with_its_only_host_and_takes_all_along(host: Host) -> None:
    agent = Agent(host.socket, 10.0)
    agent.create(create_request("c", spec(["sleep", "100"])))
    agent.close()

    assert host.program.wait(10.0) == 0


def test_a_stream_is_for_one(agent: Agent) -> None:
    agent.create(create_request("c", spec(["sleep", "100"])))
    first = agent.stream("c")
    second: ProcessStream = agent.stream("c")

    with pytest.raises(errors.AlreadyExists):
        second.receive()
    first.refuse(1)
    agent.delete("c")
