"""How a container's program begins, through the command line: what cannot be executed, and its terminal."""

from __future__ import annotations

import os
import pty
import select
import subprocess
import time
from pathlib import Path
from typing import Any

import pytest
from precondition import requires
from runtime import MakeBundle, Runtime

pytestmark = pytest.mark.usefixtures("leaks")


@pytest.fixture
def broken(make_bundle: MakeBundle) -> Path:
    """A bundle whose program is there and executable, and names an interpreter that is not."""
    requires("root")
    bundle = make_bundle(["/program"])
    program = bundle / "rootfs/program"
    program.write_text("#!/nowhere\n")
    program.chmod(0o755)
    return bundle


def test_a_program_without_its_interpreter_is_told_in_one_line(pysandbox: Runtime, broken: Path) -> None:
    done = pysandbox("run", "--bundle", broken, pysandbox.new_id())

    assert (done.returncode, done.stderr) == (255, "exec /program: no such file or directory\n")


def test_a_container_whose_program_cannot_be_executed_has_started_and_stopped(pysandbox: Runtime, broken: Path) -> None:
    container_id = pysandbox.create(broken)

    pysandbox.ok("start", container_id)

    pysandbox.wait_status(container_id, "stopped")
    pysandbox.ok("delete", container_id)


def test_exec_of_such_a_program_too(pysandbox: Runtime, make_bundle: MakeBundle) -> None:
    requires("root")
    bundle = make_bundle(["sleep", "1000"])
    (bundle / "rootfs/program").write_text("#!/nowhere\n")
    (bundle / "rootfs/program").chmod(0o755)
    container_id = pysandbox.run_detached(bundle)

    done = pysandbox("exec", container_id, "/program")
    pysandbox.ok("delete", "--force", container_id)

    assert (done.returncode, done.stderr) == (255, "exec /program: no such file or directory\n")


def test_a_deadline_beside_a_set_of_cpus_is_told_in_runcs_words(pysandbox: Runtime, make_bundle: MakeBundle) -> None:
    requires("root", "cgroup v1 cpuset")
    if (os.cpu_count() or 1) < 2:
        pytest.skip("requires two CPUs: one is all that there is")

    def hurry(spec: dict[str, Any]) -> None:
        spec["linux"].setdefault("resources", {})["cpu"] = {"cpus": "0"}

    deadline = {"policy": "SCHED_DEADLINE", "runtime": 42_000, "deadline": 1_000_000, "period": 1_000_000}
    bundle = make_bundle(["true"], hurry, scheduler=deadline)

    done = pysandbox("run", "--bundle", bundle, pysandbox.new_id())

    assert done.returncode == 1
    assert "process scheduler can't be used together with AllowedCPUs" in done.stderr


def test_the_terminal_of_exec_writes_plain_newlines_from_the_first_on(pysandbox: Runtime, bundle: Path) -> None:
    """The caller's own terminal adds the carriage return; the container's must not add another."""
    requires("root")
    container_id = pysandbox.run_detached(bundle)

    said = [on_terminal(pysandbox.argv("exec", "-t", container_id, "echo", "line")) for _ in range(5)]
    pysandbox.ok("delete", "--force", container_id)

    assert said == [b"line\r\n"] * 5


def on_terminal(argv: list[str]) -> bytes:
    """What a command writes to its controlling terminal."""
    master, slave = pty.openpty()
    process = subprocess.Popen(argv, stdin=slave, stdout=slave, stderr=slave, start_new_session=True)
    os.close(slave)
    output, deadline = b"", time.monotonic() + 30
    while select.select([master], [], [], max(0, deadline - time.monotonic()))[0]:
        try:
            output += os.read(master, 1000)
        except OSError:  # EIO: nobody has the other end any more
            break
    assert process.wait(timeout=30) == 0
    os.close(master)
    return output
