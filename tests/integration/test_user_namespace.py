"""Containers with a user namespace of their own, made and entered through the command line."""

from __future__ import annotations

import subprocess
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from precondition import requires

if TYPE_CHECKING:
    from runtime import MakeBundle, Runtime

FIRST_ID = 300_000
COUNT = 65_536


@pytest.fixture
def mapped(pysandbox: Runtime, make_bundle: MakeBundle) -> str:
    """A sleeping container whose root is a nobody of the host."""
    requires("root")

    def map_ids(spec: dict[str, Any]) -> None:
        mapping = [{"containerID": 0, "hostID": FIRST_ID, "size": COUNT}]
        spec["linux"]["namespaces"].append({"type": "user"})
        spec["linux"].update(uidMappings=mapping, gidMappings=mapping)

    bundle = make_bundle(["sleep", "1000"], map_ids)
    bundle.chmod(0o711)
    subprocess.run(["chown", "-R", f"{FIRST_ID}:{FIRST_ID}", str(bundle / "rootfs")], check=True)
    return pysandbox.run_detached(bundle)


def test_root_of_the_container_is_nobody_on_the_host(pysandbox: Runtime, mapped: str) -> None:
    pid = pysandbox.state(mapped)["pid"]
    assert f"Uid:\t{FIRST_ID}" in Path(f"/proc/{pid}/status").read_text()
    assert pysandbox.ok("exec", mapped, "id", "-u").strip() == "0"


def test_init_and_exec_are_in_the_containers_cgroups(pysandbox: Runtime, mapped: str) -> None:
    inside = pysandbox.ok("exec", mapped, "cat", "/proc/self/cgroup")
    of_init = Path(f"/proc/{pysandbox.state(mapped)['pid']}/cgroup").read_text()
    assert all(line.endswith(mapped) for line in of_init.splitlines())
    assert {line.partition(":")[2] for line in inside.splitlines()} == {
        line.partition(":")[2] for line in of_init.splitlines()
    }


def test_what_it_makes_belongs_to_the_mapped_id(pysandbox: Runtime, mapped: str) -> None:
    rootfs = Path(pysandbox.state(mapped)["rootfs"])
    pysandbox.ok("exec", mapped, "touch", "/made")
    assert (rootfs / "made").stat().st_uid == FIRST_ID


def test_deleting_leaves_nothing(pysandbox: Runtime, mapped: str) -> None:
    pid = pysandbox.state(mapped)["pid"]
    pysandbox.ok("delete", "--force", mapped)
    assert (
        not Path(f"/proc/{pid}").exists() or "Z" in Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
    )
    assert pysandbox("state", mapped).returncode == 1


def test_root_may_make_cgroups_below_its_own_on_v2(pysandbox: Runtime, make_bundle: MakeBundle) -> None:
    requires("root")
    if not Path("/sys/fs/cgroup/cgroup.controllers").exists():
        pytest.skip(
            "this host's controllers are on cgroup v1, which cannot be delegated safely (the guest's are on v2)"
        )

    def writable_cgroup(spec: dict[str, Any]) -> None:
        mapping = [{"containerID": 0, "hostID": FIRST_ID, "size": COUNT}]
        spec["linux"]["namespaces"] = [
            *(space for space in spec["linux"]["namespaces"] if space["type"] != "cgroup"),
            {"type": "user"},
            {"type": "cgroup"},
        ]
        spec["linux"].update(uidMappings=mapping, gidMappings=mapping)
        mounts = [mount for mount in spec["mounts"] if mount["destination"] != "/sys/fs/cgroup"]
        cgroup = {"destination": "/sys/fs/cgroup", "type": "cgroup", "source": "cgroup", "options": ["rw", "nosuid"]}
        spec["mounts"] = [*mounts, cgroup]

    bundle = make_bundle(["sh", "-c", "mkdir /sys/fs/cgroup/below && rmdir /sys/fs/cgroup/below"], writable_cgroup)
    bundle.chmod(0o711)
    subprocess.run(["chown", "-R", f"{FIRST_ID}:{FIRST_ID}", str(bundle / "rootfs")], check=True)
    pysandbox.ok("run", "--bundle", bundle, pysandbox.new_id())
