"""Machines: a jailed QEMU that boots, is saved, cloned, grows, and whose every end is noticed, told and cleaned up."""

from __future__ import annotations

import contextlib
import os
import re
import shutil
import signal
import subprocess
import threading
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from busybox import find_busybox
from precondition import requires
from runtime import children

from pysandbox.errors import DeadlineExceeded, FailedPrecondition, InvalidArgument, SandboxError, Unavailable
from pysandbox.record import replace
from pysandbox_microvm import initrd, machine, provision, template
from pysandbox_microvm.arguments import Disk
from pysandbox_microvm.identity import Identity
from pysandbox_microvm.image import find_image
from pysandbox_microvm.jail import find_program, qemu_jail
from pysandbox_microvm.machine import Machine, MachineError
from pysandbox_microvm.provision import TEMPLATES, Provision, make_template, plan_machine, provide_machine, template_key
from pysandbox_microvm.size import MIB, Size

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping

    from pysandbox_microvm.image import Image
    from pysandbox_microvm.jail import Jail


SMALL = Size(1, 256 * MIB)


class Machines:
    """Starts machines in jails, and remembers what it was warned of."""

    def __init__(self, settings: Mapping[str, Any], directory: Path) -> None:
        self.settings = {**settings, "max_vcpus": 2, "max_memory": 2048, "accelerator": "tcg"}
        self.directory = directory
        self.image = find_image(settings)
        self.warnings: list[str] = []
        self.qemu = find_program(provision.find_qemu(settings))
        self.identity = Identity.take()

    def jailer(self, kvm: bool) -> Jail:
        return qemu_jail(self.qemu, self.identity.uid, kvm=kvm)

    def plan(self, size: Size = SMALL, image: Image | None = None, **more: Any) -> Provision:
        return plan_machine(image or self.image, size, self.settings, str(self.directory), self.jailer, **more)

    def booting(self, image: Image | None = None) -> Provision:
        return replace(self.plan(image=image), templates=False)

    def start(self, planned: Provision, disk: Disk | None = None) -> Machine:
        return provide_machine(planned, self.jailer, disk=disk, warn=self.warnings.append)

    def templates(self) -> Path:
        return self.directory / TEMPLATES


@pytest.fixture(scope="module")
def shared(microvm_settings: Mapping[str, Any], tmp_path_factory: pytest.TempPathFactory) -> Iterator[Machines]:
    requires("root", "command qemu-system-x86_64")
    directory = tmp_path_factory.mktemp("machines")
    directory.chmod(0o700)
    made = Machines(microvm_settings, directory)
    yield made
    made.identity.close()


@pytest.fixture
def machines(shared: Machines) -> Iterator[Machines]:
    """The machines of this module; whatever a test starts has to be gone at its end, with all that belongs to it."""
    shared.plan()  # what is kept for good is there
    before = leftovers()
    shared.warnings.clear()
    yield shared
    deadline = time.monotonic() + 5
    while not as_before(leftovers(), before) and time.monotonic() < deadline:
        time.sleep(0.05)
    assert as_before(leftovers(), before), (leftovers(), before)


def as_before(now: tuple[Any, ...], before: tuple[Any, ...]) -> bool:
    """Tell whether nothing has come; a descriptor of an earlier test's may have gone."""
    return now[:-1] == before[:-1] and now[-1] <= before[-1]


def leftovers() -> tuple[Any, ...]:
    descriptors = sorted(os.readlink(f"/proc/self/fd/{number}") for number in open_descriptors())
    mine = [link for link in descriptors if link.startswith(("/memfd:pysandbox-memory", "anon_inode:[pidfd]"))]
    names = [thread.name for thread in threading.enumerate() if thread.name in ("qmp", "machine", "ttrpc client")]
    return mine, names, [pid for pid in children() if program_of(pid).startswith("qemu")], len(descriptors)


def open_descriptors() -> list[str]:
    return [number for number in os.listdir("/proc/self/fd") if os.path.exists(f"/proc/self/fd/{number}")]


def program_of(pid: int) -> str:
    try:
        return Path(f"/proc/{pid}/comm").read_text().strip()
    except FileNotFoundError:
        return ""


def scripted(machines: Machines, directory: Path, script: str) -> Image:
    """Return an image whose init is a shell script."""
    archive = initrd.archive(
        [
            initrd.directory("bin"),
            initrd.directory("dev"),
            initrd.character_device("dev/console", 0o600, 5, 1),
            initrd.directory("proc"),
            initrd.program("bin/busybox", Path(find_busybox()).read_bytes()),
            initrd.program("init", f"#!/bin/busybox sh\nb=/bin/busybox\n{script}\n".encode()),
        ]
    )
    path = directory / "initrd"
    path.write_bytes(archive)
    path.chmod(0o600)
    return find_image({**machines.settings, "kernel": machines.image.kernel, "initrd": str(path)})


# -- starting ----------------------------------------------------------------------------------------------------------


def test_a_machine_boots_and_its_agent_says_hello(machines):
    with machines.start(machines.booting()) as started:
        guest = started.hello().check()
        assert guest.processors == 1
        assert 200 * MIB < guest.memory < 256 * MIB
        assert started.alive


def test_a_machine_that_was_asked_for_odd_sizes_boots_with_them(machines):
    with machines.start(replace(machines.booting(), size=Size(2, 300 * MIB))) as started:
        guest = started.hello().check()
        assert guest.processors == 2
        assert 250 * MIB < guest.memory < 300 * MIB


def test_clones_of_one_template_each_have_an_agent_and_memory_of_their_own(machines):
    planned = machines.plan()
    kept = make_template(planned, machines.jailer)
    saved = Path(kept.directory, "memory").read_bytes()
    with machines.start(planned) as first, machines.start(planned) as second:
        assert first.hello().check() == second.hello().check()
        assert first.memory != second.memory
        assert os.fstat(first.memory).st_ino != os.fstat(second.memory).st_ino
    assert machines.warnings == []
    assert Path(kept.directory, "memory").read_bytes() == saved
    assert template.find_template(str(machines.templates()), template_key(planned)) == kept


def test_a_machine_with_a_command_line_of_its_own_is_booted(machines):
    machines.settings["kernel_parameters"] = ["loglevel="]
    try:
        planned = machines.plan(parameters=("loglevel=7",))
    finally:
        del machines.settings["kernel_parameters"]
    assert not planned.templates
    with machines.start(planned) as started:
        started.hello().check()
        assert b"Linux version" in started.console()


def test_what_goes_into_a_template_gives_it_another_name(machines):
    planned = machines.plan()
    keys = {
        template_key(planned),
        template_key(replace(planned, size=Size(2, 256 * MIB))),
        template_key(replace(planned, size=Size(1, 512 * MIB))),
        template_key(replace(planned, root_disk=True)),
        template_key(replace(planned, root_ports=8)),
        template_key(replace(planned, most=Size(2, 4096 * MIB))),
        template_key(replace(planned, image=replace(planned.image, digest="another"))),
        template_key(replace(planned, processor=replace(planned.processor, tsc_khz=1))),
        template_key(replace(planned, qemu="/usr/bin/env")),
    }
    assert len(keys) == 9
    assert template_key(replace(planned, size=Size(1, 300 * MIB))) in keys


def test_kvm_that_is_asked_for_is_proved_by_a_boot_or_refused_with_the_reason_and_the_answer_is_kept(machines):
    requires("file /dev/kvm")
    settings = {**machines.settings, "accelerator": "kvm"}
    answers = []
    for _ in range(2):
        began = time.monotonic()
        try:
            planned = plan_machine(machines.image, SMALL, settings, str(machines.directory), machines.jailer)
            answers.append(planned.accelerator.name)
        except Unavailable as refused:
            answers.append(str(refused))
        assert time.monotonic() - began < 10
    assert re.fullmatch(
        r"kvm-(vmx|svm|pvm)|KVM is not usable here: a trial boot .*; remedy: the setting acc.*", answers[0]
    )
    assert answers[0] == answers[1]
    assert time.monotonic() - began < 0.5  # the second one was not tried


# -- growing -----------------------------------------------------------------------------------------------------------


def test_a_clone_grows_to_the_size_that_was_asked_for(machines):
    with machines.start(machines.plan(Size(2, 640 * MIB))) as started:
        assert started.size == Size(2, 640 * MIB)
        guest = started.hello().grow(2, 580 * MIB, 10)
        assert guest.processors == 2
        assert guest.memory > 580 * MIB
    assert machines.warnings == []


def test_a_machine_grows_while_it_runs_and_gives_memory_back(machines):
    with machines.start(machines.plan()) as started:
        agent = started.hello()
        before = agent.check()
        started.grow(Size(2, 512 * MIB))
        grown = agent.grow(2, before.memory + 200 * MIB, 10)
        assert grown.processors == 2
        started.grow(Size(2, 384 * MIB))
        deadline = time.monotonic() + 5
        while agent.check().memory >= grown.memory and time.monotonic() < deadline:
            time.sleep(0.1)
        assert agent.check().memory < grown.memory


@pytest.mark.parametrize("size", [Size(3, 256 * MIB), Size(1, 128 * MIB), Size(1, 4096 * MIB), Size(0, 256 * MIB)])
def test_a_machine_does_not_grow_beyond_what_it_was_made_for_or_shrink_below_what_it_began_with(machines, size):
    with machines.start(machines.plan()) as started:
        with pytest.raises(InvalidArgument, match="cannot have"):
            started.grow(size)
        started.hello().check()


# -- devices -----------------------------------------------------------------------------------------------------------


def disk_image(directory: Path, name: str = "disk.ext4") -> Path:
    requires("command mkfs.ext4")
    (directory / "content").mkdir(exist_ok=True)
    (directory / "content/hello").write_text("from the host")
    path = directory / name
    with path.open("wb") as file:
        file.truncate(32 * MIB)
    subprocess.run(["mkfs.ext4", "-q", "-d", directory / "content", path], check=True)
    return path


def opened(path: Path, flags: int, call: Callable[[int], Any]) -> Any:
    descriptor = os.open(path, flags | os.O_CLOEXEC)
    try:
        return call(descriptor)
    finally:
        os.close(descriptor)


def test_a_disk_is_plugged_in_used_and_taken_out_again(machines, tmp_path):
    path = disk_image(tmp_path)
    with machines.start(machines.plan()) as started:
        agent = started.hello()
        for _ in range(2):  # its root port serves once more
            name = opened(path, os.O_RDWR, lambda fd: started.plug_disk(fd, "serial7", read_only=False))
            assert agent.attach("d", "ext4", "serial7").path == "/run/storage/d"
            agent.detach("d")
            started.unplug(name)
        with pytest.raises(InvalidArgument, match="no such device"):
            started.unplug(name)


def test_a_machine_without_a_free_root_port_says_so_and_works_on(machines, tmp_path):
    path = tmp_path / "empty"
    path.write_bytes(bytes(MIB))
    with machines.start(machines.plan()) as started:
        names = [
            opened(path, os.O_RDONLY, lambda fd, n=number: started.plug_disk(fd, f"s{n}", read_only=True))
            for number in range(3)
        ]
        with pytest.raises(FailedPrecondition, match="no room for a device beside 3 others"):
            opened(path, os.O_RDONLY, lambda fd: started.plug_disk(fd, "s4", read_only=True))
        started.hello().attach("x", "disk", "s2")
        started.unplug(names[0])
        opened(path, os.O_RDONLY, lambda fd: started.plug_disk(fd, "s5", read_only=True))


def test_more_devices_are_asked_for_beforehand(machines):
    assert [machines.plan(devices=devices).root_ports for devices in (0, 3, 4, 7, 8, 31)] == [4, 4, 8, 8, 16, 32]
    with pytest.raises(InvalidArgument, match="32 file systems, interfaces and disks are more"):
        machines.plan(devices=32)


def test_a_read_only_disk_cannot_be_written_to_whatever_the_guest_does(machines, tmp_path):
    path = disk_image(tmp_path)
    before = path.read_bytes()
    script = (
        "$b mount -t devtmpfs dev /dev; until [ -b /dev/vda ]; do $b usleep 10000; done\n"
        "$b dd if=/dev/zero of=/dev/vda bs=4096 count=64 conv=fsync 2>/dev/null && echo WRITTEN || echo REFUSED\n"
        "$b sleep 1000"
    )
    with machines.start(machines.booting(scripted(machines, tmp_path, script))) as started:
        opened(path, os.O_RDONLY, lambda fd: started.plug_disk(fd, "x", read_only=True))
        eventually(lambda: b"REFUSED" in started.console() or b"WRITTEN" in started.console())
        assert b"REFUSED" in started.console()
    assert path.read_bytes() == before


def test_a_disk_that_begins_like_qcow2_is_raw_bytes_to_the_guest(machines, tmp_path):
    secret = tmp_path / "secret"
    secret.write_text("of the host")
    path = tmp_path / "disk"
    subprocess.run(["qemu-img", "create", "-q", "-f", "qcow2", "-b", secret, "-F", "raw", path], check=True)
    os.truncate(path, MIB)
    script = (
        "$b mount -t devtmpfs dev /dev; until [ -b /dev/vda ]; do $b usleep 10000; done\n"
        "echo HEAD=$($b head -c 3 /dev/vda) SIZE=$($b blockdev --getsize64 /dev/vda) END\n$b sleep 1000"
    )
    with machines.start(machines.booting(scripted(machines, tmp_path, script))) as started:
        opened(path, os.O_RDWR, lambda fd: started.plug_disk(fd, "x", read_only=False))
        eventually(lambda: b"SIZE=" in started.console() and b"END" in started.console())
        assert b"HEAD=QFI" in started.console()
        assert f"SIZE={MIB} END".encode() in started.console()


def test_a_root_disk_stands_where_the_template_had_none(machines, tmp_path):
    path = disk_image(tmp_path)
    planned = machines.plan(root_disk=True)
    descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    try:
        first = machines.start(planned, Disk(descriptor, read_only=True))
        second = machines.start(planned, Disk(descriptor, read_only=True))
    finally:
        os.close(descriptor)
    with first, second:
        assert machines.warnings == []
        for started in (first, second):
            assert started.hello().attach("root", "ext4", "root", read_only=True).path == "/run/storage/root"
        # Both map the very same memory, to which neither can write.
        assert os.fstat(first.memory).st_ino == os.fstat(second.memory).st_ino
        with pytest.raises(PermissionError):
            os.pwrite(first.memory, b"evil", 0)
        first.close()
        second.hello().check()


def test_pausing_stops_the_guest_and_resuming_lets_it_go_on(machines):
    with machines.start(machines.plan()) as started:
        agent = started.hello()
        started.pause()
        with pytest.raises(DeadlineExceeded):
            agent.check(0.5)
        started.resume()
        assert agent.check(10).processors == 1


# -- faults ------------------------------------------------------------------------------------------------------------


def eventually(condition: Callable[[], object], seconds: float = 15.0) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, "it has not come about"
        time.sleep(0.02)


def test_a_killed_qemu_is_noticed_at_once_by_all_who_wait(machines):
    with machines.start(machines.plan()) as started:
        agent = started.hello()
        told = threading.Event()
        started.on_end(told.set)
        errors: list[BaseException] = []

        def wait() -> None:
            try:
                started._client.wait_event(lambda _: False, time.monotonic() + 30, "too late")
            except SandboxError as error:
                errors.append(error)

        waiting = threading.Thread(target=wait)
        waiting.start()
        began = time.monotonic()
        os.kill(started.pid, signal.SIGKILL)
        assert told.wait(2)
        waiting.join(2)
        assert time.monotonic() - began < 2
        assert "killed by signal 9" in str(errors[0])
        assert "killed by signal 9" in started.why()
        assert not started.alive
        with pytest.raises(MachineError, match="killed by signal 9"):
            started.pause()
        with pytest.raises(SandboxError):
            agent.check(2)
        late = threading.Event()
        started.on_end(late.set)
        assert late.is_set()


FAULTS = {
    "poweroff": ("$b poweroff -f", "the guest powered off|the guest reset"),
    "reboot": ("$b reboot -f", "the guest reset the machine"),
    "panic": ("exit 3", "kernel panic: Attempted to kill init! exitcode=0x00000300"),
}


@pytest.mark.parametrize("fault", FAULTS)
def test_a_guest_that_ends_its_machine_is_told_with_its_reason_and_its_last_words(machines, tmp_path, fault):
    script, reason = FAULTS[fault]
    image = scripted(machines, tmp_path, f"echo last words of the guest\n{script}")
    with machines.start(machines.booting(image)) as started:
        with pytest.raises(MachineError, match=reason) as caught:
            started.hello()
        assert b"last words of the guest" in caught.value.console
        assert "\n" not in str(caught.value)


def test_a_guest_without_an_agent_is_waited_for_no_longer_than_the_limit(machines, tmp_path):
    image = scripted(machines, tmp_path, "echo here I am; $b sleep 1000")
    with machines.start(machines.booting(image)) as started:
        eventually(lambda: b"here I am" in started.console())
        with pytest.raises(DeadlineExceeded, match="console: here I am"):
            started.hello(0.5)


def test_a_flood_on_the_console_is_forgotten_and_shown_harmlessly(machines, tmp_path):
    script = "i=0; while [ $i -lt 3000 ]; do echo flood $i 0123456789012345678901234567890123456789; i=$((i+1)); done\n"
    image = scripted(machines, tmp_path, script + "$b printf 'end \\033]0;title\\007\\n'; $b sleep 1000")
    with machines.start(machines.booting(image)) as started:
        eventually(lambda: b"end " in started.console(), 40)
        assert len(started.console()) <= 64 * 1024
        with pytest.raises(DeadlineExceeded) as caught:
            started.hello(0.2)
        assert "\x1b" not in str(caught.value)
        assert "\x07" not in str(caught.value)


@pytest.mark.parametrize("milliseconds", [0, 15, 30, 45, 60, 90, 130])
def test_a_qemu_that_is_killed_while_it_starts_leaves_one_line_and_nothing_else(machines, monkeypatch, milliseconds):
    planned = machines.plan()
    kept = make_template(planned, machines.jailer)
    launch = machine.launch

    def launch_and_kill(*arguments: Any) -> tuple[int, int]:
        pid, pidfd = launch(*arguments)
        threading.Timer(milliseconds / 1000, lambda: os.kill(pid, signal.SIGKILL)).start()
        return pid, pidfd

    monkeypatch.setattr(machine, "launch", launch_and_kill)
    began = time.monotonic()

    def run() -> None:
        with provision._start(planned, SMALL, machines.jailer, template=kept) as started:
            with contextlib.suppress(Unavailable):  # the agent's connection may be the first to see it
                started.hello(5).check()
            time.sleep(0.5)
            started.pause()

    with pytest.raises(MachineError, match="killed by signal 9") as caught:
        run()
    assert time.monotonic() - began < 3
    assert "\n" not in str(caught.value)


def test_a_template_whose_state_qemu_does_not_take_is_made_anew(machines):
    planned = machines.plan()
    kept = make_template(planned, machines.jailer)
    damage(kept, "state", b"no state at all")
    with machines.start(planned) as started:
        started.hello().check()
    assert len(machines.warnings) == 1
    assert "made anew" in machines.warnings[0]
    assert "\n" not in machines.warnings[0]
    with machines.start(planned) as started:
        started.hello().check()
    assert len(machines.warnings) == 1


def damage(kept: template.Template, name: str, content: bytes) -> None:
    """Replace a file of a template, and what its manifest says of it."""
    path = Path(kept.directory, name)
    path.unlink()
    path.write_bytes(content)
    document = {**kept.manifest, name: template._fingerprint(path.stat())}
    manifest = Path(kept.directory, template.MANIFEST)
    manifest.unlink()
    manifest.write_text(template.json.dumps(document))


def test_without_room_for_a_template_the_machine_is_booted_and_nothing_is_left(machines, tmp_path):
    small = tmp_path / "small"
    small.mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=4m,mode=0700", "small", small], check=True)
    try:
        with machines.start(replace(machines.plan(), directory=str(small))) as started:
            started.hello().check()
        assert "No space left on device" in machines.warnings[0]
        assert set(os.listdir(small / TEMPLATES)) == {"lock"}
    finally:
        subprocess.run(["umount", small], check=True)


def test_a_template_that_disappears_is_made_anew(machines):
    planned = machines.plan()
    make_template(planned, machines.jailer)
    shutil.rmtree(machines.templates())
    with machines.start(planned) as started:
        started.hello().check()
    assert machines.warnings == []
    assert template.find_template(str(machines.templates()), template_key(planned)) is not None


def test_a_qemu_that_does_not_start_says_why_in_one_line(machines, monkeypatch):
    monkeypatch.setattr(machine, "arguments", lambda *_, **__: [machines.qemu.path, "-machine", "nonsense"])
    started = machines.start(machines.booting())
    with started, pytest.raises(MachineError, match="exit code 1; qemu: .*unsupported machine type") as caught:
        started.hello(5)
    assert "\n" not in str(caught.value)


def test_closing_ends_a_qemu_that_does_not_listen(machines):
    started = machines.start(machines.plan())
    pid = started.pid
    os.kill(pid, signal.SIGSTOP)
    started.close()
    started.close()
    assert not os.path.exists(f"/proc/{pid}")
