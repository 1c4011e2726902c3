"""How a shim is called, where it listens, and what it makes of the names of streams."""

from __future__ import annotations

import os
import select
import stat
import threading
import time
from typing import TYPE_CHECKING

import pytest

from pysandbox.errors import InvalidArgument
from pysandbox.shim import address
from pysandbox.shim.invocation import parse
from pysandbox.shim.metrics import metrics
from pysandbox.shim.stdio import Names, Relay, Streams

if TYPE_CHECKING:
    from pathlib import Path


def test_the_words_of_containerd_are_understood() -> None:
    words = "-namespace k8s.io -address /run/c.sock -publish-binary /usr/bin/containerd -id=web -debug start".split()

    invocation = parse(words)

    assert (invocation.action, invocation.namespace, invocation.id) == ("start", "k8s.io", "web")
    assert (invocation.address, invocation.debug) == ("/run/c.sock", True)


@pytest.mark.parametrize("words", [["--namespace", "a", "--id", "b", "delete"], ["-namespace=a", "-id=b", "delete"]])
def test_one_dash_or_two_an_equals_sign_or_none(words: list[str]) -> None:
    assert (parse(words).namespace, parse(words).id, parse(words).action) == ("a", "b", "delete")


@pytest.mark.parametrize(("word", "value"), [("-debug=false", False), ("-debug=1", True), ("-debug=T", True)])
def test_a_switch_may_have_a_value(word: str, value: bool) -> None:
    assert parse([word]).debug is value


def test_flags_of_later_versions_are_ignored() -> None:
    assert parse(["-sandboxed", "-new=value", "-id", "a", "start"]).id == "a"


@pytest.mark.parametrize("words", [["-id"], ["-debug=maybe"]])
def test_what_go_refuses_is_refused(words: list[str]) -> None:
    with pytest.raises(InvalidArgument):
        parse(words)


@pytest.mark.parametrize("name", ["", "..", "a/b", "../x", "-a", "a-", "a..b", "é", "a" * 77, "a\n"])
def test_a_name_that_could_lead_elsewhere_is_refused(name: str) -> None:
    with pytest.raises(InvalidArgument, match="is not a valid identifier"):
        parse(["-namespace", "good", "-id=" + name, "start"]).check()


def test_the_socket_has_the_name_that_containerds_own_shims_give_it() -> None:
    path = address.socket_path("/run/containerd/containerd.sock", "default", "web")

    # printf %s /run/containerd/containerd.sock/default/web | sha256sum
    assert path == "/run/containerd/s/2cde4450fa38c74f53603e01d2afd903b315a27a596f12a151414cd59897d883"


def test_a_pod_has_one_shim() -> None:
    assert address.group({"annotations": {"io.kubernetes.cri.sandbox-id": "pod"}}, "web") == "pod"
    both = {"io.kubernetes.cri.sandbox-id": "pod", "io.containerd.runc.v2.group": "group"}
    assert address.group({"annotations": both}, "web") == "group"
    assert address.group({}, "web") == "web"


def test_only_root_may_connect_and_a_dead_shims_socket_is_taken_over(tmp_path: Path) -> None:
    path = str(tmp_path / "s")
    first = address.listen(path)
    assert stat.S_IMODE(os.stat(path).st_mode) == 0o600
    with pytest.raises(address.InUse):
        address.listen(path)
    first.close()

    second = address.listen(path)

    assert address.answers(path)
    second.close()


def test_the_address_file_is_read_back(tmp_path: Path) -> None:
    address.write_address(str(tmp_path), "/run/containerd/s/x")

    assert (tmp_path / "address").read_text() == "unix:///run/containerd/s/x"
    assert address.read_address(str(tmp_path)) == "/run/containerd/s/x"
    assert address.read_address(str(tmp_path / "none")) == ""


# -- streams -----------------------------------------------------------------------------------------------------------


@pytest.fixture
def fifos(tmp_path: Path) -> dict[str, str]:
    for name in ("stdin", "stdout", "stderr"):
        os.mkfifo(tmp_path / name)
    return {name: str(tmp_path / name) for name in ("stdin", "stdout", "stderr")}


def _descriptors() -> set[str]:
    return set(os.listdir("/proc/self/fd"))


def test_fifos_wait_for_no_client_and_outlive_one(fifos: dict[str, str]) -> None:
    before = _descriptors()
    streams = Streams(Names(**fifos))
    for _ in range(2):  # clients come and go
        reader = os.open(fifos["stdout"], os.O_RDONLY | os.O_NONBLOCK)
        os.write(streams.stdio.stdout, b"text")
        assert os.read(reader, 10) == b"text"
        os.close(reader)
    os.write(streams.stdio.stdout, b"kept")
    reader = os.open(fifos["stdout"], os.O_RDONLY)
    streams.close()

    assert os.read(reader, 10) == b"kept"
    assert os.read(reader, 10) == b""
    os.close(reader)
    assert not _descriptors() - before


def test_input_does_not_end_before_a_client_has_come_and_gone(fifos: dict[str, str]) -> None:
    streams = Streams(Names(**fifos))
    process = os.dup(streams.stdio.stdin)
    streams.started(None)
    watch = streams.take_input_watch()
    assert watch is not None
    assert select.select([process, watch], [], [], 0.05)[0] == []

    client = os.open(fifos["stdin"], os.O_WRONLY)
    os.write(client, b"input")
    assert select.select([watch], [], [], 0.05)[0] == []
    os.close(client)

    assert select.select([watch], [], [], 5)[0] == [watch]
    streams.close_stdin()
    assert os.read(process, 10) == b"input"
    assert os.read(process, 10) == b""
    streams.close()
    os.close(process)
    os.close(watch)


def test_a_file_is_made_and_appended_to(tmp_path: Path) -> None:
    file = tmp_path / "new" / "log"
    for _ in range(2):
        with Streams(Names(stdout=f"file://{file}", stderr=f"file://{file}")) as streams:
            assert streams.stdio.stdout == streams.stdio.stderr
            os.write(streams.stdio.stdout, b"line\n")

    assert file.read_text() == "line\nline\n"


def test_no_name_is_the_null_device() -> None:
    with Streams(Names()) as streams:
        assert os.fstat(streams.stdio.stdout).st_rdev == os.stat("/dev/null").st_rdev


@pytest.mark.parametrize(
    ("name", "error"),
    [
        ("relative", InvalidArgument),
        ("tcp://host", InvalidArgument),
        ("binary:///bin/cat", InvalidArgument),
        ("/dev/null", InvalidArgument),
        ("/nonexistent/x", FileNotFoundError),
    ],
)
def test_other_names_are_refused_and_nothing_stays_open(
    fifos: dict[str, str], name: str, error: type[Exception]
) -> None:
    before = _descriptors()
    with pytest.raises(error):
        Streams(Names(stdin=fifos["stdin"], stdout=fifos["stdout"], stderr=name))

    assert not _descriptors() - before


def test_a_terminal_is_copied_at_the_readers_pace(fifos: dict[str, str]) -> None:
    master, slave = os.openpty()
    streams = Streams(Names(stdin=fifos["stdin"], stdout=fifos["stdout"], terminal=True))
    streams.started(master)
    text = b"".join(b"%08d\n" % number for number in range(40_000))

    def say() -> None:
        with open(slave, "wb") as file:
            file.write(text)

    threading.Thread(target=say).start()
    time.sleep(0.1)  # 360 kB: the FIFO and the pty are full
    reader = os.open(fifos["stdout"], os.O_RDONLY)
    got = bytearray()
    while len(got) < len(text) + 40_000:
        got += os.read(reader, 65536)
    streams.ended(5)

    assert got.replace(b"\r\n", b"\n") == text
    assert os.read(reader, 10) == b""
    os.close(reader)


def test_a_terminal_takes_input_and_a_size(fifos: dict[str, str]) -> None:
    master, slave = os.openpty()
    relay = Relay(master, os.open(fifos["stdin"], os.O_RDWR | os.O_NONBLOCK), None)
    relay.resize(100, 40)
    assert os.get_terminal_size(slave) == (100, 40)
    with open(fifos["stdin"], "wb") as client:
        client.write(b"typed\n")

    assert os.read(slave, 10) == b"typed\n"
    relay.stop()
    assert relay.done.is_set()
    os.close(slave)


# -- metrics -----------------------------------------------------------------------------------------------------------

STATS = {
    "cpu": {"usage": {"total": 5000, "kernel": 2000, "user": 3000, "percpu": [1, 2]}, "throttling": {"periods": 7}},
    "memory": {
        "raw": {"cache": 1, "rss": 2, "pgfault": 3, "swap": 4, "anon": 5, "hierarchical_memory_limit": 6},
        "usage": {"limit": 100, "usage": 10, "failcnt": 0, "max": 11},
        "swap": {"limit": 150, "usage": 12, "failcnt": 0},
        "kernel": {"limit": 0, "failcnt": 0},
        "kernelTCP": {"limit": 0, "failcnt": 0},
        "event_count": {"oom_kill": 1},
    },
    "pids": {"current": 3, "limit": 9},
    "blkio": {"ioServiceBytesRecursive": [{"major": 8, "op": "Read", "value": 4096}]},
    "hugetlb": {"2MB": {"failcnt": 1, "usage": 2}},
}


def test_metrics_of_version_1() -> None:
    from pysandbox.shim.messages.cgroups_v1 import Metrics

    message = metrics(STATS, version=1)

    assert Metrics.decode(message.encode()) == message
    assert isinstance(message, Metrics)
    assert message.memory is not None
    assert (message.memory.rss, message.memory.pg_fault, message.memory.usage.usage) == (2, 3, 10)  # type: ignore[union-attr]
    assert message.cpu.usage.per_cpu == [1, 2]  # type: ignore[union-attr]
    assert message.blkio.io_service_bytes_recursive[0].value == 4096  # type: ignore[union-attr]


def test_metrics_of_version_2() -> None:
    from pysandbox.shim.messages.cgroups_v2 import Metrics

    message = metrics(STATS, version=2)

    assert isinstance(message, Metrics)
    assert Metrics.decode(message.encode()) == message
    assert (message.memory.anon, message.memory.usage, message.memory.swap_usage, message.memory.swap_limit) == (
        5,
        10,
        2,
        50,
    )  # type: ignore[union-attr]
    assert (message.cpu.usage_usec, message.memory_events.oom_kill, message.io.usage[0].rbytes) == (5, 1, 4096)  # type: ignore[union-attr]
