"""The view from outside: who is looked at, and what is found of a process that nothing holds."""

from __future__ import annotations

import contextlib
import os
import shutil
import subprocess
from typing import TYPE_CHECKING

import pytest
from precondition import requires
from runtime import eventually

from pysandbox.audit import outside
from pysandbox.audit.audit import judged
from pysandbox.audit.catalogue import NAMESPACES, PROBES
from pysandbox.audit.context import Context
from pysandbox.audit.finding import UNKNOWN, WEAK
from pysandbox.audit.outside import Gone, hold, observe, roles

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path


@contextlib.contextmanager
def _process(*command: str | Path, descriptors: tuple[int, ...] = ()) -> Iterator[int]:
    process = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, pass_fds=descriptors)
    try:
        yield process.pid
    finally:
        process.kill()
        process.communicate()


def test_a_process_that_nothing_holds_is_weak_in_every_respect() -> None:
    """The proof that these probes can fail: each kind of fault, found in a plain child of root's."""
    requires("root", "file /dev/fuse")
    directory, device = os.open("/etc", os.O_RDONLY), os.open("/dev/fuse", os.O_RDWR)
    try:
        with _process("sleep", "100", descriptors=(directory, device)) as pid:
            facts = observe(pid)
    finally:
        os.close(directory)
        os.close(device)

    kinds = ["capabilities", "uid", "root", "descriptors", "devices", "cgroup"]
    kinds += [f"namespace.{kind}" for kind in NAMESPACES]
    verdicts = {
        kind: finding.verdict
        for kind in kinds
        if (finding := judged(PROBES[f"outside.init.{kind}"], facts[f"outside.init.{kind}"], Context(), {}))
    }
    assert verdicts == dict.fromkeys(kinds, WEAK)
    assert {"limits.memory", "limits.pids", "limits.cpu"} <= facts.keys()


def test_one_thread_without_a_filter_is_enough() -> None:
    facts = outside._threads([{"Seccomp": "2"}, {"Seccomp": "2"}, {"Seccomp": "0"}, {}], "Seccomp", "2")

    assert facts == {"threads": 4, "without": 2}


def test_whoever_has_started_qemu_owns_a_machine(tmp_path: Path) -> None:
    requires("root")
    sleep, sh = shutil.which("sleep"), shutil.which("sh")
    assert sleep
    assert sh
    for name in ("qemu-system-test", "virtiofsd"):
        shutil.copy(sleep, tmp_path / name)
    script = f"{tmp_path}/virtiofsd 100 & {tmp_path}/qemu-system-test 100 & echo; wait"
    process = subprocess.Popen([sh, "-c", script], stdout=subprocess.PIPE, process_group=0)
    try:
        assert process.stdout
        process.stdout.readline()
        # Each is a shell until it has executed its program.
        eventually(lambda: len(roles(process.pid)) == 3, "both programs run")
        found = roles(process.pid)
        assert found.keys() == {"sandbox", "virtiofsd", "qemu"}
        assert found["sandbox"] == process.pid
    finally:
        os.killpg(process.pid, 9)
        process.communicate()


def test_a_machine_whose_owner_is_not_below_init_is_found_in_its_cgroup(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    program = tmp_path / "qemu-system-x86_64"
    shutil.copy("/bin/sleep", program)
    with _process("sleep", "60") as init, _process(program, "60") as qemu:
        monkeypatch.setattr("pysandbox.cgroup.residents.beside", lambda pid: [init, qemu] if pid == init else [])

        assert roles(init) == {"sandbox": os.getpid(), "qemu": qemu}  # its parent is its owner
        assert roles(qemu) == {"init": qemu}


def test_a_process_that_has_ended_is_not_observed() -> None:
    process = subprocess.Popen(["true"])
    process.wait()

    with pytest.raises(Gone), hold(process.pid):
        pytest.fail("it cannot be held")
    facts = observe(process.pid)

    finding = judged(PROBES["outside.init.uid"], facts["outside.init.uid"], Context(), {})
    assert finding is not None
    assert finding.verdict == UNKNOWN
    assert "has ended" in finding.why


def test_a_process_that_ends_while_it_is_read_is_not_observed() -> None:
    process = subprocess.Popen(["sleep", "100"])

    def read() -> None:
        with hold(process.pid) as held:
            assert held.read("comm")
            process.kill()
            process.wait()

    with pytest.raises(Gone):
        read()
