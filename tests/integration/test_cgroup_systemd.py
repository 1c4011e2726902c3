"""Scopes over D-Bus, against a mock: a private bus, and on it a stand-in for systemd that records what it is asked.

Real systemd runs in the guest of `make soak`. The mock makes the cgroup and moves the process as systemd would, in the
cgroup2 tree of this host.
"""

from __future__ import annotations

import os
import secrets
import signal
import subprocess
import threading
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from jeepney import DBusAddress, HeaderFields, MessageType, message_bus, new_error, new_method_return, new_signal
from jeepney.io.blocking import DBusConnection, open_dbus_connection
from precondition import requires

from pysandbox.cgroup import directory
from pysandbox.cgroup.placement import load_cgroup
from pysandbox.cgroup.systemd import SystemdCgroup
from pysandbox.cgroup.v2 import CgroupV2
from pysandbox.errors import DeadlineExceeded, FailedPrecondition, Unavailable

if TYPE_CHECKING:
    from collections.abc import Iterator

MANAGER = DBusAddress(
    "/org/freedesktop/systemd1", bus_name="org.freedesktop.systemd1", interface="org.freedesktop.systemd1.Manager"
)
LIMIT = 10.0


@dataclass
class Mock:
    """systemd's manager, as far as scopes go. `results`: how jobs end; None: never. `errors`: answered first."""

    connection: DBusConnection
    root: Path
    results: dict[str, str | None] = field(default_factory=dict)
    errors: dict[str, list[str]] = field(default_factory=dict)
    calls: list[tuple[str, tuple[Any, ...]]] = field(default_factory=list)
    jobs: int = 0

    def serve(self) -> None:
        while True:
            try:
                message = self.connection.receive()
            except (OSError, EOFError):
                return
            if message.header.message_type is MessageType.method_call:
                self.answer(message)

    def answer(self, message: Any) -> None:
        method = message.header.fields[HeaderFields.member]
        self.calls.append((method, message.body))
        if self.errors.get(method):
            name = f"org.freedesktop.systemd1.{self.errors[method].pop(0)}"
            self.connection.send(new_error(message, name, "s", (f"mock says {name}",)))
        elif method == "Get":
            self.connection.send(new_method_return(message, "v", (("s", "252.39-1~deb12u1"),)))
        elif method in ("StartTransientUnit", "StopUnit"):
            self.job(message, method)
        else:
            self.connection.send(new_method_return(message))

    def job(self, message: Any, method: str) -> None:
        self.jobs += 1
        path, unit = f"/org/freedesktop/systemd1/job/{self.jobs}", message.body[0]
        if method == "StartTransientUnit":
            properties = dict(message.body[2])
            place = str(self.root / unit)
            directory.make(place)
            for pid in properties["PIDs"][1]:
                directory.write(place, "cgroup.procs", str(pid))
        result = self.results.get(method, "done")
        # The signal may overtake the reply: whoever waits must have been listening before.
        if result is not None:
            self.connection.send(new_signal(MANAGER, "JobRemoved", "uoss", (self.jobs, path, unit, result)))
        self.connection.send(new_method_return(message, "o", (path,)))

    def properties(self, method: str = "StartTransientUnit") -> dict[str, Any]:
        bodies = [body for name, body in self.calls if name == method]
        return {name: value for name, (_, value) in bodies[-1][2]}

    def names(self) -> list[str]:
        return [name for name, _ in self.calls if name not in ("Get", "Subscribe")]


@pytest.fixture
def bus(tmp_path: Path) -> Iterator[str]:
    requires("command dbus-daemon")
    address = f"unix:path={tmp_path}/bus"
    daemon = subprocess.Popen(
        ["dbus-daemon", "--session", "--nofork", f"--address={address}", "--print-address"], stdout=subprocess.PIPE
    )
    assert daemon.stdout is not None
    assert daemon.stdout.readline()
    yield address
    daemon.terminate()
    daemon.wait(LIMIT)
    daemon.stdout.close()


@pytest.fixture
def root() -> Iterator[Path]:
    requires("root")
    mounts = [
        line.split(" ")[4] for line in Path("/proc/self/mountinfo").read_text().splitlines() if " - cgroup2 " in line
    ]
    if not mounts:
        pytest.skip("no cgroup2 file system is mounted")
    path = Path(mounts[0], f"pysandbox-test-{secrets.token_hex(4)}")
    path.mkdir()
    yield path
    for pid in directory.processes(str(path)):
        os.kill(pid, signal.SIGKILL)
    directory.remove_tree(str(path))


@pytest.fixture
def systemd(bus: str, root: Path) -> Iterator[Mock]:
    connection = open_dbus_connection(bus)
    connection.send_and_get_reply(message_bus.RequestName(MANAGER.bus_name))
    mock = Mock(connection, root)
    thread = threading.Thread(target=mock.serve)
    thread.start()
    yield mock
    connection.sock.shutdown(2)
    thread.join(LIMIT)
    connection.close()


@pytest.fixture
def scope(bus: str, root: Path) -> SystemdCgroup:
    inner = CgroupV2(str(root / "runc-c1.scope"), "c1")
    return SystemdCgroup(inner, "system.slice", "runc-c1.scope", bus=bus, limit=LIMIT)


@pytest.fixture
def process() -> Iterator[subprocess.Popen[bytes]]:
    process = subprocess.Popen(["sleep", "60"])
    yield process
    process.kill()
    process.wait()


def test_the_scope_is_made_with_the_first_process(scope: SystemdCgroup, systemd: Mock, process: Any) -> None:
    scope.create({})
    assert systemd.calls == []

    scope.add(process.pid)

    (call,) = [body for name, body in systemd.calls if name == "StartTransientUnit"]
    assert call[0] == "runc-c1.scope"
    assert call[1] == "replace"
    properties = systemd.properties()
    assert properties["PIDs"] == [process.pid]
    assert properties["Slice"] == "system.slice"
    assert properties["Delegate"] is True
    assert properties["DefaultDependencies"] is False
    assert properties["MemoryAccounting"] is properties["CPUAccounting"] is properties["IOAccounting"] is True
    assert scope.pids() == [process.pid]


def test_limits_reach_systemd_and_the_files(scope: SystemdCgroup, systemd: Mock, process: Any) -> None:
    requires("cgroup v2 hugetlb")
    scope.create(
        {
            "hugepageLimits": [{"pageSize": "2MB", "limit": 2 << 20}],
            "devices": [{"allow": True, "type": "c", "major": 1, "minor": 11, "access": "r"}],
        }
    )

    scope.add(process.pid)

    assert ("/dev/char/1:11", "r") in systemd.properties()["DeviceAllow"]
    assert directory.read(scope.paths()[""], "hugetlb.2MB.max").strip() == str(2 << 20)


def test_a_second_process_joins_without_systemd(scope: SystemdCgroup, systemd: Mock, process: Any) -> None:
    scope.create({})
    scope.add(process.pid)
    calls = len(systemd.calls)
    second = subprocess.Popen(["sleep", "60"])

    try:
        scope.add(second.pid)
        assert scope.pids() == sorted([process.pid, second.pid])
        assert len(systemd.calls) == calls
    finally:
        second.kill()
        second.wait()


def test_an_update_sets_properties_until_the_unit_ends(scope: SystemdCgroup, systemd: Mock, process: Any) -> None:
    scope.create({})
    scope.add(process.pid)

    scope.apply({"devices": [], "unified": {"cgroup.max.depth": "5"}})

    (body,) = [body for name, body in systemd.calls if name == "SetUnitProperties"]
    assert body[:2] == ("runc-c1.scope", True)
    assert systemd.properties("SetUnitProperties")["DevicePolicy"] == "strict"
    assert directory.read(scope.paths()[""], "cgroup.max.depth").strip() == "5"


def test_another_process_takes_hold_of_the_scope_and_stops_it(
    scope: SystemdCgroup, systemd: Mock, process: Any, bus: str
) -> None:
    scope.create({})
    scope.add(process.pid)
    loaded = load_cgroup(scope.saved())
    assert isinstance(loaded, SystemdCgroup)
    loaded._bus = bus

    loaded.kill()
    loaded.remove()

    assert process.wait(LIMIT) == -signal.SIGKILL
    assert systemd.names()[-2:] == ["StopUnit", "ResetFailedUnit"]
    assert not os.path.exists(scope.paths()[""])


def test_removing_what_is_gone_is_no_error(scope: SystemdCgroup, systemd: Mock, process: Any) -> None:
    scope.create({})
    scope.add(process.pid)
    scope.kill()
    systemd.errors["StopUnit"] = ["NoSuchUnit"]

    scope.remove()

    assert not os.path.exists(scope.paths()[""])


def test_the_scope_of_another_container_is_not_stopped(
    scope: SystemdCgroup, systemd: Mock, process: Any, bus: str
) -> None:
    scope.create({})
    scope.add(process.pid)
    other = SystemdCgroup(CgroupV2(scope.paths()[""], "c2"), "system.slice", scope.unit, bus=bus, limit=LIMIT)

    with pytest.raises(FailedPrecondition, match="not empty"):
        other.create({})
    other.kill()
    other.remove()

    assert "StopUnit" not in systemd.names()
    assert process.poll() is None


def test_a_unit_left_over_from_a_failure_is_cleared_and_tried_once_more(
    scope: SystemdCgroup, systemd: Mock, process: Any
) -> None:
    systemd.errors["StartTransientUnit"] = ["UnitExists"]
    scope.create({})

    scope.add(process.pid)

    assert systemd.names() == ["StartTransientUnit", "ResetFailedUnit", "StartTransientUnit"]


@pytest.mark.parametrize(
    ("errors", "text"),
    [
        (
            ["UnitExists", "UnitExists"],
            "unable to start unit runc-c1.scope: mock says org.freedesktop.systemd1.UnitExists",
        ),
        (["BadUnitSetting"], "unable to start unit runc-c1.scope: mock says org.freedesktop.systemd1.BadUnitSetting"),
    ],
)
def test_what_systemd_says_is_passed_on(
    scope: SystemdCgroup, systemd: Mock, process: Any, errors: list[str], text: str
) -> None:
    systemd.errors["StartTransientUnit"] = errors
    scope.create({})

    with pytest.raises(Unavailable) as refusal:
        scope.add(process.pid)

    assert str(refusal.value) == text


def test_a_job_that_fails_is_an_error(scope: SystemdCgroup, systemd: Mock, process: Any) -> None:
    systemd.results["StartTransientUnit"] = "failed"
    scope.create({})

    with pytest.raises(Unavailable, match='error creating systemd unit runc-c1.scope: got "failed"'):
        scope.add(process.pid)


def test_a_job_that_never_ends_is_given_up(scope: SystemdCgroup, systemd: Mock, process: Any, bus: str) -> None:
    systemd.results["StartTransientUnit"] = None
    hasty = SystemdCgroup(CgroupV2(scope.paths()[""], "c1"), "system.slice", scope.unit, bus=bus, limit=0.3)
    hasty.create({})

    with pytest.raises(DeadlineExceeded, match="waiting for systemd's job for runc-c1.scope"):
        hasty.add(process.pid)


def test_a_stranger_on_the_bus_cannot_say_that_the_job_is_done(
    scope: SystemdCgroup, systemd: Mock, process: Any, bus: str
) -> None:
    """Broadcasts are filtered by the bus, but anybody may send a signal straight to our unique name."""
    systemd.results["StartTransientUnit"] = None
    hasty = SystemdCgroup(CgroupV2(scope.paths()[""], "c1"), "system.slice", scope.unit, bus=bus, limit=0.5)
    hasty.create({})
    stop = threading.Event()
    sent = threading.Event()

    def forge() -> None:
        with open_dbus_connection(bus) as stranger:
            while not stop.wait(0.02):
                for number in range(1, 20):
                    body = (1, "/org/freedesktop/systemd1/job/1", scope.unit, "done")
                    forged = new_signal(MANAGER, "JobRemoved", "uoss", body)
                    forged.header.fields[HeaderFields.destination] = f":1.{number}"
                    stranger.send(forged)
                sent.set()

    thread = threading.Thread(target=forge)
    thread.start()
    try:
        with pytest.raises(DeadlineExceeded):
            hasty.add(process.pid)
    finally:
        stop.set()
        thread.join(LIMIT)
    assert sent.is_set()


def test_without_a_bus_one_line_says_so(scope: SystemdCgroup, root: Path, process: Any, tmp_path: Path) -> None:
    inner = CgroupV2(scope.paths()[""], "c1")
    lost = SystemdCgroup(inner, "system.slice", scope.unit, bus=f"unix:path={tmp_path}/none")
    lost.create({})

    with pytest.raises(Unavailable, match="^unable to reach systemd over D-Bus: "):
        lost.add(process.pid)
