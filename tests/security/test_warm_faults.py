"""The warm start under faults, in small numbers; `make soak` does the same in large ones.

Whatever happens to server, spares and launchers: a command that has had no effect yet is done cold, one that has ends in
one line, and nothing is left behind.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import re
import resource
import shutil
import signal
import subprocess
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from harness import endurance, faults
from harness.bundle import Bundle
from harness.faults import Served
from harness.host import leftovers, settled
from harness.installation import Installation, descriptors, ended, eventually, flags

pytestmark = pytest.mark.skipif(os.geteuid() != 0, reason="requires root")
needs_strace = pytest.mark.skipif(shutil.which("strace") is None, reason="strace is not installed")

DIED = "pysandbox: the process that served this command has died\n"


@pytest.fixture(scope="module")
def shared() -> Iterator[Installation]:
    """An installation for tests that do it no harm."""
    made = Installation()
    yield made.serve()
    made.remove()


@pytest.fixture
def installation() -> Iterator[Installation]:
    """An installation of the test's own."""
    made = Installation()
    yield made.serve()
    made.remove()


@pytest.fixture
def served(installation: Installation, place: Path) -> Iterator[Served]:
    """The same, driven as a runtime; nothing may be left."""
    runtime = Served(installation, place / "state")
    yield runtime
    runtime.delete_all()
    left = settled(lambda: leftovers(runtime, place))
    assert not left, "left behind:\n" + "\n".join(left)


# -- what a server has -------------------------------------------------------------------------------------------------


def test_the_server_has_nothing_of_who_started_it() -> None:
    made = Installation()
    leaked, writer = os.pipe()
    try:
        os.set_inheritable(writer, True)
        environment = made.environment({"LD_PRELOAD": "/nothing.so", "SECRET": "x", "PYTHONPATH": "/nothing"})
        made.call(
            "--version", env=environment, cwd=made.top, umask=0o77, pass_fds=[writer], start_new_session=False,
            preexec_fn=lambda: signal.pthread_sigmask(signal.SIG_BLOCK, [signal.SIGTERM]),
        )  # fmt: skip
        eventually(lambda: made.status().get("spares"), "a server that answers")
        pid = made.server
        status = Path(f"/proc/{pid}/status").read_text()

        assert os.readlink(f"/proc/{pid}/cwd") == "/"
        assert os.getsid(pid) != os.getsid(0)
        assert "Umask:\t0022" in status
        assert "SigBlk:\t0000000000000000" in status
        assert [entry.split(b"=")[0] for entry in Path(f"/proc/{pid}/environ").read_bytes().split(b"\0")[:-1]] == [
            b"PATH"
        ]
        assert int(Path(f"/proc/{pid}/oom_score_adj").read_text()) >= 0
        assert {line.split(":", 2)[2] for line in Path(f"/proc/{pid}/cgroup").read_text().splitlines()} == {"/"}
        pipe = os.readlink(f"/proc/self/fd/{writer}")
        assert pipe not in descriptors(pid).values()
        assert Path(f"/proc/{pid}/mountinfo").read_text() == Path("/proc/1/mountinfo").read_text()
    finally:
        os.close(leaked)
        os.close(writer)
        made.remove()


def test_all_descriptors_of_server_and_spares_are_above_the_callers_and_closed_on_exec(shared: Installation) -> None:
    found = shared.settled()
    time.sleep(0.05)  # the server closes our connection

    for pid in (found["pid"], *found["spares"]):
        numbers = descriptors(pid)
        assert [number for number in numbers if 2 < number < 512] == [], numbers
        assert [number for number in numbers if number > 2 and not flags(pid, number) & os.O_CLOEXEC] == [], numbers
        assert {numbers[number] for number in (0, 1, 2)} == {"/dev/null"}


def test_files_of_the_server_are_roots_alone(shared: Installation) -> None:
    assert {path.suffix for path in shared.directory.iterdir()} >= {".control", ".lock", ".sock"}
    for path in (shared.directory, *shared.directory.iterdir()):
        assert (path.stat().st_uid, path.stat().st_mode & 0o077) == (0, 0), path


def test_a_command_that_is_served_holds_nothing_of_the_servers(
    shared: Installation, place: Path, bundle: Bundle
) -> None:
    """Its socket must be dead when it is."""
    with sleeping(shared, place, bundle) as (_, spare):
        held = descriptors(spare)
        listener = descriptors(shared.server)
        ours = {target for target in listener.values() if target.startswith(("socket:", "pipe:")) or "proof" in target}
        # Of the pipes, that which tells the server how it went.
        assert len(ours & set(held.values())) <= 1, held


def test_the_server_is_small_and_forks_quickly(shared: Installation) -> None:
    found = []
    for _ in range(5):
        shared.call("--version")
        found.append(shared.settled()["fork_ms"])
    kib = faults.footprint(shared)["KiB"]
    print(f"{kib} KiB resident, fork in {min(found)} ms")

    assert kib <= 20 * 1024
    assert min(found) <= 1.5


def test_hooks_see_no_descriptor_of_launcher_or_server(shared: Installation, place: Path, bundle: Bundle) -> None:
    seen = place / "seen"
    script = f"for n in /proc/self/fd/*; do readlink $n; done >> {seen}; cat /proc/self/status | grep Sig >> {seen}"
    kinds = ("createRuntime", "createContainer", "poststart", "poststop")
    bundle.spec["hooks"] = {
        kind: [{"path": "/bin/sh", "args": ["sh", "-c", script], "env": ["PATH=/bin:/usr/bin"]}] for kind in kinds
    }
    seen.touch()
    runtime = Served(shared, place / "state-of-hooks")
    before = shared.settled()["served"]
    assert runtime.run(bundle).code == 0
    warm = seen.read_text()
    seen.write_text("")
    assert runtime.run(bundle, env={"PYSANDBOX_WARM": "off"}).code == 0

    assert shared.settled()["served"] == before + 1
    assert kinds_of(warm) == kinds_of(seen.read_text())
    assert not {"socket", "proof", "eventfd", "pidfd", "inotify"} & set(kinds_of(warm)), warm
    shutil.rmtree(runtime.root)


def kinds_of(text: str) -> list[str]:
    """What descriptors and signal masks there are, without their numbers."""
    return sorted(re.sub(r"\d{2,}|\[.*|/proc/.*", "", line) for line in text.splitlines())


# -- the executor that all share ---------------------------------------------------------------------------------------


@pytest.fixture
def created(served: Served, bundle: Bundle) -> int:
    """The pid of an init that still is the executor: its program is the copy that all commands share."""
    container, answer = served.create(bundle)
    assert answer.code == 0, answer
    return int(served.state(container)["pid"])


def test_init_is_a_sealed_copy(created: int) -> None:
    with pytest.raises(OSError, match="ETXTBSY|Text file busy|not permitted"):
        os.open(f"/proc/{created}/exe", os.O_WRONLY)
    descriptor = os.open(f"/proc/{created}/exe", os.O_RDONLY)
    assert fcntl.fcntl(descriptor, fcntl.F_GET_SEALS) & 0x2F == 0x2F
    os.close(descriptor)


def test_a_container_that_takes_the_executors_mode_away_stops_nobody_else(
    created: int, served: Served, bundle: Bundle
) -> None:
    """Seals keep fchmod(2) from it, but not a POSIX ACL."""
    acl = b"\2\0\0\0" + b"".join(tag.to_bytes(2, "little") + b"\0\0\xff\xff\xff\xff" for tag in (1, 4, 0x20))
    os.setxattr(f"/proc/{created}/exe", "system.posix_acl_access", acl)
    assert os.stat(f"/proc/{created}/exe").st_mode & 0o111 == 0

    container, answer = served.create(bundle)

    assert answer.code == 0, answer
    assert served.call("delete", "--force", container).code == 0


def test_a_container_cannot_lease_the_executor(created: int, served: Served) -> None:
    """Each execve(2) would wait for the lease to be broken: 45 s."""
    descriptor = os.open(f"/proc/{created}/exe", os.O_RDONLY)
    served.delete_all()  # whoever runs the file keeps it from being leased, too
    try:
        with pytest.raises(OSError, match="temporarily unavailable"):
            fcntl.fcntl(descriptor, fcntl.F_SETLEASE, fcntl.F_WRLCK)
    finally:
        os.close(descriptor)


# -- server ------------------------------------------------------------------------------------------------------------


@contextlib.contextmanager
def sleeping(installation: Installation, place: Path, bundle: Bundle) -> Iterator[tuple[subprocess.Popen[bytes], int]]:
    """A `run` in the foreground that sleeps until its file is there; yields it and the spare that serves it."""
    (bundle.rootfs / "tmp/end").unlink(missing_ok=True)
    bundle.script("while ! test -e /tmp/end; do sleep 0.05; done; exit 7")
    runtime = Served(installation, place / "state-of-sleep")
    container = runtime.new_id()
    installation.settled()
    argv = runtime.argv("run", "--bundle", os.fspath(bundle.write()), container)
    process = subprocess.Popen(argv, env=runtime.environment(), stdin=subprocess.DEVNULL)
    try:
        eventually(
            lambda: (runtime.root / container).exists() and runtime.state(container)["status"] == "running", "it runs"
        )
        spare = eventually(lambda: [*installation.status()["serving"]], "it is served")[0]
        yield process, spare
    finally:
        (bundle.rootfs / "tmp/end").touch()
        process.wait(20)
        runtime.delete_all()


@pytest.mark.parametrize("how", [signal.SIGKILL, signal.SIGTERM, None], ids=["SIGKILL", "SIGTERM", "stop"])
def test_a_command_outlives_its_server(
    installation: Installation, place: Path, bundle: Bundle, how: signal.Signals | None
) -> None:
    with sleeping(installation, place, bundle) as (process, _):
        found = installation.status()
        if how is None:
            installation.call("server", "stop")
        else:
            os.kill(found["pid"], how)
        for pid in (found["pid"], *found["spares"]):
            eventually(lambda pid=pid: ended(pid), "server and idle spares end", seconds=2)
        assert process.poll() is None

    assert process.returncode == 7
    assert installation.call("--version").code == 0


def test_a_stopped_server_costs_time_only(installation: Installation) -> None:
    pid = installation.server
    os.kill(pid, signal.SIGSTOP)
    try:
        answers = [installation.call("list", "-q") for _ in range(4)]
    finally:
        os.kill(pid, signal.SIGCONT)

    assert [(answer.code, answer.out, answer.err) for answer in answers] == [(0, "", "")] * 4
    assert max(answer.seconds for answer in answers) < 5
    assert installation.settled()["pid"] == pid


def test_stopped_spares_cost_time_only(installation: Installation) -> None:
    """Nobody who reads what a command writes waits for them, either: `call` reads to the end."""
    spares = installation.settled()["spares"]
    for pid in spares:
        os.kill(pid, signal.SIGSTOP)
    try:
        answers = [installation.call("list", "-q") for _ in range(3)]
    finally:
        for pid in spares:
            os.kill(pid, signal.SIGCONT)

    assert [(answer.code, answer.out, answer.err) for answer in answers] == [(0, "", "")] * 3
    assert max(answer.seconds for answer in answers) < 5
    installation.settled()


def test_a_server_ends_when_nobody_calls() -> None:
    made = Installation(("warm/server.py", "IDLE_LIMIT = 600.0", "IDLE_LIMIT = 1.5"))
    try:
        found = made.serve().settled()
        for pid in (found["pid"], *found["spares"]):
            eventually(lambda pid=pid: ended(pid), "it ends", seconds=6)
        assert not made.socket.exists()
    finally:
        made.remove()


def test_a_server_whose_spares_crash_ends_and_commands_run_cold() -> None:
    made = Installation(("warm/spare.py", "            who = Peer(connection)\n", "            os.abort()\n"))
    try:
        made.serve()
        pid = made.server

        answers = [made.call("list", "-q") for _ in range(8)]

        assert [(answer.code, answer.err) for answer in answers] == [(0, "")] * 8
        eventually(lambda: ended(pid), "the server gives up")
    finally:
        made.remove()


def test_a_server_that_cannot_fork_ends_and_commands_run_cold(installation: Installation) -> None:
    cgroup = Path("/sys/fs/cgroup/pids")
    if not (cgroup / "cgroup.procs").exists():
        pytest.skip("requires cgroup v1 pids: no such mount")
    found = installation.settled()
    limited = cgroup / f"psb-limit-{os.getpid()}"
    limited.mkdir()
    try:
        (limited / "pids.max").write_text("1")
        (limited / "cgroup.procs").write_text(str(found["pid"]))

        answers = [installation.call("list", "-q") for _ in range(4)]

        assert [(answer.code, answer.err) for answer in answers] == [(0, "")] * 4
        eventually(lambda: ended(found["pid"]), "the server ends")
    finally:
        if not ended(found["pid"]):
            (cgroup / "cgroup.procs").write_text(str(found["pid"]))
        eventually(lambda: not (limited / "cgroup.procs").read_text(), "the cgroup is empty")
        limited.rmdir()


def test_one_server_at_a_time() -> None:
    """Somebody else holds the lock: no server, and every command is done."""
    made = Installation()
    descriptor = os.open(made.lock, os.O_RDWR | os.O_CREAT, 0o600)
    try:
        os.utime(descriptor, (0, 0))
        fcntl.flock(descriptor, fcntl.LOCK_EX)
        answers = [made.call("list", "-q") for _ in range(2)]
        time.sleep(0.7)
        assert [(answer.code, answer.err) for answer in answers] == [(0, "")] * 2
        assert not made.socket.exists()
    finally:
        os.close(descriptor)
        made.remove()


def test_a_full_disk_means_cold() -> None:
    made = Installation()
    subprocess.run(["mount", "-t", "tmpfs", "-o", "mode=700,nr_inodes=2", "tmpfs", made.directory], check=True)
    try:
        answers = [made.call("list", "-q") for _ in range(2)]
        time.sleep(0.7)
        assert [(answer.code, answer.err) for answer in answers] == [(0, "")] * 2
        assert not made.status()
    finally:
        subprocess.run(["umount", made.directory], check=True)
        made.remove()


# -- launcher and spare ------------------------------------------------------------------------------------------------


def test_the_command_dies_with_its_launcher(installation: Installation, place: Path, bundle: Bundle) -> None:
    with sleeping(installation, place, bundle) as (process, spare):
        process.kill()
        eventually(lambda: ended(spare), "the spare is dead", seconds=1)

    assert process.returncode == -signal.SIGKILL


def test_the_launcher_tells_of_a_dead_spare_in_one_line(
    installation: Installation, place: Path, bundle: Bundle
) -> None:
    bundle.script("sleep 1000")
    runtime = Served(installation, place / "state")
    container = runtime.new_id()
    argv = runtime.argv("run", "--bundle", os.fspath(bundle.write()), container)
    process = subprocess.Popen(
        argv, env=runtime.environment(), stdin=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True
    )
    spare = eventually(lambda: [*installation.status()["serving"]], "it is served")[0]
    eventually(
        lambda: (runtime.root / container).exists() and runtime.state(container)["status"] == "running", "it runs"
    )
    os.kill(spare, signal.SIGKILL)

    process.wait(10)
    assert process.stderr is not None
    os.set_blocking(process.stderr.fileno(), False)
    assert (process.returncode, os.read(process.stderr.fileno(), 4096).decode()) == (1, DIED)
    process.stderr.close()
    assert runtime.call("delete", "--force", container).code == 0
    assert settled(lambda: leftovers(runtime, place)) == []


@needs_strace
def test_a_spare_that_is_killed_while_it_creates_leaves_nothing(served: Served, bundle: Bundle, place: Path) -> None:
    points = faults.points_of_spare(served, bundle, place)

    wrong = list(faults.kill_spares(served, bundle, place, endurance.spread(points, 10)))

    assert wrong == []


@needs_strace
def test_a_server_that_is_killed_meanwhile_fails_no_command(served: Served, bundle: Bundle, place: Path) -> None:
    points = faults.points_of_server(served, bundle, place)

    wrong = list(faults.kill_servers(served, bundle, place, endurance.spread(points, 10)))

    assert wrong == []


@needs_strace
def test_a_launcher_that_is_killed_while_it_creates_leaves_nothing(served: Served, bundle: Bundle, place: Path) -> None:
    points = faults.points_of_launcher(served, bundle, place)

    wrong = list(faults.kill_launchers(served, bundle, place, endurance.spread(points, 10)))

    assert wrong == []


# -- many, and while others work ---------------------------------------------------------------------------------------


def test_many_commands_leave_nothing_in_the_server(installation: Installation) -> None:
    faults.in_sequence(installation, 20)  # what is learnt is learnt
    before = faults.footprint(installation)

    faults.in_sequence(installation, 200)
    faults.in_parallel(installation, 40)

    faults.assert_as_before(installation, before)


@pytest.mark.parametrize(
    "disturbance",
    [
        faults.kill_server, faults.terminate_server, faults.touch_a_source, faults.replace_the_script,
        faults.replace_the_launcher, faults.replace_the_tree,
    ],
)  # fmt: skip
def test_no_command_fails_for_what_happens_to_the_server(
    installation: Installation, disturbance: Callable[[Installation], None]
) -> None:
    assert faults.disturb(installation, disturbance, 3) == []


def test_a_command_whose_spare_is_killed_is_done_cold_or_ends_in_one_line(installation: Installation) -> None:
    """One that waits when it is looked up may serve when it is killed."""
    wrong = faults.disturb(installation, faults.kill_idle_spares, 5)

    assert [(answer.code, answer.out, answer.err) for answer in wrong] == [(1, "", DIED)] * len(wrong)


def test_a_server_with_lower_limits_makes_room() -> None:
    """Where limits cannot be raised (no CAP_SYS_RESOURCE), it could serve nobody but whoever started it."""
    made = Installation()
    try:
        made.serve(preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_NOFILE, (2000, 2000)))

        def served() -> bool:
            before = made.serve().settled()["served"]
            assert made.call("--version").code == 0
            return bool(made.status().get("served", 0) > before)

        eventually(served, "a command with higher limits is served")
    finally:
        made.remove()


@needs_strace
@pytest.mark.parametrize("errno", ["ENOMEM", "ENOBUFS", "EPIPE", "EINTR"])
def test_a_launcher_that_cannot_answer_ends(served: Served, bundle: Bundle, errno: str) -> None:
    """Else both sides would wait for each other for ever."""
    container, answer = served.create(bundle)
    assert answer.code == 0, answer
    served.installation.settled()

    answer = endurance.inject(served, ["delete", "--force", container], ("sendto", 1, errno), follow=False)

    assert answer.seconds < 15
    assert answer.code in (0, 1)
    assert answer.err.count("\n") <= 1
    assert served.call("delete", "--force", container).code == 0
