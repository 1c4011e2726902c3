"""Limits of a running container, read back from the kernel: the same on cgroup v1 and on v2."""

from __future__ import annotations

import json
import subprocess
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from precondition import requires
from runtime import eventually

if TYPE_CHECKING:
    from runtime import MakeBundle, Runtime

MIB = 1 << 20
UNIFIED = Path("/sys/fs/cgroup/cgroup.controllers").exists()


def cgroup_file(pid: int, controller: str, v1: str, v2: str) -> Path:
    """Return the file that holds a limit of a process's cgroup, whichever way this host does cgroups."""
    for line in Path(f"/proc/{pid}/cgroup").read_text().splitlines():
        _, controllers, path = line.split(":", 2)
        if UNIFIED:
            return Path("/sys/fs/cgroup" + path, v2)
        if controller in controllers.split(","):
            return Path("/sys/fs/cgroup", controller + path, v1)
    raise AssertionError(f"process {pid} has no {controller} cgroup")


def limits(**resources: Any) -> Any:
    """Return what changes a spec to these resources."""
    return lambda spec: spec["linux"].update(resources={**spec["linux"].get("resources", {}), **resources})


@pytest.mark.parametrize(
    ("resources", "controller", "v1", "v2", "value"),
    [
        ({"memory": {"limit": 64 * MIB}}, "memory", "memory.limit_in_bytes", "memory.max", {str(64 * MIB)}),
        ({"pids": {"limit": 17}}, "pids", "pids.max", "pids.max", {"17"}),
        ({"pids": {"limit": -1}}, "pids", "pids.max", "pids.max", {"max"}),
        ({"cpu": {"shares": 512}}, "cpu", "cpu.shares", "cpu.weight", {"512", "59", "20"}),
        ({"cpu": {"quota": 20000, "period": 100000}}, "cpu", "cpu.cfs_quota_us", "cpu.max", {"20000", "20000 100000"}),
        ({"cpu": {"cpus": "0"}}, "cpuset", "cpuset.cpus", "cpuset.cpus", {"0"}),
    ],
    ids=["memory", "pids", "pids-unlimited", "cpu-shares", "cpu-quota", "cpuset"],
)
def test_the_kernel_has_the_limit_that_the_spec_asks_for(
    pysandbox: Runtime,
    make_bundle: MakeBundle,
    resources: dict[str, Any],
    controller: str,
    v1: str,
    v2: str,
    value: set[str],
) -> None:
    requires("root", f"cgroup {'v2' if UNIFIED else 'v1'} {controller}")
    container_id = pysandbox.run_detached(make_bundle(["sleep", "1000"], limits(**resources)))
    file = cgroup_file(pysandbox.state(container_id)["pid"], controller, v1, v2)
    assert file.read_text().strip() in value


def test_update_changes_what_is_given_and_leaves_the_rest(pysandbox: Runtime, make_bundle: MakeBundle) -> None:
    requires("root")
    bundle = make_bundle(["sleep", "1000"], limits(memory={"limit": 64 * MIB}, pids={"limit": 17}))
    container_id = pysandbox.run_detached(bundle)
    pid = pysandbox.state(container_id)["pid"]
    pysandbox.ok("update", "--pids-limit", "33", container_id)
    assert cgroup_file(pid, "pids", "pids.max", "pids.max").read_text().strip() == "33"
    assert cgroup_file(pid, "memory", "memory.limit_in_bytes", "memory.max").read_text().strip() == str(64 * MIB)


def test_a_process_that_takes_too_much_memory_is_killed_and_the_event_is_told(
    pysandbox: Runtime, make_bundle: MakeBundle
) -> None:
    requires("root")
    hungry = ["sh", "-c", "sleep 3; x=x; while :; do x=$x$x; done"]
    container_id = pysandbox.create(make_bundle(hungry, limits(memory={"limit": 32 * MIB, "swap": 32 * MIB})))
    pysandbox.ok("start", container_id)
    events = subprocess.Popen(pysandbox.argv("events", container_id), stdout=subprocess.PIPE, text=True)
    try:
        assert events.stdout is not None
        kinds = (json.loads(line)["type"] for line in events.stdout)
        assert "oom" in kinds
    finally:
        events.kill()
        events.communicate()
    pysandbox.wait_status(container_id, "stopped", seconds=60)


def test_pause_stops_every_process_and_resume_lets_them_go_on(pysandbox: Runtime, make_bundle: MakeBundle) -> None:
    requires("root")
    bundle = make_bundle(["sh", "-c", "while :; do echo x >> /ticks; sleep 0.05; done"])
    container_id = pysandbox.run_detached(bundle)
    ticks = bundle / "rootfs/ticks"
    eventually(ticks.exists, "the container writes")
    pysandbox.ok("pause", container_id)
    assert pysandbox.state(container_id)["status"] == "paused"
    size = ticks.stat().st_size
    assert not _grows(ticks, size, seconds=0.5)
    pysandbox.ok("resume", container_id)
    eventually(lambda: ticks.stat().st_size > size, "the container writes again")


def _grows(file: Path, size: int, *, seconds: float) -> bool:
    try:
        return bool(eventually(lambda: file.stat().st_size > size, "it grows", seconds=seconds))
    except AssertionError:
        return False


def test_a_device_that_is_not_allowed_cannot_be_opened(pysandbox: Runtime, make_bundle: MakeBundle) -> None:
    requires("root")
    program = ["sh", "-c", "mknod /kmsg c 1 11 && ! cat /kmsg && head -c 1 /dev/zero > /dev/null"]

    def with_mknod(spec: dict[str, Any]) -> None:
        for names in spec["process"]["capabilities"].values():
            names.append("CAP_MKNOD")

    output = pysandbox("run", "--bundle", make_bundle(program, with_mknod), pysandbox.new_id())
    assert output.returncode == 0, output.stderr
    assert "Operation not permitted" in output.stderr


def test_stats_count_what_the_container_uses(pysandbox: Runtime, make_bundle: MakeBundle) -> None:
    requires("root")
    container_id = pysandbox.run_detached(make_bundle(["sleep", "1000"], limits(pids={"limit": 17})))
    data = json.loads(pysandbox.ok("events", "--stats", container_id))["data"]
    assert data["pids"] == {"current": 1, "limit": 17}
    assert data["memory"]["usage"]["usage"] > 0


def test_a_create_that_is_refused_leaves_somebody_elses_cgroup(pysandbox: Runtime, make_bundle: MakeBundle) -> None:
    requires("root", "cgroup v1 freezer")
    name = pysandbox.new_id()
    foreign = Path("/sys/fs/cgroup/freezer", name)
    foreign.mkdir()
    try:
        (foreign / "freezer.state").write_text("FROZEN")
        bundle = make_bundle(["true"], lambda spec: spec["linux"].update(cgroupsPath=f"/{name}"))

        done = pysandbox("run", "--bundle", bundle, pysandbox.new_id())

        assert "container's cgroup unexpectedly frozen" in done.stderr
        assert foreign.is_dir()
        assert (foreign / "freezer.state").read_text() == "FROZEN\n"
    finally:
        (foreign / "freezer.state").write_text("THAWED")
        foreign.rmdir()
