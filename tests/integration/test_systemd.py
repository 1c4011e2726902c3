"""`--systemd-cgroup`: the container's cgroup is a transient scope, asked of systemd over D-Bus."""

from __future__ import annotations

import subprocess
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from precondition import requires

if TYPE_CHECKING:
    from runtime import MakeBundle, Runtime

MIB = 1 << 20


def show(unit: str, name: str) -> str:
    """Return one property of a unit."""
    done = subprocess.run(
        ["systemctl", "show", "-p", name, "--value", unit], stdout=subprocess.PIPE, text=True, check=True
    )
    return done.stdout.strip()


def cgroup_of(pid: int) -> str:
    """Return the cgroup2 path of a process."""
    return Path(f"/proc/{pid}/cgroup").read_text().strip().rpartition("::")[2]


@pytest.fixture
def scope(pysandbox: Runtime, make_bundle: MakeBundle) -> tuple[str, str, int]:
    """A sleeping container in a scope: its id, the scope's name, its pid."""
    requires("root", "systemd", "cgroup v2 memory")
    container_id = pysandbox.new_id()

    def limits(spec: dict[str, Any]) -> None:
        spec["linux"]["cgroupsPath"] = f"system.slice:pysandbox:{container_id}"
        spec["linux"]["resources"] = {"memory": {"limit": 64 * MIB}, "pids": {"limit": 20}, "cpu": {"shares": 512}}

    bundle = make_bundle(["sleep", "1000"], limits)
    nowhere = {"stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL}  # what a pipe would be kept open by
    pysandbox.ok("--systemd-cgroup", "run", "--detach", "--bundle", bundle, container_id, **nowhere)
    return container_id, f"pysandbox-{container_id}.scope", int(pysandbox.state(container_id)["pid"])


def test_the_container_lives_in_a_scope_below_the_slice(scope: tuple[str, str, int]) -> None:
    _, unit, pid = scope
    assert cgroup_of(pid).startswith(f"/system.slice/{unit}")
    assert show(unit, "ActiveState") == "active"
    assert show(unit, "Delegate") == "yes"


def test_systemd_knows_the_limits(scope: tuple[str, str, int]) -> None:
    _, unit, _ = scope
    assert show(unit, "MemoryMax") == str(64 * MIB)
    assert show(unit, "TasksMax") == "20"


def test_update_reaches_the_kernel_and_survives_a_daemon_reload(
    pysandbox: Runtime, scope: tuple[str, str, int]
) -> None:
    container_id, _, pid = scope
    pysandbox.ok("update", "--memory", str(48 * MIB), container_id)
    subprocess.run(["systemctl", "daemon-reload"], check=True)
    assert Path("/sys/fs/cgroup" + cgroup_of(pid), "memory.max").read_text().strip() == str(48 * MIB)


def test_deleting_ends_the_scope(pysandbox: Runtime, scope: tuple[str, str, int]) -> None:
    container_id, unit, pid = scope
    directory = Path("/sys/fs/cgroup" + cgroup_of(pid))
    pysandbox.ok("delete", "--force", container_id)
    assert show(unit, "ActiveState") == "inactive"
    assert not directory.exists()


def test_a_path_that_is_no_slice_triple_is_refused(pysandbox: Runtime, make_bundle: MakeBundle) -> None:
    requires("root", "systemd", "cgroup v2 memory")
    bundle = make_bundle(["true"], lambda spec: spec["linux"].update(cgroupsPath="/not/a/triple"))
    refused = pysandbox("--systemd-cgroup", "run", "--bundle", bundle, pysandbox.new_id())
    assert refused.returncode == 1
    assert "cgroupsPath" in refused.stderr
    assert "Traceback" not in refused.stderr
