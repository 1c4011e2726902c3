"""What the processes beside a guest may see and do: read back from /proc, for every thread."""

from __future__ import annotations

import json
import os
import re
import signal
import stat
import subprocess
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from precondition import requires
from runtime import MakeBundle, Runtime, cgroup_of
from sharing.guest import Guest, guest_kernel
from sharing.posture import Expected, faults, mask

from pysandbox.errors import Unavailable
from pysandbox.executor import ExecutorError
from pysandbox_microvm import barrier, jail, tree, virtiofsd
from pysandbox_microvm.identity import DIRECTORY, Identity, Range

if TYPE_CHECKING:
    from collections.abc import Iterator

REPOSITORY = Path(__file__).parent.parent.parent.parent


@pytest.fixture(scope="module")
def guest(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Guest]:
    requires("root", "command qemu-system-x86_64", "file /usr/lib/qemu/virtiofsd", "file /usr/bin/python3.11")
    kernel = guest_kernel()
    machine = Guest(kernel, tmp_path_factory.mktemp("guest"))
    yield machine
    machine.close()


def of_qemu(uid: int) -> Expected:
    given = r"/memfd:[\w-]+ \(deleted\)|/.*/vmlinux|/.*/initrd|/dev/net/tun"
    return Expected(
        uid=uid,
        capabilities=0,
        serving=0,
        root=frozenset(("dev", "etc", "lib", "lib64", "proc", "usr")),
        descriptors=re.compile(rf"/dev/null|pipe:.*|socket:.*|anon_inode:\[(eventfd|signalfd|eventpoll)\]|{given}"),
        writable=re.compile("(?!)"),
    )


OF_VIRTIOFSD = Expected(
    uid=0,
    capabilities=mask(*virtiofsd.OWNERSHIP, "CAP_SYS_CHROOT", "CAP_SETPCAP"),
    serving=mask(*virtiofsd.OWNERSHIP),
    root=frozenset(("rootfs", "mounts")),
    descriptors=re.compile(
        r"/dev/null|pipe:.*|socket:.*|anon_inode:\[eventfd\]|/memfd:[\w-]+ \(deleted\)|/proc/1/(fd|task)|/share.*|/.*"
    ),
    writable=re.compile("/rootfs|/mounts/.*"),
)


# -- QEMU --------------------------------------------------------------------------------------------------------------


def test_every_thread_of_qemu_is_nobody_and_sees_nothing(guest: Guest) -> None:
    assert len(os.listdir(f"/proc/{guest.qemu.pid}/task")) > 1
    assert faults(guest.qemu.pid, of_qemu(guest.identity.uid)) == []


def test_the_same_look_finds_fault_with_a_process_that_is_in_no_jail() -> None:
    """The proof that the tests here can fail: every kind of fault, found in a plain child of root's."""
    requires("root")
    with open("/etc/hosts", "rb") as file:
        child = subprocess.Popen(["sleep", "60"], pass_fds=[file.fileno()])
    try:
        time.sleep(0.2)
        found = "\n".join(faults(child.pid, of_qemu(1878982656)))
    finally:
        child.kill()
        child.wait()
    for fault in (
        "Uid", "CapEff has", "CapBnd has", "may gain privileges", "no system call filter", "host's mnt namespace",
        "host's pid namespace", "host's net namespace", "host's cgroup namespace", "root shows", "is /etc/hosts",
        "is writable", "honours set-id bits",
    ):  # fmt: skip
        assert fault in found


def test_the_jails_limits_are_in_force(guest: Guest) -> None:
    limits = Path(f"/proc/{guest.qemu.pid}/limits").read_text()
    assert re.search(r"Max file size\s+0\s+0\s", limits)
    assert re.search(r"Max processes\s+256\s+256\s", limits)
    assert re.search(r"Max open files\s+1024\s+1024\s", limits)


# -- virtiofsd ---------------------------------------------------------------------------------------------------------


def test_every_thread_of_virtiofsd_has_what_file_ownership_needs_and_sees_the_tree(guest: Guest) -> None:
    server = guest.servers[0]
    assert guest.value("len(os.listdir('/usr/bin'))") > 10
    assert len(os.listdir(f"/proc/{server.pid}/task")) > 2
    assert faults(server.pid, OF_VIRTIOFSD) == []


def test_what_virtiofsd_holds_open_lies_in_the_tree(guest: Guest) -> None:
    """Each directory or file that it has open is one of a mount below its own root, by device and mount."""
    pid = guest.servers[0].pid
    own = {line.split()[0] for line in Path(f"/proc/{pid}/mountinfo").read_text().splitlines()}
    for number in os.listdir(f"/proc/{pid}/fd"):
        target = os.readlink(f"/proc/{pid}/fd/{number}")
        if target.startswith("/") and not target.startswith(("/dev/null", "/memfd:", "/proc/1/", "/share")):
            info = Path(f"/proc/{pid}/fdinfo/{number}").read_text()
            assert re.search(r"mnt_id:\s*(\d+)", info)[1] in own, target


def test_a_file_servers_socket_is_not_to_be_found(tmp_path: Path) -> None:
    requires("root")
    spec: Any = {"ociVersion": "1.2.0", "root": {"path": "."}}
    server = virtiofsd.FileServer.start(tree.host_tree(spec, str(tmp_path)), virtiofsd.find_server())
    try:
        number = os.readlink(f"/proc/self/fd/{server.socket.fileno()}").strip("socket:[]")
        lines = [line.split() for line in Path("/proc/net/unix").read_text().splitlines()]
        assert [line[7:] for line in lines if line[6] == number] == [[]]
        for name in os.listdir(DIRECTORY):
            assert not stat.S_ISSOCK(os.stat(f"{DIRECTORY}/{name}").st_mode), name
    finally:
        server.close()


def test_virtiofsd_goes_with_the_process_that_started_it_even_when_it_has_served_other_users(tmp_path: Path) -> None:
    """PR_SET_PDEATHSIG is forgotten whenever a thread changes its user: not the one that has it."""
    started = _start_and_die(tmp_path, "virtiofsd")
    _wait_for_the_end_of(started)


def test_qemu_goes_with_the_process_that_started_it(tmp_path: Path) -> None:
    started = _start_and_die(tmp_path, "qemu")
    _wait_for_the_end_of(started)


def test_a_jailed_process_outlives_the_thread_that_asked_for_it(tmp_path: Path) -> None:
    """The kernel would end it with the thread that is its parent (prctl(2)): that is none that ends."""
    import threading

    requires("root", "file /usr/lib/qemu/virtiofsd")
    made = []
    thread = threading.Thread(target=lambda: made.append(_sleeper()))
    thread.start()
    thread.join()
    time.sleep(0.3)
    assert made[0].wait(0) is None
    made[0].close()


_SCRIPT = """
import sys, os, time
sys.path[:0] = [{runtime!r}, {backends!r}]
from pysandbox_microvm import jail, tree, virtiofsd
from pysandbox_microvm.identity import Identity
if sys.argv[1] == "qemu":
    program = jail.find_program("qemu-system-x86_64")
    process = jail.launch_jailed(jail.qemu_jail(program, Identity.take().uid), [program.path, "-S", "-display", "none"], {{}})
else:
    spec = {{"ociVersion": "1.2.0", "root": {{"path": "."}}}}
    process = virtiofsd.FileServer.start(tree.host_tree(spec, {directory!r}), virtiofsd.find_server())
print(process.pid, flush=True)
time.sleep(60)
"""


def _start_and_die(directory: Path, what: str) -> int:
    """Have a process start a jailed one and be killed; return the pid of the jailed one."""
    requires("root", "command qemu-system-x86_64", "file /usr/lib/qemu/virtiofsd")
    script = _SCRIPT.format(
        runtime=str(REPOSITORY / "runtime_api"), backends=str(REPOSITORY / "backends"), directory=str(directory)
    )
    parent = subprocess.Popen([sys.executable, "-c", script, what], stdout=subprocess.PIPE, text=True)
    assert parent.stdout is not None
    pid = int(parent.stdout.readline())
    time.sleep(0.2)
    assert Path(f"/proc/{pid}").exists()
    parent.send_signal(signal.SIGKILL)
    parent.wait()
    return pid


def _wait_for_the_end_of(pid: int) -> None:
    deadline = time.monotonic() + 5
    while Path(f"/proc/{pid}/exe").is_symlink() and time.monotonic() < deadline:
        try:
            if os.waitpid(pid, os.WNOHANG)[0]:  # orphans come to the tests
                return
        except ChildProcessError:
            pass
        time.sleep(0.02)
    assert not Path(f"/proc/{pid}").exists()


# -- of a container ----------------------------------------------------------------------------------------------------


def test_what_feeds_a_container_is_jailed_and_in_its_cgroup(microvm: Runtime, make_bundle: MakeBundle) -> None:
    container = microvm.run_detached(make_bundle(["sleep", "100"]))
    try:
        sandbox = json.loads(microvm.ok("state", container))["pid"]
        helpers = cgroup_of(sandbox)
        # The other one is a fork of the server's, where there is one; else the container's pid is the sandbox process.
        assert sorted(helpers.keys() - {"pysandbox-sandb"}) == ["qemu-system-x86", "virtiofsd"]
        qemu, virtiofsd_ = helpers["qemu-system-x86"], helpers["virtiofsd"]
        uid = os.stat(f"/proc/{qemu}").st_uid
        assert uid >= 1878982656
        assert faults(qemu, of_qemu(uid)) == []
        assert faults(virtiofsd_, OF_VIRTIOFSD) == []
        assert "THP_enabled:\t0" in Path(f"/proc/{qemu}/status").read_text()  # for it is emulated
        cgroups = {Path(f"/proc/{pid}/cgroup").read_text() for pid in (sandbox, qemu, virtiofsd_)}
        assert len(cgroups) == 1
        assert container in cgroups.pop()
    finally:
        microvm.ok("delete", "--force", container)


# -- the jail itself ---------------------------------------------------------------------------------------------------


def _shell(script: str, *, seccomp: bool = True, **changes: object) -> tuple[int, str]:
    """Run a script with busybox in a jail of uid 12345; return its exit code and what it said."""
    requires("root", "command busybox")
    import shutil

    program = jail.find_program(shutil.which("busybox") or "")
    binds, links = jail.program_binds(program)
    filter_ = barrier.program() if seccomp else ""
    built = jail.Jail(**{"uid": 12345, "gid": 12345, "binds": binds, "links": links, "seccomp": filter_, **changes})  # type: ignore[arg-type]
    reader, writer = os.pipe()
    process = jail.launch_jailed(built, [program.path, "sh", "-c", script], {1: writer, 2: writer})
    os.close(writer)
    with open(reader, encoding="utf-8", errors="replace") as said:
        text = said.read()
    code = process.wait(10)
    process.close()
    assert code is not None
    return code, text


def _sleeper() -> jail.Jailed:
    import shutil

    program = jail.find_program(shutil.which("busybox") or "")
    binds, links = jail.program_binds(program)
    return jail.launch_jailed(
        jail.Jail(uid=12345, gid=12345, binds=binds, links=links), [program.path, "sleep", "60"], {}
    )


def test_nothing_in_a_jail_can_be_written() -> None:
    code, said = _shell(
        "b=/usr/bin/busybox; [ -e $b ] || b=/bin/busybox; for d in / /usr /dev /proc /proc/self /etc; do $b touch $d/x 2>/dev/null && echo $d; done; $b true"
    )
    assert (code, said) == (0, "")


def test_a_jail_sees_its_own_processes_alone() -> None:
    assert _shell("echo /proc/[0-9]*")[1].split() == ["/proc/1"]


def test_a_jail_has_no_procfs_beyond_its_processes() -> None:
    assert _shell("echo /proc/sys* /proc/kc* /proc/kmsg*")[1].split() == ["/proc/sys*", "/proc/kc*", "/proc/kmsg*"]


def test_a_jail_has_the_descriptors_it_was_given_and_no_others() -> None:
    leaked = os.open("/etc/hosts", os.O_RDONLY)
    os.set_inheritable(leaked, True)
    try:
        seen = _shell("for f in /proc/1/fd/*; do readlink $f; done")[1].split("\n")
    finally:
        os.close(leaked)
    assert [target.partition(":")[0] for target in seen if target] == ["/dev/null", "pipe", "pipe"]


@pytest.mark.parametrize("seccomp", [True, False])
def test_the_filter_is_what_keeps_a_jail_from_making_a_user_namespace(seccomp: bool) -> None:
    """The proof is the same without it: nothing else in the jail would."""
    said = _shell("unshare -U true && echo made", seccomp=seccomp)[1]
    assert ("made" in said) is not seccomp


def test_a_program_that_is_not_there_is_an_error_and_leaves_nothing() -> None:
    requires("root")
    with pytest.raises(ExecutorError, match="/nowhere"):
        jail.launch_jailed(jail.Jail(uid=12345, gid=12345), ["/nowhere"], {})


def test_a_device_that_is_not_what_it_should_be_is_refused() -> None:
    requires("root")
    with pytest.raises(ExecutorError, match="is not the device"):
        jail.launch_jailed(jail.Jail(uid=1, gid=1, devices=[jail.Device("/dev/null", 10, 232)]), ["/x"], {})


# -- identities --------------------------------------------------------------------------------------------------------


def test_two_machines_never_have_the_same_user(tmp_path: Path) -> None:
    requires("root")
    ids = Range(1879000000, 3)
    held = [Identity.take(ids, str(tmp_path)) for _ in range(3)]
    assert sorted(each.uid for each in held) == [1879000000, 1879000001, 1879000002]
    with pytest.raises(Unavailable, match="all 3 user ids from 1879000000 on are taken"):
        Identity.take(ids, str(tmp_path))
    free = held.pop()
    free.close()
    assert Identity.take(ids, str(tmp_path)).uid == free.uid


def test_a_user_whose_process_is_still_there_is_not_given_out(tmp_path: Path) -> None:
    requires("root")
    child = subprocess.Popen(["sleep", "60"], user=1879000100, group=1879000100)
    try:
        with pytest.raises(Unavailable):
            Identity.take(Range(1879000100, 1), str(tmp_path))
    finally:
        child.kill()
        child.wait()
    Identity.take(Range(1879000100, 1), str(tmp_path)).close()


def test_a_lock_file_that_others_could_have_made_is_refused(tmp_path: Path) -> None:
    requires("root")
    tmp_path.chmod(0o777)
    with pytest.raises(Unavailable, match="only root can write"):
        Identity.take(Range(), str(tmp_path))
