"""What the guest is asked to do with a spec, what the host does of it, and what neither can."""

from __future__ import annotations

import json
from typing import Any

import pytest

from pysandbox.backend import Options
from pysandbox.cgroup.device_program import device_program
from pysandbox.cgroup.devices import device_policy
from pysandbox.errors import InvalidArgument
from pysandbox.oci.default import default_spec
from pysandbox_microvm.place import Place
from pysandbox_microvm.planning import GuestPlan, cgroup_of, guest_limits, guest_spec, host_resources, plan_init

MIB = 1024 * 1024


@pytest.fixture
def spec() -> Any:
    made: Any = json.loads(json.dumps(default_spec()))
    made["process"]["terminal"] = False
    return made


def plan(spec: Any, place: Place | None = None) -> GuestPlan:
    return plan_init("/b", spec, "c", Options(), {}, place or Place())


def operations(spec: Any, name: str) -> list[Any]:
    return [each for each in plan(spec).plan.documents() if each["op"] == name]


def test_root_and_shared_mounts_are_where_the_guest_has_mounted_them(spec: Any) -> None:
    spec["mounts"].append({"destination": "/data", "source": "/srv/data", "options": ["bind"]})
    number = len(spec["mounts"]) - 1

    opened = [each["path"] for each in operations(spec, "open_tree")]

    assert opened[0] == "/run/storage/container/rootfs"
    assert f"/run/storage/container/mounts/{number}" in opened
    assert "/srv/data" not in json.dumps(plan(spec).plan.documents())


def test_the_network_is_the_guests_own(spec: Any) -> None:
    kinds = [kind for each in operations(spec, "unshare") for kind in each["kinds"]]

    assert "network" not in kinds
    assert {"pid", "mount"} <= set(kinds)
    assert operations(spec, "loopback") == []


def test_of_the_hooks_only_startcontainer_runs_in_the_guest(spec: Any) -> None:
    hook = [{"path": "/bin/true"}]
    spec["hooks"] = dict.fromkeys(("prestart", "createRuntime", "createContainer", "startContainer", "poststart"), hook)

    assert [each["kind"] for each in operations(spec, "run_hooks")] == ["startContainer"]


@pytest.mark.parametrize(
    ("path", "change", "said"),
    [
        ("linux.namespaces", lambda spec: spec["linux"].update(namespaces=[{"type": "mount"}]), "cannot be in the host's network"),
        ("linux.namespaces", lambda spec: spec["linux"].update(namespaces=[{"type": "network"}]), "has no mount namespace"),
        ("linux.namespaces[0].path", lambda spec: spec["linux"]["namespaces"].insert(0, {"type": "ipc", "path": "/proc/1/ns/ipc"}), "not a namespace of another container"),
        ("linux.seccomp.listenerPath", lambda spec: spec["linux"].update(seccomp={"defaultAction": "SCMP_ACT_ALLOW", "listenerPath": "/run/s"}), "cannot be notified to the host"),
        ("linux.devices[0]", lambda spec: spec["linux"].update(devices=[{"path": "/dev/sda", "type": "b", "major": 8, "minor": 0}], namespaces=[*spec["linux"]["namespaces"], {"type": "user"}]), "no block devices in a user namespace"),
        ("process.apparmorProfile", lambda spec: spec["process"].update(apparmorProfile="x"), "AppArmor is not enabled"),
        ("process.selinuxLabel", lambda spec: spec["process"].update(selinuxLabel="x"), "SELinux is not enabled"),
    ],
)  # fmt: skip
def test_what_no_machine_can_do_is_refused_with_its_path(spec: Any, path: str, change: Any, said: str) -> None:
    change(spec)

    with pytest.raises(InvalidArgument) as refused:
        plan(spec)

    assert str(refused.value).startswith(f"{path}: ")
    assert said in str(refused.value)


def test_a_namespace_of_another_container_in_the_machine_is_joined_by_its_pid_in_the_guest(spec: Any) -> None:
    spec["linux"]["namespaces"] = [{"type": "mount"}, {"type": "network", "path": "/run/netns/x"}, {"type": "ipc", "path": "/proc/4711/ns/ipc"}]  # fmt: skip

    changed = guest_spec(spec, "/b", Place("s1", {4711: 77}))

    assert changed["linux"]["namespaces"] == [{"type": "mount"}, {"type": "ipc", "path": "/proc/77/ns/ipc"}]


@pytest.mark.parametrize("path", ["/proc/4711/../1/ns/ipc", "/proc/4711/ns/ipc/x", "proc/4711/ns/ipc", "/proc/x/ns/ipc", "/proc/4711/ns/../../1/ns/ipc"])  # fmt: skip
def test_no_other_path_leads_into_a_guests_namespaces(spec: Any, path: str) -> None:
    spec["linux"]["namespaces"] = [{"type": "mount"}, {"type": "network"}, {"type": "ipc", "path": path}]

    with pytest.raises(InvalidArgument, match=r"^linux\.namespaces\[2\]\.path: "):
        guest_spec(spec, "/b", Place("s1", {4711: 77}))


# -- limits ------------------------------------------------------------------------------------------------------------


def test_the_guests_cgroup_has_the_specs_own_limits() -> None:
    resources: Any = {
        "memory": {"limit": 64 * MIB, "swap": 128 * MIB}, "pids": {"limit": 10},
        "cpu": {"quota": 50000, "period": 100000, "burst": 1000, "cpus": "3-5"},
    }  # fmt: skip

    assert guest_limits(resources) == [
        ("pids.max", "10"),
        ("memory.max", str(64 * MIB)),
        ("cpu.max", "50000 100000"),
        ("cpu.max.burst", "1000"),
    ]


def test_the_hosts_limit_is_the_specs_and_what_the_machine_takes() -> None:
    resources: Any = {"memory": {"limit": 64 * MIB, "swap": -1}, "pids": {"limit": 10}, "cpu": {"cpus": "3-5"}}

    limited: Any = host_resources(resources, 100 * MIB)

    assert limited["memory"] == {"limit": 164 * MIB, "swap": -1}
    assert limited["cpu"] == {"cpus": "3-5"}
    assert "pids" not in limited


def test_the_hosts_devices_are_the_machines_whatever_the_spec_says() -> None:
    everything: Any = {"devices": [{"allow": True, "access": "rwm"}]}

    limited: Any = host_resources(everything, 0)

    assert [(rule["major"], rule["minor"]) for rule in limited["devices"]] == [
        (10, 232),
        (10, 200),
        (10, 238),
        (10, 241),
    ]


def test_the_guests_devices_are_the_specs(spec: Any) -> None:
    rules = [{"allow": False, "access": "rwm"}, {"allow": True, "type": "c", "major": 10, "minor": 229, "access": "rw"}]
    spec["linux"]["resources"] = {"devices": rules}

    assert plan(spec).device_program == device_program(device_policy(rules))


@pytest.mark.parametrize("container_id", ["memory.max", "cgroup.procs", "a.b", "x+y"])
def test_no_id_names_a_file_of_a_cgroup(container_id: str) -> None:
    assert cgroup_of(container_id).startswith("containers/c-")


def test_the_place_of_a_container_survives_the_record() -> None:
    place = Place("s1", {4711: 77})

    assert Place.load(json.loads(json.dumps(place.saved()))) == place
