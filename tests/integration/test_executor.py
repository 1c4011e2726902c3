"""The executor, driven by raw plans as root: what each operation does, and what it refuses."""

from __future__ import annotations

import array
import base64
import errno
import fcntl
import json
import os
import platform
import select
import shutil
import signal
import socket
import struct
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import pytest
from descriptors import open_descriptors
from precondition import requires
from runtime import children, end_children, eventually

from pysandbox import executor
from pysandbox.backend import Stdio
from pysandbox.caller import Start, current
from pysandbox.errors import DeadlineExceeded, Unavailable
from pysandbox.executor import Descriptor, ExecutorError, Launch, Listener, Pid, Step, Stop
from pysandbox.plan import operation as op
from pysandbox.plan.operation import Operation
from pysandbox.plan.plan import Plan

MS_SLAVE, MS_REC, MS_PRIVATE, MS_REMOUNT = 1 << 19, 1 << 14, 1 << 18, 0x20
MOUNT_ATTR_RDONLY, MOUNT_ATTR_NOEXEC = 1, 8
NAMESPACES = ["mount", "pid", "ipc", "uts", "network"]
ALL_CAPABILITIES = sum(1 << bit for bit in range(41) if bit != 24)  # CAP_SYS_RESOURCE: not everywhere
END_TIMEOUT = 20.0


def setup_module() -> None:
    requires("root", "kernel 5.12")


# -- driving plans -----------------------------------------------------------------------------------------------------


@pytest.fixture
def rootfs(busybox_rootfs: Path, tmp_path: Path) -> Path:
    """A root file system of the test's own."""
    root = tmp_path / "rootfs"
    shutil.copytree(busybox_rootfs, root, symlinks=True)
    return root


@pytest.fixture(autouse=True)
def no_child_left() -> Iterator[None]:
    """Every test reaps what it started; what a failed one leaves is ended."""
    known = set(children())
    yield
    left = set(children()) - known
    end_children(known)
    assert not left


@pytest.fixture
def canary(tmp_path: Path) -> Path:
    """A directory of the host that no container may touch."""
    directory = tmp_path / "canary"
    directory.mkdir()
    (directory / "file").write_text("untouched")
    return directory


def contents(directory: Path) -> dict[str, str]:
    return {str(path): path.read_text() if path.is_file() else "" for path in directory.rglob("*")}


class Run:
    """One executor: what it said, and what became of its process."""

    def __init__(self, launch: Launch, output: Path) -> None:
        self.launch = launch
        self.output = output
        self.messages: list[object] = []

    def talk(self, answers: Mapping[str, Callable[[int], object]] | None = None, until: str | None = None) -> Run:
        while (message := self.launch.next(END_TIMEOUT)) is not None:
            self.messages.append(message)
            if isinstance(message, Stop):
                (answers or {}).get(message.name, lambda pid: None)(self.launch.pid or self.launch.outer_pid)
                if message.name == until:
                    return self
                self.launch.go()
        return self

    def wait(self) -> int:
        return os.waitstatus_to_exitcode(os.waitpid(self.launch.pid, 0)[1])

    @property
    def text(self) -> str:
        return self.output.read_text()


def spawn(operations: Sequence[Operation], output: Path, *, trace: bool = False, **slots: int) -> Run:
    plan = Plan(operations=list(operations), trace=trace).to_json()
    with output.open("wb") as stdout, open("/dev/null", "rb") as stdin:
        stdio = Stdio(stdin=stdin.fileno(), stdout=stdout.fileno(), stderr=stdout.fileno())
        return Run(executor.spawn(plan, stdio=stdio, slots=slots), output)


def run(operations: Sequence[Operation], output: Path, **slots: int) -> str:
    """Run a plan to its end; what the program wrote. Its exit code must be 0."""
    ran = spawn(operations, output, **slots).talk()
    code = ran.wait()
    assert code == 0, ran.text
    return ran.text


def fail(operations: Sequence[Operation], output: Path, **slots: int) -> ExecutorError:
    """Run a plan that must fail before its program does."""
    ran = spawn(operations, output, **slots)
    with pytest.raises(ExecutorError) as caught:
        ran.talk()
    return caught.value


def beginning(rootfs: Path, *outer: Operation, namespaces: Sequence[str] = NAMESPACES) -> list[Operation]:
    """Up to the attached rootfs and a private procfs, in new namespaces."""
    return [
        op.dumpable(False),
        op.open_tree("rootfs", str(rootfs), recursive=True),
        op.open_null("null"),
        *outer,
        op.unshare(namespaces),
        op.clone(),
        op.parent_death_signal(signal.SIGKILL),
        op.root_propagation(MS_SLAVE | MS_REC),
        op.attach_root("rootfs"),
        op.open_proc(),
    ]


PROC = op.mount_filesystem("proc", "proc", "/proc", follow=False)
DEV = [
    op.mount_filesystem("tmpfs", "tmpfs", "/dev", options=[("mode", "755")]),
    op.mount_filesystem(
        "devpts", "devpts", "/dev/pts", options=[("newinstance", None), ("ptmxmode", "0666"), ("mode", "0620")]
    ),
    op.make_device("/dev/null", "c", 1, 3, 0o666, 0, 0),
    op.make_device("/dev/tty", "c", 5, 0, 0o666, 0, 0),
]


def ending(*args: str, env: Sequence[str] = ()) -> list[Operation]:
    return [op.find_program(args[0], "/bin", "/"), op.close_descriptors(0), op.execute(args, ["PATH=/bin", *env])]


def sh(script: str) -> list[Operation]:
    return ending("sh", "-c", script)


def container(rootfs: Path, inside: Sequence[Operation], script: str) -> list[Operation]:
    """A container whose `inside` operations stand between its procfs and `pivot_root`."""
    return [*beginning(rootfs), PROC, *inside, op.pivot_root(), *sh(script)]


def status(text: str) -> dict[str, str]:
    return dict(line.split(":\t", 1) for line in text.splitlines() if ":\t" in line)


# -- the whole way -----------------------------------------------------------------------------------------------------


def test_a_program_runs_in_namespaces_and_a_root_of_its_own(rootfs: Path, tmp_path: Path) -> None:
    plan = [
        *beginning(rootfs), op.new_session(), op.loopback(), PROC, *DEV, op.pivot_root(), op.hostname("box"),
        op.domainname("domain"), op.umask(0o27),
        *sh("echo $$; hostname; cat /proc/sys/kernel/domainname; umask; cat /proc/mounts | cut -d' ' -f2; "
            "ls -A /; cat /sys/class/net/lo/flags 2>/dev/null; ip link show lo | head -1"),
    ]  # fmt: skip

    lines = run(plan, tmp_path / "out").splitlines()

    assert lines[:8] == ["1", "box", "domain", "0027", "/", "/proc", "/dev", "/dev/pts"]
    assert any("UP" in line for line in lines)


def test_the_pid_comes_before_anything_the_child_says(rootfs: Path, tmp_path: Path) -> None:
    ran = spawn([*beginning(rootfs), op.stop("in child"), op.pivot_root(), *ending("true")], tmp_path / "out").talk()
    assert ran.wait() == 0
    assert ran.messages == [Pid(ran.launch.pid), Stop("in child")]


@pytest.mark.parametrize(("namespaces", "told"), [(["mount"], 2), (["mount", "pid"], 1), (["mount", "pid", "time"], 2)])
def test_the_process_that_clones_ends_well(rootfs: Path, namespaces: Sequence[str], told: int) -> None:
    """Whether it is forked, and tells the pid too, or hands its memory over."""
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    with open("/dev/null", "rb+") as null, ours:
        outer = _start(null.fileno(), theirs)
        _give(ours, [*beginning(rootfs, namespaces=namespaces), op.stop("in child")])
        said = [json.loads(ours.recv(4096)) for _ in range(told + 1)]
        pid = next(message["pid"] for message in said if "pid" in message)
        status = os.waitpid(outer, 0)[1]
        os.kill(pid, signal.SIGKILL)
        os.waitpid(pid, 0)

    assert sorted(map(json.dumps, said)) == [*[json.dumps({"pid": pid})] * told, json.dumps({"stop": "in child"})]
    assert os.waitstatus_to_exitcode(status) == 0


def _start(null: int, theirs: socket.socket) -> int:
    """Start an executor without `Launch`, which reaps and forgets what this test is about."""
    copy = executor.sealed_executor()
    try:
        return current().spawn(copy, ["pysandbox-init", "report=3"], {}, [null, null, null, theirs.fileno()])
    finally:
        os.close(copy)
        theirs.close()


def _give(ours: socket.socket, operations: Sequence[Operation]) -> None:
    with tempfile.TemporaryFile() as plan:
        plan.write(Plan(operations=list(operations)).to_json())
        plan.seek(0)
        socket.send_fds(ours, [b'{"slots": ["plan"]}'], [plan.fileno()])
    ours.settimeout(END_TIMEOUT)


def test_tracing_reports_every_operation_with_rising_times(rootfs: Path, tmp_path: Path) -> None:
    plan = [*beginning(rootfs), op.pivot_root(), *ending("true")]
    ran = spawn(plan, tmp_path / "out", trace=True).talk()
    assert ran.wait() == 0
    steps = [message for message in ran.messages if isinstance(message, Step)]
    assert [step.op for step in steps] == ["wait_plan", "plan", *(operation.name for operation in plan)]
    assert [step.index for step in steps] == [0, 0, *range(len(plan))]
    times = [ran.launch.spawned, *(step.ns for step in steps)]
    assert sorted(times) == times


# -- start and give ----------------------------------------------------------------------------------------------------


@pytest.fixture
def null() -> Iterator[int]:
    descriptor = os.open("/dev/null", os.O_RDWR)
    yield descriptor
    os.close(descriptor)


def exit_code(pid: int) -> int:
    """Reap a child that ends by itself."""
    eventually(lambda: os.waitid(os.P_PID, pid, os.WEXITED | os.WNOHANG | os.WNOWAIT) is not None, f"{pid} ends")
    return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])


def test_an_executor_that_was_started_waits_for_its_plan(rootfs: Path, tmp_path: Path) -> None:
    plan = Plan(operations=[*beginning(rootfs), op.pivot_root(), *sh("echo ran")], trace=True).to_json()
    with (tmp_path / "out").open("wb") as out:
        launch = executor.start(Stdio(stdout=out.fileno()))
    time.sleep(0.2)
    given = time.monotonic_ns()
    launch.give(plan, {})
    ran = Run(launch, tmp_path / "out").talk()
    assert (ran.wait(), ran.text) == (0, "ran\n")
    waits, came = [message for message in ran.messages if isinstance(message, Step)][:2]
    assert (waits.op, came.op) == ("wait_plan", "plan")
    assert launch.spawned < waits.ns < given < came.ns


def started_early(operations: Sequence[Operation], output: Path) -> Run:
    """Start an executor that makes a network namespace at once, and give it the plan."""
    with output.open("wb") as out:
        launch = executor.start(Stdio(stdout=out.fileno(), stderr=out.fileno()), network=True)
    launch.give(Plan(operations=list(operations), trace=True).to_json(), {})
    return Run(launch, output)


def test_a_network_namespace_can_be_made_before_the_plan_comes(rootfs: Path, tmp_path: Path) -> None:
    plan = [
        *beginning(rootfs),
        op.loopback(),
        PROC,
        op.pivot_root(),
        *sh("readlink /proc/self/ns/net; ip link | wc -l"),
    ]
    ran = started_early(plan, tmp_path / "out").talk()
    assert ran.wait() == 0, ran.text
    namespace, lines = ran.text.split()
    assert namespace != os.readlink("/proc/self/ns/net")
    assert lines == "2"  # lo, on two lines
    steps = [message.op for message in ran.messages if isinstance(message, Step)]
    assert steps[:3] == ["network", "wait_plan", "plan"]


@pytest.mark.parametrize("namespaces", [["mount", "pid"], ["user"]], ids=["none", "a user namespace's"])
def test_a_plan_for_another_network_than_the_one_made_early_is_refused(
    rootfs: Path, tmp_path: Path, namespaces: Sequence[str]
) -> None:
    plan = [op.unshare(namespaces), *beginning(rootfs, namespaces=["network"] if "user" in namespaces else ["ipc"])]
    with pytest.raises(ExecutorError, match="a network namespace was made before the plan came"):
        started_early([*plan, *ending("true")], tmp_path / "out").talk()


def test_what_is_given_is_closed_on_exec(tmp_path: Path) -> None:
    start = os.open(_fifo(tmp_path), os.O_RDWR)
    ran = spawn([op.stop("here")], tmp_path / "out", start=start).talk(until="here")
    os.close(start)
    of = Path(f"/proc/{ran.launch.outer_pid}")
    flags = {
        os.readlink(of / "fd" / entry.name): int(entry.read_text().split("flags:\t")[1].split()[0], 8)
        for entry in (of / "fdinfo").iterdir()
        if int(entry.name) > 2
    }
    ran.launch.abort()
    assert str(tmp_path / "fifo") in flags
    assert all(flag & os.O_CLOEXEC for flag in flags.values()), flags


def test_an_executor_without_a_plan_ends_with_its_caller_and_without_a_word(tmp_path: Path) -> None:
    with (tmp_path / "out").open("wb") as out:
        launch = executor.start(Stdio(stdout=out.fileno(), stderr=out.fileno()))
    pid = launch.outer_pid
    launch.close()
    assert exit_code(pid) == 1
    assert (tmp_path / "out").read_bytes() == b""


def test_an_abort_before_the_plan_leaves_nothing() -> None:
    before = open_descriptors()
    for delay in (0, 0.0005, 0.002, 0.008):
        launch = executor.start(Stdio())
        time.sleep(delay)
        launch.abort()
        assert not os.path.exists(f"/proc/{launch.outer_pid}")
    assert open_descriptors() == before


def test_more_slots_than_an_executor_takes_are_refused_before_they_are_sent(null: int) -> None:
    with pytest.raises(ValueError, match="32 slots"):
        executor.spawn(b"{}", stdio=Stdio(), slots={f"s{number}": null for number in range(executor.MOST_SLOTS)})


def test_as_many_slots_as_an_executor_takes_arrive(null: int) -> None:
    names = [f"tasks{number}" for number in range(executor.MOST_SLOTS - 1)]
    plan = Plan(operations=[op.enter_cgroups(names), op.stop("here")]).to_json()
    launch = executor.spawn(plan, stdio=Stdio(), slots=dict.fromkeys(names, null))
    assert launch.next() == Stop("here")
    launch.abort()


def test_an_executor_that_cannot_be_started_is_told_at_the_plan(monkeypatch: pytest.MonkeyPatch) -> None:
    before = open_descriptors()

    def fail(*_: object, **__: object) -> int:
        raise BlockingIOError("no process left")

    monkeypatch.setattr("os.posix_spawn", fail)
    launch = executor.start(Stdio())
    with pytest.raises(BlockingIOError):
        launch.give(b"{}", {})
    launch.abort()
    assert open_descriptors() == before


def first_datagram(datagram: bytes, descriptors: Sequence[int], output: Path) -> tuple[int, bytes]:
    """Start an executor and send it one datagram; its exit code, and what it has to say."""
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    with output.open("wb") as out, ours:
        arguments = ["pysandbox-init", f"report={theirs.fileno()}"]
        process = subprocess.Popen(
            arguments, executable=executor.executor_path(), pass_fds=[theirs.fileno()], stdout=out, stderr=out
        )
        theirs.close()
        rights = [(socket.SOL_SOCKET, socket.SCM_RIGHTS, array.array("i", descriptors))] if descriptors else []
        ours.sendmsg([datagram], rights)
        ours.settimeout(END_TIMEOUT)
        said = ours.recv(65536)
        return process.wait(END_TIMEOUT), said


@pytest.mark.parametrize(
    ("datagram", "count"),
    [
        (b"{", 1),
        (b"\xff", 1),
        (b'["plan"]', 1),
        (b'{"go":true}', 0),
        (b'{"slots":["plan"],"go":true}', 1),
        (b'{"slots":["plan"]}', 0),
        (b'{"slots":["plan"]}', 2),
        (b'{"slots":["plan","plan"]}', 2),
        (b'{"slots":["plan",""]}', 2),
        (b'{"slots":["plan",7]}', 2),
        (json.dumps({"slots": ["plan", *(f"s{number}" for number in range(32))]}).encode(), 33),
        (json.dumps({"slots": ["plan" + " " * 5000]}).encode(), 1),
        (b"[" * 4000, 0),
    ],
    ids=lambda value: value[:28].decode(errors="replace") if isinstance(value, bytes) else str(value),
)
def test_an_odd_first_datagram_ends_the_executor_without_a_word(
    datagram: bytes, count: int, null: int, tmp_path: Path
) -> None:
    assert first_datagram(datagram, [null] * count, tmp_path / "out") == (1, b"")
    assert (tmp_path / "out").read_bytes() == b""


def test_slots_without_a_plan_are_an_error_that_is_told(null: int, tmp_path: Path) -> None:
    code, said = first_datagram(b'{"slots":["start"]}', [null], tmp_path / "out")
    assert code == 1
    assert json.loads(said)["error"]["text"] == "no slot named plan"


def test_an_executor_whose_caller_dies_before_it_gives_the_plan_dies_too(tmp_path: Path) -> None:
    caller = _caller(
        tmp_path,
        "launch = executor.start(Stdio())\n"
        "print(launch.outer_pid, flush=True)\n"
        "sys.stdin.read()\n"
    )  # fmt: skip
    assert caller.stdout is not None
    pid = int(caller.stdout.readline())
    assert os.path.exists(f"/proc/{pid}")
    caller.kill()
    caller.communicate()
    eventually(lambda: pid not in _grandchildren() and not os.path.exists(f"/proc/{pid}"), "it is gone", seconds=5)


def _caller(tmp_path: Path, script: str) -> subprocess.Popen[bytes]:
    """A process that talks to an executor; who reads its lines may kill it then."""
    path = tmp_path / "caller.py"
    path.write_text(f"import sys\nfrom pysandbox import executor\nfrom pysandbox.backend import Stdio\n{script}")
    environment = {"PYTHONPATH": os.pathsep.join(path for path in sys.path if path)}
    return subprocess.Popen([sys.executable, str(path)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, env=environment)


# -- plans -------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("document", "text"),
    [
        (b'{"version":2,"operations":[]}', "version: 2, this executor knows 1"),
        (b'{"version":1,"operations":[{"op":"explode"}]}', "operations[0]: explode: unknown operation"),
        (b'{"version":1,"operations":[{"op":"umask"}]}', "operations[0]: umask: value: missing"),
        (b'{"version":1,"operations":[{"op":"new_session","x":1}]}', "x: unknown argument"),
        (b"{", "EOF"),
    ],
)
def test_a_plan_that_is_not_understood_is_refused_before_anything_is_done(document: bytes, text: str) -> None:
    launch = executor.spawn(document, stdio=Stdio(), slots={})
    with pytest.raises(ExecutorError, match="plan") as caught:
        launch.next()
    assert text in caught.value.text
    assert launch.pid == 0


def test_every_operation_of_the_contract_is_known_to_the_executor() -> None:
    names = {name for name, value in vars(op).items() if callable(value) and value.__module__ == op.__name__}
    names -= {"Operation", "_operation"}
    for name in sorted(names):
        document = json.dumps({"version": 1, "operations": [{"op": name, "surely not": 1}]}).encode()
        launch = executor.spawn(document, stdio=Stdio(), slots={})
        with pytest.raises(ExecutorError) as caught:
            launch.next()
        assert "unknown operation" not in caught.value.text, name


# -- destinations ------------------------------------------------------------------------------------------------------


def test_a_link_to_the_host_is_followed_below_the_root_only(rootfs: Path, canary: Path, tmp_path: Path) -> None:
    before = contents(canary)
    (rootfs / "link").symlink_to(canary)
    mount = op.mount_filesystem("tmpfs", "tmpfs", "/link/new")

    out = run(container(rootfs, [mount], "cut -d' ' -f2 /proc/mounts"), tmp_path / "out")

    assert f"{canary}/new" in out
    assert contents(canary) == before
    assert (rootfs / str(canary).lstrip("/") / "new").is_dir()


@pytest.mark.parametrize("target", ["../../../../../../../../run", "/run", "gone/../run"])
def test_a_dangling_link_is_made_below_the_root(rootfs: Path, tmp_path: Path, target: str) -> None:
    (rootfs / "run").rmdir() if (rootfs / "run").exists() else None
    (rootfs / "gone").mkdir()
    (rootfs / "link").symlink_to(target)

    run(container(rootfs, [op.make_directory("/link/a/b")], "true"), tmp_path / "out")

    assert (rootfs / "run/a/b").is_dir()


def test_links_in_a_circle_are_refused(rootfs: Path, tmp_path: Path) -> None:
    (rootfs / "a").symlink_to("b")
    (rootfs / "b").symlink_to("a")
    error = fail(container(rootfs, [op.make_directory("/a/c")], "true"), tmp_path / "out")
    assert (error.op, error.errno) == ("make_directory", 40)


def test_a_bind_makes_a_directory_or_a_file_as_its_source_is(rootfs: Path, canary: Path, tmp_path: Path) -> None:
    outer = [
        op.open_tree("d", str(canary), recursive=True),
        op.open_tree("f", str(canary / "file"), recursive=False),
        op.set_attributes("d", set=MOUNT_ATTR_RDONLY),
    ]
    plan = [
        *beginning(rootfs, *outer), PROC, op.mount_bind("d", "/new/d"), op.mount_bind("f", "/new/f"), op.pivot_root(),
        *sh("cat /new/d/file /new/f; touch /new/d/x; true"),
    ]  # fmt: skip
    out = run(plan, tmp_path / "out")
    assert out.startswith("untoucheduntouched")
    assert "Read-only file system" in out


def test_a_mount_attached_twice_is_a_copy_the_second_time(rootfs: Path, canary: Path, tmp_path: Path) -> None:
    plan = [
        *beginning(rootfs, op.open_tree("d", str(canary), recursive=True)), PROC, op.mount_bind("d", "/a"),
        op.mount_bind("d", "/b"), op.pivot_root(), *sh("cat /a/file /b/file"),
    ]  # fmt: skip
    assert run(plan, tmp_path / "out") == "untoucheduntouched"


@pytest.mark.parametrize("kind", ["proc", "sysfs"])
def test_procfs_is_not_mounted_through_a_link(rootfs: Path, tmp_path: Path, kind: str) -> None:
    """CVE-2019-19921: labels and masks would go to files of the attacker's."""
    shutil.rmtree(rootfs / "proc", ignore_errors=True)
    (rootfs / "proc").symlink_to("tmp")
    error = fail([*beginning(rootfs), op.mount_filesystem(kind, kind, "/proc", follow=False)], tmp_path / "out")
    assert (error.op, error.path) == ("mount_filesystem", "/proc")
    assert error.text == "must be mounted on ordinary directory"


def test_procfs_is_not_mounted_on_a_file(rootfs: Path, tmp_path: Path) -> None:
    shutil.rmtree(rootfs / "proc", ignore_errors=True)
    (rootfs / "proc").write_text("")
    error = fail([*beginning(rootfs), PROC], tmp_path / "out")
    assert error.text == "must be mounted on ordinary directory"


def test_nothing_is_bound_over_procfs(rootfs: Path, canary: Path, tmp_path: Path) -> None:
    """CVE-2019-16884. What the plan allows there (lxcfs) is bound."""
    outer = op.open_tree("f", str(canary / "file"), recursive=False)
    start = [*beginning(rootfs, outer), PROC]
    error = fail([*start, op.mount_bind("f", "/proc/self/attr/exec")], tmp_path / "out")
    assert (error.op, error.path) == ("mount_bind", "/proc/self/attr/exec")

    allowed = [*start, op.mount_bind("f", "/proc/uptime", on_proc=True), op.pivot_root(), *sh("cat /proc/uptime")]
    assert run(allowed, tmp_path / "out") == "untouched"


def test_a_source_that_is_a_link_can_be_refused(rootfs: Path, canary: Path, tmp_path: Path) -> None:
    link = tmp_path / "link"
    link.symlink_to(canary)
    error = fail([op.open_tree("d", str(link), recursive=True, follow=False)], tmp_path / "out")
    assert (error.op, error.path) == ("open_tree", str(link))
    assert error.errno == 40


def test_a_wrong_option_is_explained(rootfs: Path, tmp_path: Path) -> None:
    mount = op.mount_filesystem("tmpfs", "tmpfs", "/mnt", options=[("colour", "red")])
    error = fail([*beginning(rootfs), mount], tmp_path / "out")
    assert (error.op, error.call) == ("mount_filesystem", "fsconfig")
    assert "colour" in error.text


def test_mount2_is_used_where_the_plan_says_so(rootfs: Path, tmp_path: Path) -> None:
    mount = op.mount_filesystem("tmpfs", "tmpfs", "/mnt", legacy_flags=0x8, legacy_data="size=64k")
    out = run(container(rootfs, [mount], "grep /mnt /proc/mounts"), tmp_path / "out")
    assert "noexec" in out
    assert "size=64k" in out


def test_a_tmpfs_can_keep_the_mode_and_the_content_of_what_it_covers(rootfs: Path, tmp_path: Path) -> None:
    covered = rootfs / "covered"
    (covered / "d").mkdir(parents=True)
    covered.chmod(0o711)
    (covered / "d/f").write_text("content")
    os.chown(covered / "d/f", 5, 6)
    (covered / "d/f").chmod(0o4755)
    (covered / "l").symlink_to("/etc/shadow")
    os.mkfifo(covered / "p")
    mount = op.mount_filesystem(
        "tmpfs", "tmpfs", "/covered", attributes=MOUNT_ATTR_RDONLY, copy_up=True, keep_mode=True
    )
    out = run(
        container(
            rootfs, [mount], "cd /covered; stat -c '%a %u %g %n' . d/f; cat d/f; readlink l; test -p p; touch x || :"
        ),
        tmp_path / "out",
    )
    assert out.splitlines()[:3] == ["711 0 0 .", "4755 5 6 d/f", "content/etc/shadow"]
    assert "Read-only" in out


def test_attributes_can_be_set_on_a_mount_of_the_container(rootfs: Path, tmp_path: Path) -> None:
    plan = [
        *beginning(rootfs), PROC, *DEV, op.pivot_root(), op.remount("/dev", set=MOUNT_ATTR_RDONLY),
        op.remount("/", set=MOUNT_ATTR_RDONLY),
        *sh("touch /dev/x; touch /x; touch /dev/pts/x; true"),
    ]  # fmt: skip
    out = run(plan, tmp_path / "out")
    assert out.count("Read-only file system") == 2
    assert fail([*plan[:-4], op.remount("/nowhere", set=1)], tmp_path / "out").op == "remount"


def test_mounts_of_a_container_do_not_reach_the_host(rootfs: Path, canary: Path, tmp_path: Path) -> None:
    before = Path("/proc/self/mountinfo").read_text()
    run(container(rootfs, [op.mount_filesystem("tmpfs", "tmpfs", "/mnt")], "true"), tmp_path / "out")
    assert Path("/proc/self/mountinfo").read_text() == before


def test_a_rootfs_on_a_shared_mount_becomes_the_root_and_tells_nobody(rootfs: Path, tmp_path: Path) -> None:
    subprocess.run(["mount", "--bind", str(rootfs), str(rootfs)], check=True)
    try:
        subprocess.run(["mount", "--make-shared", str(rootfs)], check=True)
        before = Path("/proc/self/mountinfo").read_text()
        inside = [op.mount_filesystem("tmpfs", "tmpfs", "/mnt")]
        out = run(container(rootfs, inside, "cat /proc/self/mountinfo"), tmp_path / "out")
        assert "shared:" not in out
        assert Path("/proc/self/mountinfo").read_text() == before
    finally:
        subprocess.run(["umount", "-l", str(rootfs)], check=True)


# -- devices -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "operation",
    [
        op.make_device("/dev/null", "c", 1, 3, 0o666, 0, 0),
        op.make_link("/dev/ptmx", "pts/ptmx", replace=True),
        op.make_link("/dev/fd", "/proc/self/fd"),
    ],
)
def test_devices_are_not_made_through_a_link(rootfs: Path, canary: Path, tmp_path: Path, operation: Operation) -> None:
    """CVE-2026-41579."""
    before = contents(canary)
    shutil.rmtree(rootfs / "dev", ignore_errors=True)
    (rootfs / "dev").symlink_to(canary)
    error = fail([*beginning(rootfs), operation], tmp_path / "out")
    assert error.op == operation.name
    assert contents(canary) == before
    assert not (rootfs / str(canary).lstrip("/")).exists()


def test_devices_have_the_mode_and_owner_asked_for(rootfs: Path, tmp_path: Path) -> None:
    inside = [
        op.make_device("/dev/zero", "c", 1, 5, 0o642, 3, 4),
        op.make_device("/dev/fifo", "p", 0, 0, 0o600, 0, 0),
        op.make_device("/dev/zero", "c", 1, 5, 0o600, 0, 0),
    ]
    out = run(container(rootfs, inside, "stat -c '%F %a %u %g %t:%T' /dev/zero /dev/fifo"), tmp_path / "out")
    assert out.splitlines() == ["character special file 642 3 4 1:5", "fifo 600 0 0 0:0"]


def test_a_device_after_a_mount_over_its_directory_lies_in_the_mount(rootfs: Path, tmp_path: Path) -> None:
    tmpfs = op.mount_filesystem("tmpfs", "tmpfs", "/dev", options=[("mode", "755")])
    devices = [op.make_device(f"/dev/{name}", "c", 1, number, 0o666, 0, 0) for name, number in (("a", 3), ("b", 5))]
    inside = [tmpfs, devices[0], tmpfs, devices[1], op.make_link("/dev/c", "b")]
    assert run(container(rootfs, inside, "echo /dev/*"), tmp_path / "out") == "/dev/b /dev/c\n"


def test_devices_lie_each_in_its_own_directory(rootfs: Path, tmp_path: Path) -> None:
    places = ["/dev/a", "/dev/x/a", "/dev/x/b", "/dev/b"]
    inside = [op.make_device(place, "c", 1, 3, 0o666, 0, 0) for place in places]
    made = run(container(rootfs, inside, "find /dev -type c"), tmp_path / "out")
    assert sorted(made.split()) == sorted(places)


def test_a_file_in_a_devices_place_is_refused(rootfs: Path, tmp_path: Path) -> None:
    (rootfs / "dev").mkdir(exist_ok=True)
    (rootfs / "dev/null").unlink(missing_ok=True)
    (rootfs / "dev/null").write_text("attack")
    error = fail([*beginning(rootfs), op.make_device("/dev/null", "c", 1, 3, 0o666, 0, 0)], tmp_path / "out")
    assert error.text == "exists and is not the device asked for"


def test_a_link_replaces_what_is_there_only_if_asked(rootfs: Path, tmp_path: Path) -> None:
    (rootfs / "kept").write_text("kept")
    (rootfs / "replaced").write_text("old")
    inside = [op.make_link("/kept", "/elsewhere"), op.make_link("/replaced", "kept", replace=True)]
    assert run(container(rootfs, inside, "cat /kept /replaced"), tmp_path / "out") == "keptkept"


# -- masks, read-only paths, sysctls -----------------------------------------------------------------------------------


def test_masked_files_are_empty_and_masked_directories_too(rootfs: Path, tmp_path: Path) -> None:
    for name in ("secret1", "secret2"):
        (rootfs / name).write_text("secret")
    for name in ("hidden1", "hidden2"):
        (rootfs / name).mkdir()
        (rootfs / name / "file").write_text("secret")
    paths = ["/secret1", "/secret2", "/hidden1", "/hidden2", "/not there"]
    plan = [
        *beginning(rootfs), PROC, op.pivot_root(), *[op.mask_path(path) for path in paths],
        *sh("cat /secret1 /secret2; ls -A /hidden1 /hidden2; touch /hidden1/x; true"),
    ]  # fmt: skip
    out = run(plan, tmp_path / "out")
    assert "secret" not in out.replace("/hidden", "")
    assert "Read-only file system" in out


def test_a_mask_never_comes_from_the_containers_own_dev(rootfs: Path, tmp_path: Path) -> None:
    """CVE-2025-31133: a /dev/null that is a link must not become the mask."""
    (rootfs / "dev").mkdir(exist_ok=True)
    (rootfs / "dev/null").unlink(missing_ok=True)
    (rootfs / "dev/null").symlink_to("/proc/sys/kernel/hostname")
    plan = [
        *beginning(rootfs), PROC, op.pivot_root(), op.mask_path("/proc/keys"),
        *sh("cat /proc/keys; grep /proc/keys /proc/self/mountinfo"),
    ]  # fmt: skip
    out = run(plan, tmp_path / "out").splitlines()
    assert len(out) == 1
    assert out[0].split()[3] == "/null"


def test_a_read_only_path_cannot_be_written_nor_can_what_is_mounted_in_it(rootfs: Path, tmp_path: Path) -> None:
    (rootfs / "ro").mkdir()
    plan = [
        *beginning(rootfs), PROC, op.mount_filesystem("tmpfs", "tmpfs", "/ro/sub"), op.pivot_root(),
        op.readonly_path("/ro"), op.readonly_path("/not there"), op.readonly_path("/proc/sys"),
        *sh("touch /ro/x; touch /ro/sub/x; echo evil >/proc/sys/kernel/hostname; hostname"),
    ]  # fmt: skip
    out = run(plan, tmp_path / "out")
    assert out.lower().count("read-only file system") == 3
    assert "evil" not in out.splitlines()[-1]


def test_sysctls_are_written_in_the_containers_namespaces(rootfs: Path, tmp_path: Path) -> None:
    before = Path("/proc/sys/kernel/msgmax").read_text()
    plan = [
        *beginning(rootfs), PROC, op.pivot_root(), op.sysctl("kernel.msgmax", "1234"),
        op.sysctl("net/ipv4/ip_forward", "1"), *sh("cat /proc/sys/kernel/msgmax /proc/sys/net/ipv4/ip_forward"),
    ]  # fmt: skip
    assert run(plan, tmp_path / "out").split() == ["1234", "1"]
    assert Path("/proc/sys/kernel/msgmax").read_text() == before


@pytest.mark.parametrize("key", ["kernel..core_pattern", "../../sysrq-trigger", "net/../kernel/core_pattern", ""])
def test_a_sysctl_does_not_lead_elsewhere(rootfs: Path, tmp_path: Path, key: str) -> None:
    error = fail([*beginning(rootfs), op.sysctl(key, "x")], tmp_path / "out")
    assert (error.op, error.text) == ("sysctl", "is not a sysctl")


def test_sysctls_ignore_what_is_mounted_over_procfs(rootfs: Path, tmp_path: Path) -> None:
    """CVE-2025-52881: the write must reach the kernel, not a file that somebody put in the way."""
    (tmp_path / "fake").mkdir()
    fake = [
        op.open_tree("fake", str(tmp_path / "fake"), recursive=False),
        op.mount_bind("fake", "/proc/sys/kernel", on_proc=True),
    ]
    plan = [
        *beginning(rootfs), PROC, *fake, op.pivot_root(), op.sysctl("kernel.msgmax", "4321"),
        *sh("mkdir /p && mount -t proc proc /p && cat /p/sys/kernel/msgmax; ls /proc/sys/kernel"),
    ]  # fmt: skip
    assert run(plan, tmp_path / "out").split() == ["4321"]


# -- roots -------------------------------------------------------------------------------------------------------------


def test_without_pivot_root_the_hosts_proc_is_gone(rootfs: Path, tmp_path: Path) -> None:
    plan = [*beginning(rootfs), PROC, op.move_root(), *sh("pwd; ls -d /bin; echo $$; ls /proc | grep -c '^[0-9]'")]
    lines = run(plan, tmp_path / "out").split()
    assert lines[:3] == ["/", "/bin", "1"]
    assert int(lines[3]) < 6


@pytest.mark.parametrize("at_its_path", [True, False])
def test_without_pivot_root_the_rootfs_covers_the_hosts_root(rootfs: Path, tmp_path: Path, at_its_path: bool) -> None:
    """Out of a chroot leads a well-known way: it must not lead to the host."""
    requires("command nsenter")
    (rootfs / "marker").write_text("")
    start = beginning(rootfs)
    if at_its_path:
        start = [op.attach_root("rootfs", str(rootfs)) if one.name == "attach_root" else one for one in start]
    ran = spawn([*start, op.move_root(), op.stop("here")], tmp_path / "out").talk(until="here")
    try:
        enter_top = ["nsenter", f"--mount=/proc/{ran.launch.pid}/ns/mnt", "/bin/ls", "/"]
        listed = subprocess.run(enter_top, capture_output=True, text=True, check=True)
        assert "marker" in listed.stdout.split()
    finally:
        ran.launch.abort()


def test_without_a_mount_namespace_the_root_is_changed(rootfs: Path, tmp_path: Path) -> None:
    plan = [
        op.clone(),
        op.open_root(str(rootfs)),
        op.change_root(),
        op.make_directory("/made"),
        *sh("pwd; ls -d /made"),
    ]
    assert run(plan, tmp_path / "out").split() == ["/", "/made"]


# -- the process -------------------------------------------------------------------------------------------------------


def credentials(
    uid: int = 0, gid: int = 0, groups: Sequence[int] | None = (), capabilities: int = 0, **sets: int
) -> Operation:
    names = ("bounding", "effective", "permitted", "inheritable", "ambient")
    masks = dict.fromkeys(names[:3], capabilities) | {"inheritable": 0, "ambient": 0} | sets
    return op.credentials(uid=uid, gid=gid, groups=groups, **masks)


def process(rootfs: Path, tmp_path: Path, *operations: Operation, script: str = "cat /proc/self/status") -> str:
    return run([*beginning(rootfs), PROC, op.pivot_root(), *operations, *sh(script)], tmp_path / "out")


def test_the_process_is_the_user_asked_for_and_nothing_more(rootfs: Path, tmp_path: Path) -> None:
    found = status(process(rootfs, tmp_path, credentials(7, 8, [9, 10])))
    assert found["Uid"].split() == ["7"] * 4
    assert found["Gid"].split() == ["8"] * 4
    assert found["Groups"].split() == ["9", "10"]
    for name in ("CapInh", "CapPrm", "CapEff", "CapBnd", "CapAmb"):
        assert int(found[name], 16) == 0, name


def test_ambient_capabilities_survive_the_change_of_user(rootfs: Path, tmp_path: Path) -> None:
    mask = 1 << 10
    found = status(process(rootfs, tmp_path, credentials(7, 7, [], mask, inheritable=mask, ambient=mask)))
    for name in ("CapInh", "CapPrm", "CapEff", "CapBnd", "CapAmb"):
        assert int(found[name], 16) == mask, name


def test_without_the_right_to_drop_capabilities_there_must_be_none_to_drop(rootfs: Path, tmp_path: Path) -> None:
    two, one = 0b11, 0b01
    powerless = credentials(groups=None, bounding=two)
    same = status(process(rootfs, tmp_path, powerless, credentials(groups=None, bounding=two)))
    assert int(same["CapBnd"], 16) == two
    fewer = [*beginning(rootfs), op.pivot_root(), powerless, credentials(groups=None, bounding=one), *ending("true")]
    error = fail(fewer, tmp_path / "out")
    assert (error.op, error.path, error.errno) == ("credentials", "PR_CAPBSET_DROP", errno.EPERM)


def test_an_id_that_means_leave_it_is_refused(rootfs: Path, tmp_path: Path) -> None:
    """2**32-1 is -1 to the kernel: setresuid succeeds, and the process stays root."""
    for credential in (credentials(uid=2**32 - 1), credentials(gid=2**32 - 1)):
        error = fail([*beginning(rootfs), op.pivot_root(), credential, *ending("true")], tmp_path / "out")
        assert (error.op, error.text) == ("credentials", "the process did not become the user asked for")


def test_a_directory_that_only_the_user_may_enter_is_tried_again_as_the_user(rootfs: Path, tmp_path: Path) -> None:
    """Root without CAP_DAC_OVERRIDE is shut out of it here, as root is on a network file system."""
    (rootfs / "home").mkdir(exist_ok=True)
    os.mkdir(rootfs / "home/user", 0o700)
    os.chown(rootfs / "home/user", 7, 7)
    powerless = credentials(0, 0, [], ALL_CAPABILITIES & ~0b110)
    out = process(rootfs, tmp_path, powerless, op.change_directory("/home/user"), credentials(7, 7), script="pwd")
    assert out == "/home/user\n"


@pytest.mark.parametrize("path", ["/proc/self/cwd", "/proc/1/root", *(f"/proc/self/fd/{n}" for n in range(3, 12))])
def test_the_working_directory_is_never_the_hosts(rootfs: Path, tmp_path: Path, path: str) -> None:
    """CVE-2024-21626: whatever descriptors the executor holds, no magic link leads to them."""
    leaked = os.open("/", os.O_RDONLY)
    try:
        error = fail([*beginning(rootfs), PROC, op.pivot_root(), op.change_directory(path)], tmp_path / "out")
    finally:
        os.close(leaked)
    assert (error.op, error.path) == ("change_directory", path)


def test_limits_scheduling_and_the_like_are_set(rootfs: Path, tmp_path: Path) -> None:
    operations = [
        op.rlimit(7, 100, 200), op.umask(0o77), op.no_new_privileges(), op.cpu_affinity([0]), op.io_priority(3 << 13),
        op.scheduler(3, 0, 5, 0, 0, 0, 0), op.personality(0x8), op.memory_policy(0, []),
    ]  # fmt: skip
    script = "ulimit -n; ulimit -Hn; umask; ionice; cut -d' ' -f19 /proc/self/stat; uname -m; cat /proc/self/status"
    out = process(rootfs, tmp_path, *operations, script=script)
    lines = out.splitlines()
    assert lines[:3] == ["100", "200", "0077"]
    assert lines[3].startswith("idle")
    assert lines[4] == "5"
    assert os.uname().machine != "x86_64" or lines[5] == "i686"
    assert status(out)["NoNewPrivs"] == "1"
    assert status(out)["Cpus_allowed_list"] == "0"


def test_the_oom_score_is_set_before_the_process_hides(rootfs: Path, tmp_path: Path) -> None:
    plan = [op.oom_score_adj(123), *container(rootfs, [], "cat /proc/self/oom_score_adj")]
    assert run(plan, tmp_path / "out") == "123\n"


def test_signals_have_their_default_action_in_the_program(rootfs: Path, tmp_path: Path) -> None:
    """Python ignores SIGPIPE and SIGXFSZ, and Rust SIGPIPE; a blocked signal would be inherited as well."""
    signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGUSR1})
    try:
        plan = [*beginning(rootfs), PROC, op.pivot_root(), *ending("cat", "/proc/self/status")]
        found = status(run(plan, tmp_path / "out"))
    finally:
        signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGUSR1})
    assert int(found["SigIgn"], 16) == 0
    assert int(found["SigBlk"], 16) == 0


def test_a_session_keyring_of_its_own_is_joined(rootfs: Path, tmp_path: Path) -> None:
    requires("file /proc/keys")
    out = process(rootfs, tmp_path, op.keyring("_ses.executor-test"), script="cat /proc/keys")
    line = next(line for line in out.splitlines() if "_ses.executor-test" in line)
    assert int(line.split()[4], 16) & 0x00080000


def test_home_comes_from_the_containers_passwd(rootfs: Path, tmp_path: Path) -> None:
    (rootfs / "etc").mkdir(exist_ok=True)
    (rootfs / "etc/passwd").write_text("root:x:0:0::/root:/bin/sh\nuser:x:7:7::/home/user:/bin/sh\n")
    assert process(rootfs, tmp_path, op.home(7), script="echo $HOME") == "/home/user\n"
    assert process(rootfs, tmp_path, op.home(8), script="echo $HOME") == "/\n"


@pytest.mark.parametrize("make", [os.mkfifo, lambda p: os.symlink("/dev/zero", p), lambda p: p.mkdir()])
def test_a_passwd_that_is_no_file_gives_no_home(rootfs: Path, tmp_path: Path, make: Callable[[Path], None]) -> None:
    (rootfs / "etc").mkdir(exist_ok=True)
    (rootfs / "etc/passwd").unlink(missing_ok=True)
    make(rootfs / "etc/passwd")
    assert process(rootfs, tmp_path, op.home(0), script="echo $HOME") == "/\n"


@pytest.mark.parametrize(
    ("name", "errno", "text"),
    [
        ("nope", 2, "executable file not found in $PATH"),
        ("", 2, "executable file not found in $PATH"),
        ("/nope", 2, "no such file or directory"),
        ("/etc", 13, "is a directory"),
        ("/plain", 13, "permission denied"),
    ],
)
def test_a_program_that_cannot_run_is_known_before_it_should(
    rootfs: Path, tmp_path: Path, name: str, errno: int, text: str
) -> None:
    (rootfs / "etc").mkdir(exist_ok=True)
    (rootfs / "plain").write_text("no program")
    plan = [*beginning(rootfs), op.pivot_root(), op.find_program(name, "/nowhere:/bin", "/")]
    error = fail(plan, tmp_path / "out")
    assert (error.op, error.errno, error.text) == ("find_program", errno, text)


def test_a_program_that_does_not_execute_is_told_on_stderr(rootfs: Path, tmp_path: Path) -> None:
    (rootfs / "bin/garbage").write_bytes(b"\0garbage")
    (rootfs / "bin/garbage").chmod(0o755)
    plan = [*beginning(rootfs), op.stop("ready"), op.pivot_root(), *ending("/bin/garbage")]
    ran = spawn(plan, tmp_path / "out").talk(until="ready")
    ran.launch.go()
    ran.launch.close()
    assert ran.wait() == 255
    assert ran.text == "exec /bin/garbage: exec format error\n"


def test_start_is_waited_for_without_anybody_at_the_report_socket(rootfs: Path, tmp_path: Path) -> None:
    fifo = tmp_path / "start"
    os.mkfifo(fifo, 0o600)
    start = os.open(fifo, os.O_RDWR)
    plan = [*beginning(rootfs), op.stop("ready"), op.parent_death_signal(0), op.pivot_root(),
            op.find_program("echo", "/bin", "/"), op.wait_start(), op.close_descriptors(0), op.execute(["echo", "ran"], [])]  # fmt: skip
    try:
        ran = spawn(plan, tmp_path / "out", start=start).talk(until="ready")
        ran.launch.go()
        ran.launch.close()
        time.sleep(0.2)
        assert ran.text == ""
        os.write(start, b"\0")
        assert ran.wait() == 0
        assert ran.text == "ran\n"
    finally:
        os.close(start)


def test_a_word_counts_though_the_caller_left_without_reading_all(rootfs: Path, tmp_path: Path) -> None:
    """A caller that closes with a message unread resets the connection: `go` was said all the same."""
    start = os.open(_fifo(tmp_path), os.O_RDWR)
    plan = [*beginning(rootfs), op.stop("ready"), op.parent_death_signal(0), op.pivot_root(),
            op.find_program("true", "/bin", "/"), op.wait_start(), op.close_descriptors(0), op.execute(["true"], [])]  # fmt: skip
    try:
        ran = spawn(plan, tmp_path / "out", start=start)
        assert isinstance(ran.launch.next(), Pid)
        eventually(lambda: _in_read(ran.launch.pid), "it waits at `ready`, whose message nobody reads")
        ran.launch.go()
        ran.launch.close()
        os.write(start, b"\0")
        assert ran.wait() == 0
    finally:
        os.close(start)


def _in_read(pid: int) -> bool:
    """Whether a process sleeps in read(2), by the number that the machine's architecture gives it."""
    number = {"x86_64": "0", "aarch64": "63"}[platform.machine()]
    return Path(f"/proc/{pid}/syscall").read_text().split()[0] == number


# -- seccomp -----------------------------------------------------------------------------------------------------------


def filter_of(syscall: int, action: int) -> str:
    """A filter that answers one system call with `action` and allows all others."""
    code = [(0x20, 0, 0, 0), (0x15, 0, 1, syscall), (0x06, 0, 0, action), (0x06, 0, 0, 0x7FFF0000)]
    return base64.b64encode(b"".join(struct.pack("=HBBI", *line) for line in code)).decode()


MKDIR = {"x86_64": 83, "aarch64": 34}.get(os.uname().machine, 0)


@pytest.mark.parametrize("no_new_privileges", [True, False])
def test_a_filter_is_in_force_in_the_program(rootfs: Path, tmp_path: Path, no_new_privileges: bool) -> None:
    filters = op.seccomp(filter_of(MKDIR, 0x00050000 | 1), 0)
    order = [op.no_new_privileges(), credentials(), filters] if no_new_privileges else [filters, credentials()]
    out = process(rootfs, tmp_path, *order, script="cat /proc/self/status; mkdir /x; true")
    assert status(out)["Seccomp"] == "2"
    assert "Operation not permitted" in out


def test_a_filter_without_the_right_to_set_it_is_refused(rootfs: Path, tmp_path: Path) -> None:
    plan = [*beginning(rootfs), op.pivot_root(), credentials(7, 7), op.seccomp(filter_of(MKDIR, 0), 0)]
    assert fail(plan, tmp_path / "out").text == "needs CAP_SYS_ADMIN or no_new_privs"


def test_a_listener_is_handed_to_the_caller(rootfs: Path, tmp_path: Path) -> None:
    import ctypes

    plan = [
        *beginning(rootfs), op.pivot_root(), op.find_program("mkdir", "/bin", "/"),
        op.seccomp(filter_of(MKDIR, 0x7FC00000), 0, listener=True), op.close_descriptors(0),
        op.execute(["mkdir", "/x"], []),
    ]  # fmt: skip
    launch = spawn(plan, tmp_path / "out").launch
    while not isinstance(message := launch.next(), Listener):
        assert message is not None
    pidfd = os.pidfd_open(launch.pid)
    listener = ctypes.CDLL(None).syscall(438, pidfd, message.number, 0)
    assert listener >= 0
    launch.go()
    assert launch.next() is None
    poll = select.poll()
    poll.register(listener, select.POLLIN)
    assert poll.poll(10_000), "the program's mkdir reaches the listener"
    os.close(listener)  # without one, the call fails with ENOSYS
    os.close(pidfd)
    assert os.waitstatus_to_exitcode(os.waitpid(launch.pid, 0)[1]) == 1


# -- the terminal ------------------------------------------------------------------------------------------------------


def console_of(ran: Run) -> int:
    return next(message.descriptor for message in ran.messages if isinstance(message, Descriptor))


def test_a_terminal_is_the_containers_own(rootfs: Path, tmp_path: Path) -> None:
    plan = [
        *beginning(rootfs), op.new_session(), PROC, *DEV, op.pivot_root(),
        op.console(width=81, height=26, bind=True, uid=7), credentials(7, 7),
        *sh("tty; stty size; stat -c '%u %a' /dev/pts/0; echo hi >/dev/console; echo there >/dev/tty"),
    ]  # fmt: skip
    ran = spawn(plan, tmp_path / "out").talk()
    master = console_of(ran)
    try:
        assert ran.wait() == 0
        text = os.read(master, 4096).decode()
        while select.select([master], [], [], 0.2)[0]:
            try:
                text += os.read(master, 4096).decode()
            except OSError:  # EIO: nobody has the slave any more
                break
    finally:
        os.close(master)
    assert text.split() == ["/dev/pts/0", "26", "81", "7", "620", "hi", "there"]


def test_a_terminal_needs_a_devpts(rootfs: Path, tmp_path: Path) -> None:
    """CVE-2025-52565: a file that only looks like a terminal is not taken for one."""
    (rootfs / "dev/pts").mkdir(parents=True, exist_ok=True)
    (rootfs / "dev/pts/0").symlink_to("/proc/sys/kernel/core_pattern")
    (rootfs / "dev/pts/ptmx").write_text("")
    plan = [*beginning(rootfs), op.pivot_root(), op.console(width=0, height=0, bind=True, uid=0)]
    error = fail(plan, tmp_path / "out")
    assert (error.op, error.path) == ("console", "/dev/pts")


def test_stdio_is_given_to_the_user(rootfs: Path, tmp_path: Path) -> None:
    process(rootfs, tmp_path, op.own_stdio(7), script="true")
    assert (tmp_path / "out").stat().st_uid == 7
    assert os.stat("/dev/null").st_uid == 0


# -- hooks -------------------------------------------------------------------------------------------------------------


def hook(*args: str, **fields: Any) -> dict[str, Any]:
    return {"path": args[0], "args": list(args), **fields}


def test_hooks_get_the_state_with_the_pid_and_only_their_own_environment(rootfs: Path, tmp_path: Path) -> None:
    record = tmp_path / "record"
    script = f"cat >{record}; env >>{record}; ls -l /proc/self/fd >>{record}"
    hooks = [hook("/bin/sh", "-c", script, env=["A=b"])]
    plan = [
        *beginning(rootfs),
        op.run_hooks("createContainer", hooks, {"id": "x", "pid": 0}),
        op.pivot_root(),
        *sh("true"),
    ]
    run(plan, tmp_path / "out")
    first, rest = record.read_text().split("}", 1)
    assert json.loads(first + "}") == {"id": "x", "pid": 1}
    assert "A=b" in rest
    assert "HOME" not in rest
    assert len([line for line in rest.splitlines() if "->" in line]) <= 4


@pytest.mark.parametrize(
    ("wrong", "text"),
    [
        (hook("/bin/sh", "-c", "echo reason >&2; exit 4"), "exit status 4, output: reason"),
        (hook("/nonexistent/hook"), "no such file or directory"),
        (hook("/bin/sleep", "1000", timeout=1), "timed out"),
    ],
)
def test_a_hook_that_fails_ends_the_container(rootfs: Path, tmp_path: Path, wrong: dict[str, Any], text: str) -> None:
    hooks = [hook("/bin/true"), wrong]
    error = fail([*beginning(rootfs), op.run_hooks("createContainer", hooks, {})], tmp_path / "out")
    assert error.op == "run_hooks"
    assert "createContainer hook #1" in error.text
    assert text in error.text


# -- namespaces --------------------------------------------------------------------------------------------------------


def write_maps(first: int) -> Callable[[int], object]:
    def write(pid: int) -> None:
        Path(f"/proc/{pid}/uid_map").write_text(f"0 {first} 1000\n")
        Path(f"/proc/{pid}/gid_map").write_text(f"0 {first} 1000\n")

    return write


def test_a_user_namespace_makes_root_of_the_container_nobody_outside(rootfs: Path, tmp_path: Path) -> None:
    subprocess.run(["chown", "-Rh", "100000:100000", str(rootfs)], check=True)
    plan = [
        op.dumpable(False),
        op.open_tree("rootfs", str(rootfs), recursive=True),
        op.open_null("null"),
        op.open_tree("device", "/dev/null", recursive=False),
        op.unshare(["user"]),
        op.stop("id_maps"),
        op.become_root(),
        op.unshare(NAMESPACES),
        op.clone(),
        op.root_propagation(MS_SLAVE | MS_REC),
        op.attach_root("rootfs"),
        op.open_proc(),
        PROC,
        *DEV[:2],
        op.mount_bind("device", "/dev/null"),
        op.make_link("/dev/ptmx", "pts/ptmx", replace=True),
        op.pivot_root(),
        op.sysctl("net.ipv4.ip_forward", "1"),
        op.readonly_path("/proc/sys"),
        op.mask_path("/proc/keys"),
        op.mask_path("/proc/scsi"),
        op.remount("/", set=MOUNT_ATTR_RDONLY),
        credentials(0, 0, [5], 0x3FFFFFFFFF & ~(1 << 24)),
        *sh("id -u; cat /proc/self/uid_map; echo x >/dev/null && echo null; cat /proc/keys; touch /x"),
    ]
    ran = spawn(plan, tmp_path / "out").talk({"id_maps": write_maps(100000)})
    ran.wait()
    assert ran.text.split()[:5] == ["0", "0", "100000", "1000", "null"]
    assert "Read-only file system" in ran.text


def test_an_id_mapped_mount_shows_files_as_another_users(rootfs: Path, canary: Path, tmp_path: Path) -> None:
    os.chown(canary / "file", 3, 4)
    maps = [(0, 1000, 100)]
    outer = [
        op.open_tree("a", str(canary), recursive=True), op.id_map_mount("a", maps, maps, recursive=True),
        op.open_tree("b", str(canary), recursive=True), op.id_map_mount("b", maps, maps, recursive=False),
    ]  # fmt: skip
    plan = [
        *beginning(rootfs, *outer), op.mount_bind("a", "/a"), op.mount_bind("b", "/b"), op.pivot_root(),
        *sh("stat -c '%u %g' /a/file /b/file"),
    ]  # fmt: skip
    assert run(plan, tmp_path / "out").splitlines() == ["1003 1004", "1003 1004"]


def test_an_id_mapped_mount_takes_the_user_namespace_at_a_path(rootfs: Path, canary: Path, tmp_path: Path) -> None:
    os.chown(canary / "file", 3, 4)
    owner = spawn([op.unshare(["user"]), op.stop("maps"), op.clone(), op.stop("here")], tmp_path / "owner")
    owner.talk({"maps": write_maps(5000)}, until="here")
    try:
        path = f"/proc/{owner.launch.pid}/ns/user"
        outer = [
            op.open_tree("a", str(canary), recursive=True),
            op.id_map_mount("a", [], [], recursive=True, namespace=path),
        ]
        plan = [*beginning(rootfs, *outer), op.mount_bind("a", "/a"), op.pivot_root(), *sh("stat -c '%u %g' /a/file")]
        assert run(plan, tmp_path / "out") == "5003 5004\n"
        wrong = op.id_map_mount("a", [], [], recursive=True, namespace=f"/proc/{owner.launch.pid}/ns/uts")
        assert fail([outer[0], wrong], tmp_path / "out").op == "id_map_mount"
    finally:
        owner.launch.abort()


def test_an_executor_joins_the_namespaces_at_paths(rootfs: Path, tmp_path: Path) -> None:
    other = spawn([*beginning(rootfs), op.hostname("other"), op.stop("here")], tmp_path / "other").talk(until="here")
    try:
        paths = {kind: f"/proc/{other.launch.pid}/ns/{file}" for kind, file in (("uts", "uts"), ("network", "net"))}
        joins = [op.join(kind, path) for kind, path in paths.items()]
        plan = [*joins, *container(rootfs, [], "hostname; readlink /proc/self/ns/net")]
        plan = [operation for operation in plan if operation.name != "unshare"]
        plan.insert(len(joins) + 3, op.unshare(["mount", "pid"]))
        lines = run(plan, tmp_path / "out").split()
        assert lines == ["other", os.readlink(paths["network"])]
    finally:
        other.launch.abort()


@pytest.mark.parametrize("path", ["/proc/self/ns/uts", "/etc/passwd", "/dev/null", "fifo"])
def test_a_path_that_is_no_namespace_of_its_kind_is_refused(tmp_path: Path, path: str) -> None:
    if path == "fifo":
        path = str(tmp_path / "fifo")
        os.mkfifo(path)
    error = fail([op.join("network", path)], tmp_path / "out")
    assert (error.op, error.path) == ("join", path)


def test_time_runs_with_an_offset_in_a_time_namespace(rootfs: Path, tmp_path: Path) -> None:
    requires("file /proc/self/ns/time")
    plan = [
        op.dumpable(False), op.open_tree("rootfs", str(rootfs), recursive=True), op.unshare([*NAMESPACES, "time"]),
        op.time_offsets([("monotonic", 86400, 0), ("boottime", 864000, 500)]), op.clone(),
        op.root_propagation(MS_SLAVE | MS_REC), op.attach_root("rootfs"), PROC, op.pivot_root(),
        *sh("cat /proc/self/timens_offsets; cat /proc/uptime"),
    ]  # fmt: skip
    lines = run(plan, tmp_path / "out").splitlines()
    assert lines[0].split() == ["monotonic", "86400", "0"]
    assert float(lines[2].split()[0]) > 864000


def test_a_process_is_born_in_the_cgroup_asked_for(rootfs: Path, tmp_path: Path) -> None:
    requires("file /sys/fs/cgroup/unified/cgroup.procs")
    group = Path(f"/sys/fs/cgroup/unified/pysandbox-executor-{os.getpid()}")
    group.mkdir()
    descriptor = os.open(group, os.O_RDONLY | os.O_DIRECTORY)
    try:
        plan = [operation if operation.name != "clone" else op.clone(into_cgroup=True) for operation in
                container(rootfs, [], "grep ^0:: /proc/self/cgroup")]  # fmt: skip
        assert run(plan, tmp_path / "out", cgroup=descriptor) == f"0::/{group.name}\n"
    finally:
        os.close(descriptor)
        eventually(lambda: not (group / "cgroup.procs").read_text(), "the cgroup is empty", seconds=5)
        group.rmdir()


# -- exec --------------------------------------------------------------------------------------------------------------


@pytest.fixture
def waiting(rootfs: Path, tmp_path: Path) -> Iterator[Run]:
    """A container whose init stands still."""
    ran = spawn(
        [*beginning(rootfs), PROC, *DEV, op.pivot_root(), op.hostname("box"), op.stop("here")], tmp_path / "init"
    )
    ran.talk(until="here")
    yield ran
    ran.launch.abort()


def enter(ran: Run, output: Path, *operations: Operation) -> Run:
    pidfd = os.pidfd_open(ran.launch.pid)
    try:
        plan = [
            op.dumpable(False),
            op.join_process(NAMESPACES),
            op.clone(),
            op.new_session(),
            op.use_root(),
            *operations,
        ]
        return spawn(plan, output, process=pidfd)
    finally:
        os.close(pidfd)


def test_a_process_enters_a_container(waiting: Run, tmp_path: Path) -> None:
    (tmp_path / "rootfs/marker").write_text("")
    ran = enter(
        waiting, tmp_path / "out", op.open_proc(), op.change_directory("/bin"), *sh("hostname; pwd; ls /marker")
    )
    ran.talk()
    assert ran.wait() == 0
    assert ran.text.split() == ["box", "/bin", "/marker"]


def test_a_process_enters_with_a_terminal(waiting: Run, tmp_path: Path) -> None:
    ran = enter(waiting, tmp_path / "out", op.console(width=0, height=0, bind=False, uid=0), *sh("tty; sleep 0.2"))
    ran.talk()
    master = console_of(ran)
    assert os.read(master, 100).split() == [b"/dev/pts/0"]
    os.close(master)
    ran.wait()


def test_the_executor_cannot_be_written_through_proc(waiting: Run) -> None:
    """CVE-2019-5736."""
    exe = f"/proc/{waiting.launch.pid}/exe"
    with pytest.raises(OSError, match="Operation not permitted|Text file busy"):
        os.close(os.open(exe, os.O_WRONLY))
    descriptor = os.open(exe, os.O_RDONLY)
    seals = fcntl.fcntl(descriptor, fcntl.F_GET_SEALS)
    os.close(descriptor)
    assert seals & 0xF == 0xF


def test_a_container_cannot_write_the_executor_it_was_started_by(rootfs: Path, tmp_path: Path) -> None:
    """CVE-2019-5736 from inside: the container's program is /proc/self/exe, which is the executor again."""
    before = Path(executor.executor_path()).read_bytes()
    plan = [
        *beginning(rootfs), PROC, op.pivot_root(), op.find_program("/proc/self/exe", "/bin", "/"),
        op.close_descriptors(0), op.execute(["/proc/self/exe", "nonsense"], []),
    ]  # fmt: skip
    ran = spawn(plan, tmp_path / "out").talk()
    assert ran.wait() == 1
    assert "not of the form report=N" in ran.text
    assert Path(executor.executor_path()).read_bytes() == before


# -- descriptors -------------------------------------------------------------------------------------------------------


def test_the_program_has_stdio_and_what_is_preserved_and_nothing_else(rootfs: Path, tmp_path: Path) -> None:
    leaked = os.open("/etc", os.O_RDONLY)
    os.set_inheritable(leaked, True)
    first, second = (os.open(tmp_path / name, os.O_RDWR | os.O_CREAT) for name in ("first", "second"))
    plan = [*beginning(rootfs), PROC, op.pivot_root(), op.find_program("sh", "/bin", "/"), op.close_descriptors(2),
            op.execute(["sh", "-c", "ls -l /proc/$$/fd; echo one >&3; echo two >&4"], ["PATH=/bin"])]  # fmt: skip
    try:
        with (tmp_path / "out").open("wb") as out:
            # The numbers are in each other's way on purpose.
            stdio = Stdio(stdin=second, stdout=out.fileno(), stderr=first, preserved=(first, second))
            launch = executor.spawn(Plan(operations=plan).to_json(), stdio=stdio, slots={})
        Run(launch, tmp_path / "out").talk()
        assert os.waitpid(launch.pid, 0)[1] == 0
    finally:
        for descriptor in (leaked, first, second):
            os.close(descriptor)
    numbers = [
        line.split(" -> ")[0].split()[-1] for line in (tmp_path / "out").read_text().splitlines() if "->" in line
    ]
    assert numbers == ["0", "1", "2", "3", "4"]
    assert (tmp_path / "first").read_text() == "one\n"
    assert (tmp_path / "second").read_text() == "two\n"


def test_spawning_leaves_no_descriptor_behind(rootfs: Path, tmp_path: Path) -> None:
    before = open_descriptors()
    for _ in range(3):
        run(container(rootfs, [], "true"), tmp_path / "out")
    assert open_descriptors() == before


@pytest.mark.parametrize(
    ("arguments", "text"),
    [
        (["report=1000"], "report=1000: bad file descriptor"),
        (["report=0"], "report=0: not of the form report=N"),
        (["plan=3"], "plan=3: not of the form report=N"),
        ([b"\xff"], "\ufffd: not of the form report=N"),
    ],
)
def test_arguments_that_are_not_of_the_protocol_are_refused(arguments: list[str | bytes], text: str) -> None:
    ended = subprocess.run([executor.executor_path(), *arguments], capture_output=True, text=True, check=False)
    assert (ended.returncode, ended.stderr) == (1, f"pysandbox-init: {text}\n")


def test_the_report_socket_is_named_once(null: int) -> None:
    again = ["report=3", "report=4"]
    ended = subprocess.run(
        ["/bin/sh", "-c", f"exec {executor.executor_path()} {' '.join(again)} 3>&0 4>&0"],
        stdin=null, capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert (ended.returncode, ended.stderr) == (1, "pysandbox-init: report=4: not of the form report=N\n")


def test_an_executor_that_others_can_write_is_not_run(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    program = tmp_path / "executor"
    shutil.copy(executor.executor_path(), program)
    program.chmod(0o775)
    monkeypatch.setattr(executor, "executor_path", lambda: str(program))
    with pytest.raises(Unavailable, match="only root can write"):
        executor.sealed_executor()
    program.chmod(0o755)
    os.chown(program, 1000, 1000)
    with pytest.raises(Unavailable, match="only root can write"):
        executor.sealed_executor()


# -- ends --------------------------------------------------------------------------------------------------------------

STOPS = ["outer", "inner", "late"]


def stopping(rootfs: Path) -> list[Operation]:
    first, rest = beginning(rootfs)[:3], beginning(rootfs)[3:]
    return [*first, op.stop("outer"), *rest, op.stop("inner"), op.pivot_root(), op.stop("late"), *sh("sleep 1000")]


@pytest.mark.parametrize("name", STOPS)
def test_an_abort_leaves_nothing(rootfs: Path, tmp_path: Path, name: str) -> None:
    ran = spawn(stopping(rootfs), tmp_path / "out").talk(until=name)
    ran.launch.abort()
    for pid in filter(None, (ran.launch.outer_pid, ran.launch.pid)):
        assert not os.path.exists(f"/proc/{pid}")


def test_an_abort_right_after_the_spawn_leaves_nothing(rootfs: Path, tmp_path: Path) -> None:
    strangers = set(_grandchildren())  # orphans of earlier tests, which come to this process
    for delay in (0, 0.0005, 0.001, 0.002, 0.004, 0.008):
        ran = spawn([*beginning(rootfs), op.pivot_root(), *sh("sleep 1000")], tmp_path / "out")
        time.sleep(delay)
        ran.launch.abort()
        eventually(lambda: strangers.issuperset(_grandchildren()), f"nothing is left after {delay} s", seconds=5)


def _grandchildren() -> list[int]:
    """Children of this process that are alive; those that ended are reaped."""
    while True:
        try:
            if os.waitpid(-1, os.WNOHANG)[0] == 0:
                return list(children())
        except ChildProcessError:
            return []


@pytest.mark.parametrize("name", STOPS)
def test_an_executor_whose_caller_dies_dies_too(rootfs: Path, tmp_path: Path, name: str) -> None:
    """The caller is killed at each stop; nobody says a word to the executor, to either of its processes."""
    known = set(_grandchildren())
    plan = tmp_path / "plan"
    plan.write_bytes(Plan(operations=stopping(rootfs)).to_json())
    caller = _caller(
        tmp_path,
        f"launch = executor.spawn(open({str(plan)!r}, 'rb').read(), stdio=Stdio(), slots={{}})\n"
        "while (message := launch.next()) is not None:\n"
        "    if isinstance(message, executor.Stop):\n"
        f"        if message.name == {name!r}:\n"
        "            print(launch.pid or launch.outer_pid, flush=True)\n"
        "            sys.stdin.read()\n"
        "        launch.go()\n",
    )
    assert caller.stdout is not None
    pid = int(caller.stdout.readline())
    caller.kill()
    caller.communicate()
    eventually(
        lambda: set(_grandchildren()) <= known and not os.path.exists(f"/proc/{pid}"), "they are gone", seconds=5
    )


def test_silence_has_a_limit(rootfs: Path, tmp_path: Path) -> None:
    start = os.open(_fifo(tmp_path), os.O_RDWR)
    ran = spawn([op.clone(), op.wait_start()], tmp_path / "out", start=start)
    assert isinstance(ran.launch.next(), Pid)
    with pytest.raises(DeadlineExceeded):
        ran.launch.next(timeout=0.2)
    os.close(start)
    assert not os.path.exists(f"/proc/{ran.launch.pid}")


def _fifo(tmp_path: Path) -> Path:
    os.mkfifo(tmp_path / "fifo", 0o600)
    return tmp_path / "fifo"


def test_an_executor_that_is_killed_is_no_success(rootfs: Path, tmp_path: Path) -> None:
    ran = spawn(stopping(rootfs), tmp_path / "out").talk(until="outer")
    os.kill(ran.launch.outer_pid, signal.SIGKILL)
    with pytest.raises(ExecutorError, match="signal 9"):
        ran.launch.next()


def test_a_message_nobody_sent_is_refused() -> None:
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    sleeper = subprocess.Popen(["sleep", "1000"])
    launch = Launch(Start(sleeper.pid), ours)  # type: ignore[arg-type]
    read, write = os.pipe()
    before = open_descriptors()
    theirs.sendmsg([b'{"surprise":1}'], [(socket.SOL_SOCKET, socket.SCM_RIGHTS, array.array("i", [read]))])
    with pytest.raises(ExecutorError, match="not understood"):
        launch.next()
    assert open_descriptors() <= before
    for descriptor in (read, write):
        os.close(descriptor)
    theirs.close()
    sleeper.poll()


@pytest.mark.parametrize(
    "datagram",
    [b"{", b"5", b"[]", b'"error"', b"\xff", b'{"pid":-1}', b'{"pid":"1"}', b'{"steps":[]}', b'{"steps":[1]}', b"[" * 60000,
     b'{"error":{"text":"x"}}', b'{"error":1}', b'{"stop":{}}', b'{"descriptor":"console"}', b'{"listener":"3"}'],
    ids=lambda datagram: datagram[:24].decode(errors="replace"),
)  # fmt: skip
def test_an_odd_message_ends_the_launch_in_one_line(datagram: bytes) -> None:
    """Who may trace the executor of an exec in a container can speak for it."""
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    sleeper = subprocess.Popen(["sleep", "1000"])
    launch = Launch(Start(sleeper.pid), ours)  # type: ignore[arg-type]
    for _ in range(2):  # the second is met by the search for a pid
        theirs.send(datagram)
    theirs.close()
    with pytest.raises(ExecutorError, match="not understood"):
        launch.next()
    assert not os.path.exists(f"/proc/{sleeper.pid}")
    sleeper.poll()
