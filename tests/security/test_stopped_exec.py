"""A container that stops whoever enters it holds up nobody but who enters it."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest
from harness.bundle import Bundle
from harness.runtime import Runtime

from pysandbox import executor
from pysandbox.backend import Stdio
from pysandbox.plan import operation
from pysandbox.plan.plan import Plan

STOPPER = "while :; do kill -STOP -1 2>/dev/null; done"


@pytest.fixture
def stopped(runtime: Runtime, bundle: Bundle) -> Iterator[tuple[str, subprocess.Popen[bytes]]]:
    """A container and an exec that its root has stopped on the way: the executor is a process in it by then."""
    container, created = runtime.create(bundle.script(STOPPER))
    assert created.code == 0, created
    assert runtime.call("start", container).code == 0
    for _ in range(20):
        held = subprocess.Popen(
            runtime.argv("exec", container, "/bin/true"),
            env=runtime.environment(), stdin=subprocess.DEVNULL, stderr=subprocess.PIPE,
        )  # fmt: skip
        try:
            held.wait(1)
        except subprocess.TimeoutExpired:
            break
    else:
        pytest.fail("the container stopped no exec: nothing is tested")
    with held:
        yield container, held
        held.kill()


def test_a_container_that_stops_an_exec_can_be_deleted(
    runtime: Runtime, stopped: tuple[str, subprocess.Popen[bytes]]
) -> None:
    """The exec holds the container's lock."""
    container, held = stopped

    answer = runtime.call("delete", "--force", container)

    assert answer.code == 0, answer
    assert answer.seconds < 8
    held.wait(10)
    assert runtime.call("state", container).code != 0


def test_an_executor_holds_no_directory_that_leads_to_the_hosts(place: Path) -> None:
    """CVE-2024-21626, by /proc/PID/fd: whoever may look into a process (CAP_SYS_PTRACE) sees what it is born with."""
    for name in ("cgroup", "others"):
        (place / name).mkdir()
    plan = Plan(operations=[operation.stop("born")])
    cgroup = os.open(place / "cgroup", os.O_RDONLY | os.O_DIRECTORY)
    try:
        launch = executor.spawn(plan.to_json(), stdio=Stdio(), slots={"cgroup": cgroup})
    finally:
        os.close(cgroup)
    try:
        assert launch.next() == executor.Stop("born")
        held = Path(f"/proc/{launch.outer_pid}/fd")
        directories = [path for path in held.iterdir() if path.is_dir()]
        assert directories, "the cgroup's directory is not held: nothing is tested"
        for path in directories:
            assert "others" not in os.listdir(f"{path}/..")
            with pytest.raises(OSError, match="Read-only file system"):
                os.mkdir(f"{path}/made")
    finally:
        launch.abort()
