"""The QEMU of each Debian release that is supported, from 7.2 on: boot, template, clone, growth, devices, end."""

from __future__ import annotations

import os
import subprocess
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from precondition import requires
from qemurelease import RELEASES, qemu_of, version_of

from pysandbox.errors import InvalidArgument
from pysandbox.record import replace
from pysandbox_microvm.arguments import Disk
from pysandbox_microvm.identity import Identity
from pysandbox_microvm.image import find_image
from pysandbox_microvm.jail import qemu_jail
from pysandbox_microvm.provision import make_template, plan_machine, provide_machine
from pysandbox_microvm.size import MIB, Size

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from pysandbox_microvm.jail import Jail, Program
    from pysandbox_microvm.machine import Machine
    from pysandbox_microvm.provision import Provision


class Release:
    """Machines of one QEMU, each in its jail: what it needs is that release's, not the host's."""

    def __init__(self, qemu: Program, settings: Mapping[str, Any], directory: Path) -> None:
        self.qemu = qemu
        self.settings = {"max_vcpus": 2, "max_memory": 1024, "accelerator": "tcg"}
        self.image = find_image(settings)
        self.directory = directory
        self.identity = Identity.take()
        self.warnings: list[str] = []

    def jailer(self, kvm: bool) -> Jail:
        return qemu_jail(self.qemu, self.identity.uid, kvm=kvm)

    def plan(self, size: Size, **more: Any) -> Provision:
        return plan_machine(self.image, size, self.settings, str(self.directory), self.jailer, **more)

    def start(self, planned: Provision, disk: Disk | None = None) -> Machine:
        return provide_machine(planned, self.jailer, disk=disk, warn=self.warnings.append)


@pytest.fixture(scope="module", params=RELEASES)
def release(
    request: pytest.FixtureRequest, microvm_settings: Mapping[str, Any], tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Release]:
    requires("root", "command mkfs.ext4")
    directory = tmp_path_factory.mktemp(request.param)
    directory.chmod(0o700)
    made = Release(qemu_of(request.param), microvm_settings, directory)
    yield made
    made.identity.close()
    assert made.warnings == []


@pytest.fixture
def image(tmp_path: Path) -> Iterator[int]:
    path = tmp_path / "disk.ext4"
    path.write_bytes(b"")
    os.truncate(path, 32 * MIB)
    subprocess.run(["mkfs.ext4", "-q", path], check=True)
    descriptor = os.open(path, os.O_RDWR | os.O_CLOEXEC)
    yield descriptor
    os.close(descriptor)


SMALL = Size(1, 256 * MIB)


def test_it_is_one_that_is_supported(release):
    assert version_of(release.qemu) >= (7, 2)


def test_a_machine_boots(release):
    with release.start(replace(release.plan(SMALL), templates=False)) as started:
        assert started.hello().check().processors == 1
        assert started._execute("query-version")["qemu"]["major"] == version_of(release.qemu)[0]


def test_clones_of_a_template_go_on_by_themselves(release):
    planned = release.plan(SMALL)
    make_template(planned, release.jailer)
    for _ in range(3):
        with release.start(planned) as started:
            assert started.hello().check().processors == 1


def test_a_clone_grows(release):
    with release.start(release.plan(Size(2, 384 * MIB))) as started:
        guest = started.hello().grow(2, 330 * MIB, 10)
        assert guest.processors == 2
        assert guest.memory > 330 * MIB


def test_a_disk_comes_and_goes(release, image):
    with release.start(release.plan(SMALL)) as started:
        agent = started.hello()
        name = started.plug_disk(image, "s1", read_only=False)
        agent.attach("d", "ext4", "s1")
        agent.detach("d")
        started.unplug(name)
        with pytest.raises(InvalidArgument):
            started.unplug(name)


def test_a_clone_has_a_real_disk_in_the_place_of_the_templates(release, image):
    planned = release.plan(SMALL, root_disk=True)
    for _ in range(2):
        with release.start(planned, Disk(image, read_only=False)) as started:
            assert started.hello().attach("r", "ext4", "root").path == "/run/storage/r"


def test_it_is_paused_and_resumed_and_its_end_is_noticed(release):
    with release.start(release.plan(SMALL)) as started:
        agent = started.hello()
        started.pause()
        started.resume()
        agent.check()
        os.kill(started.pid, 9)
        deadline = time.monotonic() + 2
        while started.alive and time.monotonic() < deadline:
            time.sleep(0.01)
        assert "killed by signal 9" in started.why()


def test_every_thread_is_filtered_and_without_privileges(release):
    with release.start(release.plan(SMALL)) as started:
        started.hello()
        for task in Path(f"/proc/{started.pid}/task").iterdir():
            status = dict(line.split(":\t", 1) for line in (task / "status").read_text().splitlines() if ":\t" in line)
            assert status["Seccomp"] == "2"
            assert status["NoNewPrivs"] == "1"
            assert int(status["CapEff"], 16) == int(status["CapBnd"], 16) == 0
            assert status["Uid"].split() == [str(release.identity.uid)] * 4
