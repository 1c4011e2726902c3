"""The table of what the backend does with each field of config.json is true: every field of the schema is tried.

A field is changed in a spec that says something in every field. One that is `enforced` changes what is done: the plan of
init or of an exec, a write into a cgroup, or what the front end and the backend read (hooks, the state document, id
maps, network devices, the seccomp agent). One that is `refused` is refused; one that is `ignored` changes nothing and
is told in the log.
"""

from __future__ import annotations

import copy
import sys
from typing import Any
from unittest.mock import MagicMock

import pytest
from unit.oci.full_spec import full_spec, keys_of, put

from pysandbox.backend import Options
from pysandbox.cgroup.device_program import device_program
from pysandbox.cgroup.devices import device_policy, v1_device_writes
from pysandbox.cgroup.layout import parse_layout
from pysandbox.cgroup.placement import open_cgroup
from pysandbox.cgroup.resources import Knobs, ignored, usage_problem, v1_writes, v2_writes
from pysandbox.errors import InvalidArgument
from pysandbox.lifecycle import _first_record, state_document
from pysandbox.oci import hooks, linux_rules, mount_rules, process_rules
from pysandbox.oci.bundle import Bundle
from pysandbox.oci.document import format_path
from pysandbox.oci.features import treatment
from pysandbox.oci.schema import Array, Object, Table
from pysandbox.oci.validate import SPEC, validate, warnings
from pysandbox.plan.container import init_plan
from pysandbox.plan.host import Host
from pysandbox.plan.process import exec_plan
from pysandbox_namespaces import listener
from pysandbox_namespaces.features import FEATURES
from pysandbox_namespaces.idmap import _lines
from pysandbox_namespaces.netdevice import move_devices
from pysandbox_namespaces.planning import said_in_vain

Spec = dict[str, Any]

#: Rules that look at a whole list, and the shape of the list behind them.
BEHIND = {
    linux_rules._namespaces: linux_rules._NAMESPACES,
    linux_rules._devices: linux_rules._DEVICES,
    process_rules._rlimits: process_rules._RLIMITS,
    mount_rules.id_mappings: mount_rules._ID_MAPPINGS,
}


def fields(shape: Any, path: str = "") -> list[str]:
    """Every field of a shape, without indexes and keys."""
    shape = shape if isinstance(shape, Object | Array | Table) else BEHIND.get(shape, shape)
    if isinstance(shape, Object):
        return [leaf for name, member in shape.fields.items() for leaf in fields(member, f"{path}.{name}".lstrip("."))]
    if isinstance(shape, Array):
        return fields(shape.shape, path)
    if isinstance(shape, Table):
        return fields(shape.value, path)
    return [path]


FIELDS = fields(SPEC)
TREATMENTS = {path: treatment(FEATURES.fields, path) for path in FIELDS}

#: Another value, where one more, one fewer or the opposite is not valid.
OTHER: dict[str, Any] = {
    "ociVersion": "1.0.2", "process.capabilities.inheritable": ["CAP_KILL"], "process.capabilities.ambient": ["CAP_KILL"],
    "process.rlimits.type": "RLIMIT_CPU", "process.rlimits.hard": 7, "process.ioPriority.class": "IOPRIO_CLASS_RT",
    "process.scheduler.policy": "SCHED_IDLE", "process.execCPUAffinity.initial": "0", "process.execCPUAffinity.final": "1",
    "mounts.type": "ramfs", "linux.resources.devices.type": "b", "linux.resources.devices.access": "r",
    "linux.resources.cpu.cpus": "0", "linux.resources.cpu.mems": "1", "linux.resources.blockIO.leafWeight": 300,
    "linux.resources.hugepageLimits.pageSize": "1GB", "linux.namespaces.type": "time", "linux.namespaces.path": "/proc/1/ns/net",
    "linux.devices.type": "b", "linux.seccomp.defaultAction": "SCMP_ACT_TRACE", "linux.seccomp.syscalls.names": ["lchown"],
    "linux.seccomp.syscalls.action": "SCMP_ACT_LOG", "linux.seccomp.syscalls.args.op": "SCMP_CMP_EQ",
    "linux.rootfsPropagation": "rprivate", "linux.resources.cpu.shares": 1024, "linux.resources.memory.kernel": 5,
    "linux.resources.memory.kernelTCP": 5, "linux.personality.domain": "LINUX", "linux.memoryPolicy.mode": "MPOL_INTERLEAVE",
    "linux.memoryPolicy.nodes": "0", "linux.personality.flags": ["ADDR_NO_RANDOMIZE"], "vm.image.format": "qcow2",
    "linux.intelRdt.closID": "a", "linux.intelRdt.schemata": ["L3:0=f"], "linux.intelRdt.l3CacheSchema": "L3:0=f",
    "linux.intelRdt.memBwSchema": "MB:0=20", "linux.intelRdt.enableMonitoring": True, "linux.intelRdt.enableCMT": True,
    "linux.intelRdt.enableMBM": True,
}  # fmt: skip
#: What the spec says beside the field, where another field would hide it.
BESIDE: dict[str, dict[str, Any]] = {
    "process.capabilities.ambient": {"process.capabilities.inheritable": ["CAP_KILL"]},
    "process.scheduler.policy": {"process.scheduler": {"policy": "SCHED_BATCH"}},
    "process.scheduler.priority": {"process.scheduler": {"policy": "SCHED_FIFO", "priority": 1}},
    "linux.namespaces.type": {"linux.namespaces": [{"type": kind} for kind in ("pid", "network", "mount", "ipc", "uts", "cgroup")], "linux.timeOffsets": {}},
    "linux.namespaces.path": {"linux.namespaces": [{"type": kind} for kind in ("pid", "mount", "ipc", "uts", "cgroup")] + [{"type": "network", "path": ""}], "linux.timeOffsets": {}},
    "linux.devices.type": {"linux.devices": [{"path": "/dev/fuse", "type": "c", "major": 10, "minor": 229}]},
}  # fmt: skip


def base(path: str) -> Spec:
    """A spec in which a change of that field counts."""
    spec = full_spec()
    if not path.startswith(("linux.uidMappings", "linux.gidMappings")):
        # In a user namespace devices are those of the host, whatever their numbers and modes.
        spec["linux"]["namespaces"] = [each for each in spec["linux"]["namespaces"] if each["type"] != "user"]
        spec["linux"] |= {"uidMappings": [], "gidMappings": []}
    spec["linux"]["resources"]["cpu"] |= {"realtimeRuntime": 5, "realtimePeriod": 6}
    spec["linux"]["seccomp"]["syscalls"][2]["names"] = ["chown"]
    for place, value in BESIDE.get(path, {}).items():
        put(spec, place, copy.deepcopy(value))
    return spec


def changed(path: str) -> Spec:
    """That spec with one more, one fewer, the opposite or another value in the field; in the last place that has it."""
    spec = base(path)
    place = last_place(spec, path.split("."))
    if place is None:
        assert path.startswith("linux.intelRdt."), path
        spec["linux"]["intelRdt"] = {path.rpartition(".")[2]: OTHER[path]}
        return spec
    node: Any = spec
    for key in place[:-1]:
        node = node[key]
    node[place[-1]] = OTHER[path] if path in OTHER else another(node[place[-1]])
    return spec


def last_place(node: Any, names: list[str]) -> list[Any] | None:
    if not names:
        return []
    if isinstance(node, dict) and names[0] in node:
        rest = last_place(node[names[0]], names[1:])
        return None if rest is None else [names[0], *rest]
    keys: Any = range(len(node)) if isinstance(node, list) else node if isinstance(node, dict) else ()
    for key in reversed(list(keys)):
        if isinstance(node[key], dict) and (rest := last_place(node[key], names)) is not None:
            return [key, *rest]
    return None


def another(value: Any) -> Any:
    match value:
        case bool():
            return not value
        case int():
            return value + 1
        case str():
            return value + "x"
        case list():
            return value[:-1]
    return dict(list(value.items())[:-1])


# -- what is done ------------------------------------------------------------------------------------------------------

HOST = Host(apparmor=True, selinux=True)
MOUNTINFO = "1 0 0:1 / /sys/fs/cgroup rw - cgroup2 cgroup2 rw\n"


def done_with(spec: Spec, monkeypatch: pytest.MonkeyPatch) -> dict[str, Any]:
    """Everything that this spec leads to, as far as it can be seen without doing it."""
    spec = copy.deepcopy(spec)
    resources = spec["linux"]["resources"]
    record = _first_record("c", Bundle("/b", spec, "/b/rootfs"), "namespaces", "/run/x")  # type: ignore[arg-type]
    state = state_document(record, "created", 1)
    plan = init_plan(spec, bundle="/b", container_id="c", host=HOST, options=Options(), state={}, preserved=0)  # type: ignore[arg-type]
    kinds = [namespace["type"] for namespace in spec["linux"]["namespaces"]]
    exec_ = exec_plan(spec["process"], spec, host=HOST, options=Options(), namespaces=kinds)  # type: ignore[arg-type]
    return {
        "plan": (plan.documents(), plan.time_offsets),
        "exec": exec_.documents(),
        "v1": done_on_v1(resources),
        "v2": done_on_v2(resources),
        "cgroup": open_cgroup(spec["linux"]["cgroupsPath"], "c", layout=parse_layout(MOUNTINFO, "0::/\n")).paths(),
        "state": state,
        "hooks": hooks_run(spec, monkeypatch),
        "maps": [_lines(spec["linux"][key]) for key in ("uidMappings", "gidMappings")],
        "devices moved": devices_moved(spec, monkeypatch),
        "agent told": agent_told(spec, state, monkeypatch),
    }


def done_on_v1(resources: Any) -> Any:
    without_unified = {key: value for key, value in resources.items() if key != "unified"}
    devices = v1_device_writes(device_policy(resources["devices"]), "")
    return v1_writes(without_unified, Knobs()), devices, usage_problem(resources["memory"], 2**40)  # type: ignore[arg-type]


def done_on_v2(resources: Any) -> Any:
    program = device_program(device_policy(resources["devices"]))
    return v2_writes(resources, Knobs()), program, usage_problem(resources["memory"], 2**40)


def hooks_run(spec: Spec, monkeypatch: pytest.MonkeyPatch) -> list[Any]:
    ran: list[Any] = []

    def run(hook: Any, _stdin: bytes) -> tuple[int, tuple[bytes, bytes]]:
        ran.append(dict(hook))
        return 0, (b"", b"")

    monkeypatch.setattr(hooks, "_run", run)
    for kind in ("prestart", "createRuntime", "poststart", "poststop"):
        hooks.run_hooks(spec, kind, {})
    return ran


def devices_moved(spec: Spec, monkeypatch: pytest.MonkeyPatch) -> str:
    pyroute2 = MagicMock()
    errors = MagicMock(NetlinkError=OSError)
    monkeypatch.setitem(sys.modules, "pyroute2", pyroute2)
    monkeypatch.setitem(sys.modules, "pyroute2.netlink.exceptions", errors)
    move_devices(spec["linux"]["netDevices"], 1)
    return str(pyroute2.IPRoute().__enter__().link.call_args_list)


def agent_told(spec: Spec, state: Any, monkeypatch: pytest.MonkeyPatch) -> Any:
    sent: list[Any] = []
    monkeypatch.setattr(listener, "send_listener", lambda *what: sent.append(what))
    listener.hand_listener(spec, state, 1, 5)  # type: ignore[arg-type]
    return sent


# -- the table ---------------------------------------------------------------------------------------------------------


def of(kind: str) -> list[str]:
    return [path for path, treated in TREATMENTS.items() if treated == kind]


def test_every_treatment_is_one_that_a_backend_of_the_host_can_have() -> None:
    assert set(TREATMENTS.values()) == {"enforced", "refused", "ignored"}


def test_every_pattern_of_the_table_names_a_field() -> None:
    for pattern in FEATURES.fields:
        assert any(f"{path}.".startswith(f"{pattern}.") for path in FIELDS), pattern


@pytest.mark.parametrize("path", of("enforced"))
def test_a_field_that_is_enforced_changes_what_is_done(path: str, monkeypatch: pytest.MonkeyPatch) -> None:
    before, after = base(path), changed(path)
    validate(before)
    validate(after)

    assert done_with(after, monkeypatch) != done_with(before, monkeypatch)


@pytest.mark.parametrize("path", of("refused"))
def test_a_field_that_is_refused_is_named(path: str) -> None:
    validate(base(path))

    with pytest.raises(InvalidArgument, match=r"^linux\.(intelRdt|personality\.flags\[0\]): "):
        validate(changed(path))


@pytest.mark.parametrize("path", of("ignored"))
def test_a_field_that_is_ignored_changes_nothing_and_is_told(path: str, monkeypatch: pytest.MonkeyPatch) -> None:
    before, after = base(path), changed(path)
    validate(after)
    told = [line.partition(":")[0] for line in warnings(after)] + said_in_vain(after, 1) + said_in_vain(after, 2)  # type: ignore[arg-type]

    assert done_with(after, monkeypatch) == done_with(before, monkeypatch)
    assert any(f"{path}.".startswith(f"{place}.") for place in told), told


@pytest.mark.parametrize("path", [path for path in of("enforced") if path.startswith("linux.resources.")])
def test_a_limit_that_one_version_of_cgroups_has_not_is_told_there(path: str) -> None:
    before, after = base(path)["linux"]["resources"], changed(path)["linux"]["resources"]

    if done_on_v2(after) == done_on_v2(before):
        assert any(f"{path}.".startswith(f"{place}.") for place in ignored(after, 2)), path
    if done_on_v1(after) == done_on_v1(before):
        with pytest.raises(InvalidArgument, match="cannot use unified resources on cgroup v1"):
            v1_writes(after, Knobs())
        assert path == "linux.resources.unified"


def test_the_change_of_a_field_is_a_change_of_that_field() -> None:
    assert keys_of("linux.devices[0].type") == ["linux", "devices", 0, "type"]
    assert format_path(last_place(base("x"), "linux.seccomp.syscalls.errnoRet".split(".")) or []) == (
        "linux.seccomp.syscalls[1].errnoRet"
    )
