"""What docker, podman and containerd write is accepted, and so is what the specification allows."""

from __future__ import annotations

import json
import subprocess
import time
from pathlib import Path
from typing import Any

import pytest
from precondition import requires
from unit.oci.full_spec import full_spec, put

from pysandbox.oci.default import default_spec
from pysandbox.oci.document import read_object
from pysandbox.oci.validate import validate, validate_process, validate_resources, warnings

DATA = Path(__file__).parent / "data"
#: Written by `docker run` 20.10, `podman run` 4.3 and `ctr oci spec` 1.6, with limits, a terminal, devices and sysctls.
MANAGERS = ("docker", "podman", "containerd")


def _spec_of(manager: str) -> Any:
    spec = read_object((DATA / f"{manager}.json").read_bytes(), "config.json")
    spec["process"].setdefault("args", ["sh"])  # containerd's template has none
    return spec


@pytest.mark.parametrize("manager", MANAGERS)
def test_what_a_manager_writes_is_accepted(manager: str) -> None:
    validate(_spec_of(manager))


def test_the_default_spec_is_accepted_without_a_warning() -> None:
    spec = default_spec()

    validate(spec)

    assert warnings(spec) == []


def test_the_default_spec_is_what_runc_spec_writes(tmp_path: Path) -> None:
    requires("command runc")
    subprocess.run(["runc", "spec"], cwd=tmp_path, check=True)
    runcs = json.loads((tmp_path / "config.json").read_text())
    ours: Any = default_spec(cgroup_namespace={"type": "cgroup"} in runcs["linux"]["namespaces"])

    # Later versions of runc, and we, mask more and have no inheritable capabilities (CVE-2022-29162).
    assert set(runcs["linux"].pop("maskedPaths")) <= set(ours["linux"].pop("maskedPaths"))
    for name in ("inheritable", "ambient"):
        runcs["process"]["capabilities"].pop(name, None)
    for spec in (runcs, ours):
        del spec["ociVersion"], spec["hostname"]
    assert ours == runcs


def test_the_default_spec_is_new_at_each_call() -> None:
    default_spec()["process"]["args"].append("x")

    assert default_spec()["process"]["args"] == ["sh"]


def test_unknown_properties_pass_at_every_level() -> None:
    spec: Any = full_spec()
    pending = [spec]
    while pending:
        node = pending.pop()
        children = node.values() if isinstance(node, dict) else node
        pending += [child for child in children if isinstance(child, (dict, list))]
        if isinstance(node, dict) and not _is_table(spec, node):
            node["unknown.property"] = {"anything": [None, 1.5]}

    validate(spec)


def _is_table(spec: Any, node: Any) -> bool:
    linux = spec["linux"]
    tables = [spec["annotations"], linux["sysctl"], linux["timeOffsets"], linux["netDevices"]]
    tables += [linux["resources"]["rdma"], linux["resources"]["unified"]]
    return any(node is table for table in tables)


def test_a_property_in_another_case_is_that_property() -> None:
    """As for runc. To pass over "Seccomp" as unknown would be to run without it."""
    spec: Any = json.loads(json.dumps(full_spec()), object_pairs_hook=lambda pairs: {k.upper(): v for k, v in pairs})
    expected = full_spec()
    spec["ANNOTATIONS"] = expected["annotations"]
    for table in ("sysctl", "timeOffsets", "netDevices"):
        spec["LINUX"][table.upper()] = expected["linux"][table]
    for table in ("rdma", "unified"):
        spec["LINUX"]["RESOURCES"][table.upper()] = expected["linux"]["resources"][table]

    validate(spec)

    assert spec == expected


def test_sections_of_other_platforms_are_not_looked_at() -> None:
    spec: Any = {**default_spec(), "windows": 1, "solaris": "x", "zos": []}

    validate(spec)

    assert warnings(spec) == [f"{name}: ignored: of another platform" for name in ("windows", "solaris", "zos")]


@pytest.mark.parametrize(
    "version", ["1.0.0", "1.0.2-dev", "1.0.0-rc5", "1.1.0+dev", "1.2.1", "1.3.0-rc.1+git.abc", "1.99.0"]
)
def test_any_version_one_is_accepted(version: str) -> None:
    validate(put(full_spec(), "ociVersion", version))


GOOD: dict[str, list[Any]] = {
    "process.user": [{}, {"uid": 0}],
    "process.user.uid": [0, 65535],
    "process.oomScoreAdj": [-1000, 0, 1000],
    "process.args": [["a", "", " "]],
    "process.cwd": ["/", "/does/not/exist", "/a b"],
    "process.env": [[], ["A=", "A=B=C", "A=\n"]],
    "process.capabilities": [{}, {"bounding": ["CAP_FUTURE", ""]}],
    "process.scheduler": [{"policy": "SCHED_FIFO", "priority": 99}, {"policy": "SCHED_BATCH", "nice": 19}],
    "process.execCPUAffinity": [{}, {"initial": ""}, {"initial": " 0-3 , 7,,"}],
    "process.consoleSize": [{"height": 0, "width": 65535}],
    "process.apparmorProfile": ["", "unconfined", "a/b//c"],
    "hostname": ["", "x" * 64],
    "mounts": [
        [],
        [{"destination": "relative", "type": "tmpfs"}],
        [{"destination": "/x", "source": ".", "options": ["bind"]}],
        [{"destination": "/x", "type": "bind", "source": "/y"}],
        [{"destination": "/x", "source": "/y", "options": ["bind", "", "defaults"]}],
        [{"destination": "/x", "source": "/y", "options": ["rbind", "shared", "rro", "src-nofollow", "dest-nofollow"]}],
        [{"destination": "/", "options": ["remount", "ro"]}],
        [{"destination": "/x", "source": "/y", "options": ["bind", "idmap"]}],
    ],
    "hooks": [{}],
    "annotations": [{}, {"a b": "\n"}],
    "linux.namespaces[0].path": ["", "/proc/1/ns/pid"],
    "linux.cgroupsPath": ["", "relative/path", "system.slice:docker:abc", "/a/b..c", "machine.slice:libpod:x"],
    "linux.sysctl": [
        {},
        {"net/ipv4/conf/eth0.1/rp_filter": "1", "net.ipv4.conf.eth0/1.rp_filter": "1"},
        {"net.ipv4.ip_local_port_range": "1024\t65000", "net.ipv4.tcp_congestion_control": "cubic"},
        {"kernel.domainname": "example.org", "kernel.shm_rmid_forced": "1", "kernel.msgmax": "8192"},
    ],
    "linux.resources": [{}, {"pids": {}}, {"pids": {"limit": -1}}, {"memory": {"swap": -1, "limit": 5}}],
    "linux.resources.memory.swappiness": [0, 100, 2**64 - 1],
    "linux.resources.cpu": [{"quota": -1, "burst": 100}, {"cpus": ""}],
    "linux.resources.blockIO.weight": [0, 10, 1000],
    "linux.resources.devices": [
        [],
        [{"allow": True, "type": "a", "access": "mrw"}],
        [{"allow": False, "access": "rwa"}],
    ],
    "linux.devices": [[], [{"type": "u", "path": "/dev/x", "major": 0, "minor": 0}] * 2],
    "linux.seccomp": [
        {},
        {"defaultAction": ""},
        {"defaultAction": "SCMP_ACT_ALLOW", "listenerPath": "/x", "listenerMetadata": "y"},
        {"defaultAction": "SCMP_ACT_TRACE", "defaultErrnoRet": 65535},
    ],
    "linux.rootfsPropagation": ["", "shared", "rprivate", "unbindable"],
    "linux.uidMappings": [[{"containerID": 1, "hostID": 1000, "size": 1}]],
    "linux.memoryPolicy": [
        {},
        {"mode": "", "nodes": "", "flags": []},
        {"mode": "MPOL_DEFAULT"},
        {"mode": "MPOL_PREFERRED", "nodes": ""},
    ],
    "linux.personality": [{"domain": "LINUX"}],
    "linux.timeOffsets": [{}],
}


@pytest.mark.parametrize("path", GOOD)
def test_what_the_specification_allows_is_accepted(path: str) -> None:
    for value in GOOD[path]:
        validate(put(full_spec(), path, value))


def test_a_user_namespace_that_is_joined_needs_no_maps() -> None:
    spec: Any = default_spec()
    spec["linux"]["namespaces"].append({"type": "user", "path": "/proc/1/ns/user"})

    validate(spec)


def test_a_process_of_exec_needs_no_user() -> None:
    validate_process(
        {"terminal": False, "args": ["/bin/true"], "cwd": "/", "execCPUAffinity": {"initial": "0"}}, "process"
    )


def test_resources_of_update_may_be_empty() -> None:
    validate_resources({}, "resources")


def test_what_is_said_in_vain_is_a_warning() -> None:
    spec = full_spec()
    put(spec, "mounts[0].destination", "proc")
    spec["linux"]["namespaces"][5]["path"] = "/proc/1/ns/user"
    put(spec, "linux.resources.devices[1].access", "rwa")

    assert warnings(spec) == [  # type: ignore[arg-type]
        "mounts[0].destination: relative destination path is deprecated, using it as relative to /",
        "linux.resources.devices[1].access: letters other than r, w and m are ignored",
        "linux.uidMappings: ignored: the user namespace is joined by path and has mappings already",
        "process.user.username: ignored: of another platform",
    ]


def test_the_check_of_a_managers_spec_is_a_small_part_of_a_start() -> None:
    # Not a bench: the limit is many times what it takes, so that only a change of kind can break it.
    spec = _spec_of("docker")
    data = json.dumps(spec).encode()
    best = min(_time_of(lambda: validate(read_object(data, "config.json"))) for _ in range(20))

    assert best < 0.0075


def _time_of(work: Any) -> float:
    start = time.perf_counter()
    work()
    return time.perf_counter() - start
