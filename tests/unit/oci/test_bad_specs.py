"""A golden list of bad specs: each differs from a valid one in a single value, and is refused with that value's path.

The list of fields is written here by hand, from the specification: it shares nothing with the code under test.
"""

from __future__ import annotations

import copy
import random
from collections.abc import Iterator
from types import ModuleType
from typing import Any

import pytest
from unit.oci.full_spec import cut, full_spec, keys_of, put

from pysandbox.errors import InvalidArgument
from pysandbox.oci import linux_rules, mount_rules, process_rules, resource_rules, seccomp_rules
from pysandbox.oci.schema import Array, Object, Table
from pysandbox.oci.validate import SPEC, validate, validate_process, validate_resources, warnings

UINT32, UINT64, INT64 = 2**32, 2**64, 2**63

_NOT_A_STRING = [None, 0, 1.5, True, [], {}, ["x"]]
_NOT_AN_INTEGER = [None, "1", 1.0, True, False, [], {}, 10**30, -(10**30)]
_NOT_TRUE_OR_FALSE = [None, 0, 1, "true", [], {}]
_NOT_AN_OBJECT = [None, 0, True, "x", [], [{}]]
_NOT_A_LIST = [None, 0, True, "x", {}, {"0": "x"}]
_NUL = ["a\0b"]
_CONTROL = ["a\nb", "\t", "\x7f"]
_RELATIVE = ["", "x", "./x", "../x"]

#: Kind of field: values that it must refuse.
BAD: dict[str, list[Any]] = {
    "object": _NOT_AN_OBJECT,
    "list": _NOT_A_LIST,
    "boolean": _NOT_TRUE_OR_FALSE,
    "string": [*_NOT_A_STRING, *_NUL],
    "line": [*_NOT_A_STRING, *_NUL, *_CONTROL],
    "filled": [*_NOT_A_STRING, *_NUL, ""],
    "absolute": [*_NOT_A_STRING, *_RELATIVE, "/a\0b"],
    "id": [*_NOT_AN_INTEGER, -1, UINT32 - 1, UINT32, UINT64, INT64],
    "uint16": [*_NOT_AN_INTEGER, -1, 65536],
    "uint32": [*_NOT_AN_INTEGER, -1, UINT32],
    "uint64": [*_NOT_AN_INTEGER, -1, UINT64],
    "int64": [*_NOT_AN_INTEGER, INT64, -INT64 - 1],
    "limit": [*_NOT_AN_INTEGER, INT64, -2],
    "weight": [*_NOT_AN_INTEGER, 1, 9, 1001],
    "name": [*_NOT_A_STRING, "", "no such name", "X\0"],
    "interface": [*_NOT_A_STRING, "", ".", "..", "a/b", "a b", "a:b", "sixteen_bytes_xx", "tab\t"],
}

_HOOKS = ("prestart", "createRuntime", "createContainer", "startContainer", "poststart", "poststop")
_SETS = ("bounding", "effective", "inheritable", "permitted", "ambient")
_THROTTLES = ("throttleReadBpsDevice", "throttleWriteBpsDevice", "throttleReadIOPSDevice", "throttleWriteIOPSDevice")
_MAPS = ("linux.uidMappings", "linux.gidMappings", "mounts[1].uidMappings", "mounts[1].gidMappings")

#: Kind of field: the fields of that kind.
FIELDS: dict[str, list[str]] = {
    "object": """process process.consoleSize process.user process.capabilities process.rlimits[0] process.ioPriority
        process.scheduler process.execCPUAffinity root mounts[0] hooks hooks.poststop[0] annotations linux
        linux.uidMappings[0] linux.timeOffsets linux.sysctl linux.resources linux.resources.devices[0]
        linux.resources.memory linux.resources.cpu linux.resources.pids linux.resources.blockIO
        linux.resources.blockIO.weightDevice[0] linux.resources.hugepageLimits[0] linux.resources.network
        linux.resources.network.priorities[0] linux.resources.rdma linux.resources.rdma.mlx5_1 linux.resources.unified
        linux.namespaces[0] linux.devices[0] linux.netDevices linux.netDevices.eth7 linux.seccomp
        linux.seccomp.syscalls[0] linux.seccomp.syscalls[0].args[0] linux.personality linux.memoryPolicy
        linux.timeOffsets.monotonic vm vm.hypervisor vm.kernel vm.image vm.hwConfig vm.hwConfig.iomems[0]""".split(),
    "list": """process.user.additionalGids process.args process.env process.rlimits process.scheduler.flags mounts
        mounts[1].options mounts[1].uidMappings linux.uidMappings linux.gidMappings linux.resources.devices
        linux.resources.blockIO.weightDevice linux.resources.hugepageLimits linux.resources.network.priorities
        linux.namespaces linux.devices linux.seccomp.architectures linux.seccomp.flags linux.seccomp.syscalls
        linux.seccomp.syscalls[0].names linux.seccomp.syscalls[0].args linux.maskedPaths linux.readonlyPaths
        linux.personality.flags linux.memoryPolicy.flags vm.hypervisor.parameters vm.kernel.parameters
        vm.hwConfig.dtdevs vm.hwConfig.iomems vm.hwConfig.irqs""".split()
    + [f"hooks.{hook}" for hook in _HOOKS]
    + [f"process.capabilities.{name}" for name in _SETS]
    + [f"linux.resources.blockIO.{name}" for name in _THROTTLES],
    "boolean": """process.terminal process.noNewPrivileges root.readonly linux.resources.devices[0].allow
        linux.resources.memory.disableOOMKiller linux.resources.memory.useHierarchy
        linux.resources.memory.checkBeforeUpdate""".split(),
    "string": """process.user.username process.args[1] process.capabilities.bounding[0] mounts[0].type mounts[0].source
        mounts[2].options[0] hooks.prestart[0].args[0] hooks.prestart[0].env[0] annotations.empty
        linux.resources.unified.x linux.seccomp.listenerPath linux.seccomp.listenerMetadata vm.hypervisor.parameters[0]
        vm.hwConfig.dtdevs[0]""".replace("linux.resources.unified.x", "").split(),
    "line": """process.apparmorProfile process.selinuxLabel hostname domainname linux.mountLabel
        linux.cgroupsPath""".split(),
    "filled": """process.args[0] root.path mounts[0].destination linux.seccomp.syscalls[0].names[0]
        """.split(),
    "absolute": ["process.cwd", "linux.devices[0].path", "linux.maskedPaths[0]", "linux.readonlyPaths[0]"]
    + ["vm.hypervisor.path", "vm.kernel.path", "vm.kernel.initrd", "vm.image.path", "vm.hwConfig.deviceTree"]
    + [f"hooks.{hook}[0].path" for hook in _HOOKS],
    "id": """process.user.uid process.user.gid process.user.additionalGids[0] linux.devices[0].uid
        linux.devices[0].gid""".split(),
    "uint16": [
        "process.consoleSize.height",
        "process.consoleSize.width",
        "linux.seccomp.defaultErrnoRet",
        "linux.seccomp.syscalls[1].errnoRet",
    ],
    "uint32": """linux.devices[0].fileMode linux.resources.network.classID vm.hwConfig.irqs[0]
        linux.resources.network.priorities[0].priority linux.resources.rdma.mlx5_1.hcaHandles
        linux.resources.rdma.mlx5_1.hcaObjects""".split()
    + [f"{path}[0].{name}" for path in _MAPS for name in ("containerID", "hostID", "size")]
    + [
        f"linux.resources.blockIO.{name}[0].{number}"
        for name in (*_THROTTLES, "weightDevice")
        for number in ("major", "minor")
    ],
    "uint64": """process.rlimits[0].soft process.rlimits[0].hard process.scheduler.runtime process.scheduler.deadline
        process.scheduler.period linux.resources.cpu.shares linux.resources.cpu.burst linux.resources.cpu.period
        linux.resources.cpu.realtimePeriod linux.resources.hugepageLimits[0].limit linux.seccomp.syscalls[0].args[0].value
        linux.seccomp.syscalls[0].args[0].valueTwo vm.hwConfig.iomems[0].firstGFN vm.hwConfig.iomems[0].firstMFN
        vm.hwConfig.iomems[0].nrMFNs""".split()
    + [f"linux.resources.blockIO.{name}[0].rate" for name in _THROTTLES],
    "int64": """linux.timeOffsets.monotonic.secs linux.resources.cpu.quota linux.resources.cpu.realtimeRuntime
        linux.resources.pids.limit""".split(),
    "limit": [f"linux.resources.memory.{name}" for name in ("limit", "reservation", "swap", "kernel", "kernelTCP")],
    "weight": """linux.resources.blockIO.weight linux.resources.blockIO.leafWeight
        linux.resources.blockIO.weightDevice[0].weight linux.resources.blockIO.weightDevice[0].leafWeight""".split(),
    "name": """process.rlimits[0].type process.ioPriority.class process.scheduler.policy process.scheduler.flags[0]
        linux.namespaces[0].type linux.devices[0].type linux.seccomp.architectures[0] linux.seccomp.flags[0]
        linux.seccomp.syscalls[0].action linux.seccomp.syscalls[0].args[0].op linux.personality.domain
        linux.memoryPolicy.mode linux.memoryPolicy.flags[0]""".split(),
    "interface": ["linux.resources.network.priorities[0].name"],
}

#: Fields with rules of their own.
SINGLE: dict[str, list[Any]] = {
    "ociVersion": [*_NOT_A_STRING, "", "1", "1.2", "1.2.x", "1.2.3.4", "v1.2.0", "01.2.0", "2.0.0", "0.9.0", "-1.0.0",
                   "1.2.0-", "1.2.0+\n", "1.2.0 ", "1.2.0-rc 1", "1,2,0", "\u0661.2.0"],
    "process.args": [[]],
    "process.env[0]": ["NOEQUALS", "", "=x", "A\0=b", *_NOT_A_STRING],
    "process.user.umask": [*_NOT_AN_INTEGER, -1, 512, UINT32],
    "process.oomScoreAdj": [*_NOT_AN_INTEGER, -1001, 1001],
    "process.ioPriority.priority": [*_NOT_AN_INTEGER, -1, 8],
    "process.scheduler.nice": [*_NOT_AN_INTEGER, -21, 20],
    "process.scheduler.priority": [*_NOT_AN_INTEGER, 1, -1],
    "process.execCPUAffinity.initial": [*_NOT_A_STRING, "x", "0-", "-1", "3-1", "0-1-2", "99999999", "1;2", "\0"],
    "process.execCPUAffinity.final": ["x", "\u0663"],
    "hostname": ["x" * 65, "ä" * 33],
    "domainname": ["x" * 65],
    "hooks.createRuntime[0].timeout": [*_NOT_AN_INTEGER, 0, -1],
    "linux.timeOffsets.monotonic.nanosecs": [*_NOT_AN_INTEGER, -1, 10**9],
    "linux.cgroupsPath": ["..", "/a/../../b", "a/..", "system.slice:..:x"],
    "linux.rootfsPropagation": [*_NOT_A_STRING, "both", "SHARED", "rrshared"],
    "linux.devices[0].major": [*_NOT_AN_INTEGER, -1, 4096],
    "linux.devices[0].minor": [*_NOT_AN_INTEGER, -1, 1 << 20],
    "linux.namespaces[0].path": [*_NOT_A_STRING, "x", "/a\0"],
    "linux.resources.devices[1].type": [*_NOT_A_STRING, "p", "u", "x"],
    "linux.resources.devices[1].major": [*_NOT_AN_INTEGER, -2, UINT32],
    "linux.resources.devices[1].minor": [*_NOT_AN_INTEGER, -2, UINT32],
    "linux.resources.devices[1].access": [*_NOT_A_STRING, "", "x", "a"],
    "linux.resources.memory.swappiness": [*_NOT_AN_INTEGER, -1, 101],
    "linux.resources.cpu.cpus": [*_NOT_A_STRING, "0\n", "a", "0;1"],
    "linux.resources.cpu.mems": [*_NOT_A_STRING, "0\n", "a", "\0"],
    "linux.resources.cpu.idle": [*_NOT_AN_INTEGER, -1, 2],
    "linux.resources.hugepageLimits[0].pageSize": [*_NOT_A_STRING, "", "MB", "2", "2mb", "0MB", "2TB", "../2MB", "2 MB"],
    "linux.seccomp.defaultAction": [*_NOT_A_STRING, "SCMP_ACT_NO", "SCMP_ACT_NOTIFY"],
    "linux.seccomp.syscalls[0].names": [[]],
    "linux.seccomp.syscalls[0].args[0].index": [*_NOT_AN_INTEGER, -1, 6],
    "linux.memoryPolicy.nodes": [*_NOT_A_STRING, "", "x", "1-0", "0-1-2", "-"],
    "linux.netDevices.eth7.name": [1, None, "a/b", "sixteen_bytes_xx"],
    "vm.image.format": [*_NOT_A_STRING, "", "iso"],
    "vm.hwConfig.vcpus": [*_NOT_AN_INTEGER, 0, -1],
    "vm.hwConfig.memory": [*_NOT_AN_INTEGER, 0],
}  # fmt: skip

#: Members without which an object means nothing.
REQUIRED = """ociVersion process root process.args process.cwd process.consoleSize.height process.consoleSize.width
    process.rlimits[0].type process.rlimits[0].soft process.rlimits[0].hard process.ioPriority.class
    process.scheduler.policy root.path mounts[0].destination mounts[0].type mounts[1].source hooks.poststop[0].path
    linux.namespaces[0].type linux.devices[0].type linux.devices[0].path linux.devices[0].major linux.devices[0].minor
    linux.uidMappings[0].containerID linux.uidMappings[0].hostID linux.uidMappings[0].size
    linux.resources.devices[0].allow linux.resources.devices[0].access linux.seccomp.defaultAction
    linux.seccomp.syscalls[0].names linux.seccomp.syscalls[0].action linux.seccomp.syscalls[0].args[0].index
    linux.seccomp.syscalls[0].args[0].value linux.seccomp.syscalls[0].args[0].op linux.personality.domain
    linux.memoryPolicy.mode linux.memoryPolicy.nodes linux.resources.hugepageLimits[0].pageSize
    linux.resources.hugepageLimits[0].limit linux.resources.network.priorities[0].name
    linux.resources.network.priorities[0].priority linux.resources.blockIO.weightDevice[0].major
    linux.resources.blockIO.throttleReadBpsDevice[0].rate linux.seccomp.listenerPath vm.hypervisor.path vm.kernel.path
    vm.image.path vm.image.format vm.hwConfig.iomems[0].firstMFN vm.hwConfig.iomems[0].nrMFNs""".split()

GOLDEN = [(path, bad) for kind, paths in FIELDS.items() for path in paths for bad in BAD[kind]]
GOLDEN += [(path, bad) for path, values in SINGLE.items() for bad in values]


def test_the_golden_list_is_long() -> None:
    assert len(GOLDEN) > 1500


def _objects(shape: Any, path: str = "") -> Iterator[tuple[str, Object]]:
    """Yield every object of the schema: those below a shape, and those that modules keep for their own functions."""
    if isinstance(shape, ModuleType):
        for value in vars(shape).values():
            yield from _objects(value, shape.__name__)
    elif isinstance(shape, Object):
        yield path, shape
        for name, field in shape.fields.items():
            yield from _objects(field, f"{path}.{name}")
    elif isinstance(shape, Array):
        yield from _objects(shape.shape, path)
    elif isinstance(shape, Table):
        yield from _objects(shape.value, path)


_MODULES = (linux_rules, mount_rules, process_rules, resource_rules, seccomp_rules)
_CHECKS = {
    (id(found), name): (found, name)
    for root in (SPEC, *_MODULES)
    for _, found in _objects(root)
    for name in found.fields
    if name not in {"intelRdt", "closID", "schemata", "l3CacheSchema", "memBwSchema"} and "enable" not in name
}


@pytest.mark.parametrize(("found", "name"), _CHECKS.values(), ids=[name for _, name in _CHECKS.values()])
def test_no_check_can_be_lost_unnoticed(found: Object, name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """The list itself is tested: without the check of any one field, some bad spec of it passes or is blamed wrongly."""
    monkeypatch.setitem(found.fields, name, lambda _: None)  # type: ignore[arg-type]

    assert any(_noticed(path, bad) for path, bad in GOLDEN if name in keys_of(path)), name


def _noticed(path: str, bad: Any) -> bool:
    try:
        validate(put(full_spec(), path, bad))
    except InvalidArgument as error:
        return not str(error).startswith(f"{path}: ")
    except Exception:  # noqa: BLE001  a check further on met what this one should have stopped
        return True
    return True


def test_the_spec_that_every_bad_one_starts_from_is_good() -> None:
    validate(full_spec())


@pytest.mark.parametrize("path", sorted({path for path, _ in GOLDEN}))
def test_a_bad_value_is_refused_with_its_path(path: str) -> None:
    for bad in [bad for at, bad in GOLDEN if at == path]:
        spec = put(full_spec(), path, bad)

        with pytest.raises(InvalidArgument) as refused:
            validate(spec)

        _assert_one_line(refused.value, path)


@pytest.mark.parametrize("path", REQUIRED)
def test_a_missing_member_is_refused_with_its_path(path: str) -> None:
    with pytest.raises(InvalidArgument) as refused:
        validate(cut(full_spec(), path))

    _assert_one_line(refused.value, path)


#: What only several values together make wrong: what to change, the path that is refused, and words of the reason.
TOGETHER: dict[str, tuple[dict[str, Any], str, str]] = {
    "namespace twice": ({"linux.namespaces[7]": {"type": "pid"}}, "linux.namespaces[7].type", "duplicated ns"),
    "unknown namespace": ({"linux.namespaces[2].type": "foo"}, "linux.namespaces[2].type", 'unknown namespace "foo"'),
    "rlimit twice": (
        {"process.rlimits[1].type": "RLIMIT_NOFILE"}, "process.rlimits[1].type", "duplicate rlimit RLIMIT_NOFILE"
    ),
    "soft over hard": ({"process.rlimits[0].soft": 21}, "process.rlimits[0].soft", "hard limit 20"),
    "fifo without priority": (
        {"process.scheduler": {"policy": "SCHED_FIFO"}}, "process.scheduler.priority", "from 1 to 99"
    ),
    "priority without fifo": (
        {"process.scheduler": {"policy": "SCHED_OTHER", "priority": 1}},
        "process.scheduler.priority", "only be specified for SchedFIFO or SchedRR",
    ),
    "deadline without deadline": (
        {"process.scheduler": {"policy": "SCHED_OTHER", "period": 1}},
        "process.scheduler.period", "only be specified for SchedDeadline",
    ),
    "bind with data": (
        {"mounts[1].options": ["rbind", "size=1m"]}, "mounts[1].options", "bind mounts cannot have any filesystem"
    ),
    "idmap of a new file system": (
        {"mounts[2].options": ["idmap"]}, "mounts[2]", "id-mapped mounts are only supported for bind-mounts"
    ),
    "idmap with uids alone": (
        {"mounts[1].gidMappings": []}, "mounts[1].gidMappings", "must have both uid and gid mappings specified"
    ),
    "idmap with gids alone": (
        {"mounts[1].uidMappings": []}, "mounts[1].uidMappings", "must have both uid and gid mappings specified"
    ),
    "idmap of a remount": (
        {"mounts[1].options": ["bind", "remount", "idmap"]}, "mounts[1].options", "remount cannot be id-mapped"
    ),
    "idmap in crun's option": (
        {"mounts[1].options": ["bind", "idmap=uids=0-1-10"]}, "mounts[1].options[1]", "use uidMappings"
    ),
    "map overlaps inside": (
        {"linux.uidMappings[1].containerID": 65535}, "linux.uidMappings[1].containerID", "overlaps with entry 0"
    ),
    "map overlaps outside": (
        {"linux.gidMappings[1].hostID": 100000}, "linux.gidMappings[1].hostID", "overlaps with entry 0"
    ),
    "map wraps": (
        {"linux.uidMappings[1].hostID": UINT32 - 5}, "linux.uidMappings[1].hostID", "goes beyond 4294967294"
    ),
    "map of 341 lines": (
        {"linux.uidMappings": [{"containerID": i, "hostID": i, "size": 1} for i in range(341)]},
        "linux.uidMappings", "more than 340",
    ),
    "user outside the map": (
        {"process.user.uid": 70000}, "process.user.uid", "cannot set uid to unmapped user in user namespace"
    ),
    "group outside the map": (
        {"process.user.gid": 70000}, "process.user.gid", "cannot set gid to unmapped user in user namespace"
    ),
    "additional group outside the map": (
        {"process.user.additionalGids": [1, 70000]}, "process.user.additionalGids[1]", "cannot set gid 70000"
    ),
    "user namespace without maps": (
        {"linux.uidMappings": []}, "linux.uidMappings", "user namespaces enabled, but no uid mappings found"
    ),
    "maps without user namespace": (
        {"linux.namespaces": [{"type": "uts"}, {"type": "mount"}, {"type": "network"}, {"type": "ipc"},
                              {"type": "time"}]},
        "linux.uidMappings", "user namespace isn't enabled in the config",
    ),
    "time offsets without namespace": (
        {"linux.namespaces[7]": {"type": "pid"}, "linux.namespaces[0]": {"type": "time", "path": "/x"}},
        "linux.timeOffsets", "joined by path",
    ),
    "unknown clock": ({"linux.timeOffsets": {"realtime": {}}}, "linux.timeOffsets.realtime", "unknown clock"),
    "two devices at one path": (
        {"linux.devices[1]": {"path": "/dev/fuse", "type": "b", "major": 1, "minor": 1}},
        "linux.devices[1].path", "conflicts with another device",
    ),
    "network device with a slash": ({"linux.netDevices": {"a/b": {}}}, 'linux.netDevices["a/b"]', "invalid network"),
    "network device with a long name": (
        {"linux.netDevices": {"sixteen_bytes_xx": {}}}, "linux.netDevices.sixteen_bytes_xx", "longer than 15 bytes"
    ),
    "two network devices of one new name": (
        {"linux.netDevices.eth8": {"name": "inside0"}}, "linux.netDevices.eth8.name", "is used twice"
    ),
    "new name of another network device": (
        {"linux.netDevices.eth7.name": "eth8"}, "linux.netDevices.eth8", "is used twice"
    ),
    "swap under limit": (
        {"linux.resources.memory.swap": 1 << 20}, "linux.resources.memory.swap", "should be >= memory limit"
    ),
    "burst over quota": ({"linux.resources.cpu.burst": 50001}, "linux.resources.cpu.burst", "must not exceed the quota"),
    "weight device without weight": (
        {"linux.resources.blockIO.weightDevice[0]": {"major": 1, "minor": 1}},
        "linux.resources.blockIO.weightDevice[0]", "needs weight or leafWeight",
    ),
    "rdma without limit": ({"linux.resources.rdma": {"mlx": {}}}, "linux.resources.rdma.mlx", "needs hcaHandles"),
    "unified that climbs": (
        {"linux.resources.unified": {"../cgroup.procs": "1"}},
        'linux.resources.unified["../cgroup.procs"]', "must be a file name (no slashes)",
    ),
    "unified without controller": (
        {"linux.resources.unified": {"memory": "1"}}, "linux.resources.unified.memory", "CONTROLLER.PARAMETER"
    ),
    "notify write": (
        {"linux.seccomp.syscalls[2].names": ["read", "write"]},
        "linux.seccomp.syscalls[2].names[1]", "SCMP_ACT_NOTIFY cannot be used for the write syscall",
    ),
    "notify by default": (
        {"linux.seccomp.defaultAction": "SCMP_ACT_NOTIFY"},
        "linux.seccomp.defaultAction", "SCMP_ACT_NOTIFY cannot be used as default action",
    ),
    "metadata for nobody": (
        {"linux.seccomp.listenerPath": "", "linux.seccomp.syscalls": []},
        "linux.seccomp.listenerMetadata", "must not be set without listenerPath",
    ),
    "errno of an action without one": (
        {"linux.seccomp.syscalls[0].errnoRet": 1}, "linux.seccomp.syscalls[0].errnoRet", "does not return an errno"
    ),
    "errno by default of an action without one": (
        {"linux.seccomp.defaultAction": "SCMP_ACT_KILL"}, "linux.seccomp.defaultErrnoRet", "does not return an errno"
    ),
    "personality flag": ({"linux.personality.flags": ["X"]}, "linux.personality.flags[0]", "unknown personality flag"),
    "nodes for a mode without": (
        {"linux.memoryPolicy": {"mode": "MPOL_LOCAL", "nodes": "0-3,2,7"}}, "linux.memoryPolicy.nodes", "memory policy mode requires 0 nodes but got 5"
    ),
    "two kinds of nodes": (
        {"linux.memoryPolicy.flags": ["MPOL_F_STATIC_NODES", "MPOL_F_RELATIVE_NODES"]},
        "linux.memoryPolicy.flags", "static and relative nodes together",
    ),
    "intelRdt": ({"linux.intelRdt": {"closID": "x"}}, "linux.intelRdt", "not supported"),
    "intelRdt that climbs": ({"linux.intelRdt": {"closID": ".."}}, "linux.intelRdt.closID", "invalid"),
}  # fmt: skip


@pytest.mark.parametrize("name", TOGETHER)
def test_values_that_do_not_go_together_are_refused(name: str) -> None:
    changes, path, reason = TOGETHER[name]
    spec = full_spec()
    for at, value in changes.items():
        put(spec, at, value)

    with pytest.raises(InvalidArgument) as refused:
        validate(spec)

    _assert_one_line(refused.value, path)
    assert reason in str(refused.value)


#: Without the namespace on the left, the fields on the right would change the host.
NEEDS_NAMESPACE = {
    "uts": {"hostname": "unable to set hostname without a private UTS namespace",
            "domainname": "unable to set domainname without a private UTS namespace"},
    "mount": {"linux.maskedPaths": "unable to restrict sys entries without a private MNT namespace",
              "linux.readonlyPaths": "unable to restrict sys entries without a private MNT namespace"},
    "network": {"linux.netDevices": "unable to move network devices without a NET namespace",
                'linux.sysctl["net.ipv4.ip_forward"]': "not allowed in host network namespace"},
    "ipc": {'linux.sysctl["kernel.sem"]': "is not allowed in the hosts ipc namespace",
            'linux.sysctl["fs.mqueue.msg_max"]': "is not allowed in the hosts ipc namespace"},
    "time": {"linux.timeOffsets": "time namespace isn't enabled in the config"},
}  # fmt: skip


@pytest.mark.parametrize(("kind", "path"), [(kind, path) for kind, paths in NEEDS_NAMESPACE.items() for path in paths])
def test_what_would_change_the_host_needs_a_namespace(kind: str, path: str) -> None:
    spec = full_spec()
    spec["linux"]["namespaces"] = [entry for entry in spec["linux"]["namespaces"] if entry["type"] != kind]
    for other in NEEDS_NAMESPACE[kind]:
        if other != path:
            _remove(spec, other)

    with pytest.raises(InvalidArgument) as refused:
        validate(spec)

    _assert_one_line(refused.value, path)
    assert NEEDS_NAMESPACE[kind][path] in str(refused.value)


BAD_SYSCTLS = {
    "kernel.shm_rmid_forced": "1+kernel.core_pattern=|/evil",  # CVE-2022-0811
    "kernel.sem": "1\nkernel.core_pattern",
    "kernel.msgmax": "1\0",
    "kernel.core_pattern": "|/evil",
    "kernel..core_pattern": "1",
    "../../sysrq-trigger": "b",
    "net/../kernel/core_pattern": "x",
    "net/./../kernel/core_pattern": "x",
    "net.//.kernel.core_pattern": "x",
    "net.ipv4.conf. .x": "1",
    "net": "1",
    "net.": "1",
    ".net.x": "1",
    "": "1",
    "vm.overcommit_memory": "1",
    "kernel.hostname": "x",
    "fs.mqueue": "1",
    "fs.mqueuex.y": "1",
    "kernel/core_pattern": "x",
}


@pytest.mark.parametrize("key", BAD_SYSCTLS)
def test_a_sysctl_that_is_not_the_containers_own_is_refused(key: str) -> None:
    spec = full_spec()
    spec["linux"]["sysctl"] = {key: BAD_SYSCTLS[key]}

    with pytest.raises(InvalidArgument) as refused:
        validate(spec)

    _assert_one_line(refused.value, "linux.sysctl")


def test_process_and_resources_say_their_own_path() -> None:
    with pytest.raises(InvalidArgument, match=r"^process\.cwd: must be an absolute path"):
        validate_process({"args": ["x"], "cwd": "x"}, "process")
    with pytest.raises(InvalidArgument, match=r"^resources\.memory\.limit: must be an integer, not true"):
        validate_resources({"memory": {"limit": True}}, "resources")
    with pytest.raises(InvalidArgument, match=r"^resources: must be an object, not an array"):
        validate_resources([], "resources")


@pytest.mark.parametrize(
    ("where", "name"), [("", "PROCESS"), ("process", "Args"), ("linux", "\u017feccomp"), ("linux.seccomp", "SysCalls")]
)
def test_a_property_twice_in_two_cases_is_refused(where: str, name: str) -> None:
    """One reader would take the first, another the last."""
    spec = full_spec()
    node: Any = spec
    for key in keys_of(where):
        node = node[key]
    node[name] = copy.deepcopy(node[name.casefold()])

    with pytest.raises(InvalidArgument, match="duplicate key"):
        validate(spec)


def test_an_object_may_come_in_parts_of_two_cases() -> None:
    """As runc reads {"cpu": {"shares": 2}, "CPU": {"Cpus": "0"}}."""
    spec = full_spec()
    spec["linux"]["resources"]["cpu"] = {"shares": 1024}
    spec["linux"]["resources"]["CPU"] = {"Cpus": "0"}

    validate(spec)

    assert spec["linux"]["resources"]["cpu"] == {"shares": 1024, "cpus": "0"}
    assert "CPU" not in spec["linux"]["resources"]


def test_a_property_in_another_case_is_checked() -> None:
    spec = full_spec()
    spec["linux"]["Seccomp"] = {"DefaultAction": "SCMP_ACT_NO"}
    del spec["linux"]["seccomp"]

    with pytest.raises(InvalidArgument, match=r'^linux\.seccomp\.defaultAction: unknown seccomp action "SCMP_ACT_NO"$'):
        validate(spec)


def test_anything_but_an_object_is_no_spec() -> None:
    for spec in (None, [], "", 0, True):
        with pytest.raises(InvalidArgument, match="must be an object"):
            validate(spec)


# -- random mutations: never anything but InvalidArgument ----------------------------------------------------------------

_STRANGE: list[Any] = [
    None, True, False, 0, -1, 1, 255, 65536, 2**31, 2**32 - 1, 2**32, 2**63, 2**64, 10**40, 0.5, float("1e300"), "",
    "/", "..", "\0", "\n", "é", "😀", "x" * 10000, [], {}, [[]], [{}], [None], {"": None}, {"type": []}, "SCMP_ACT_ALLOW",
    "RLIMIT_NOFILE", "9" * 5000, ["/"], {"containerID": 0}, "user", [1, "a", None],
]  # fmt: skip


@pytest.mark.parametrize("seed", range(40))
def test_random_mutations_never_raise_anything_else(seed: int) -> None:
    chance = random.Random(seed)
    refused = 0
    for _ in range(100):
        spec = full_spec()
        for _ in range(chance.choice((1, 1, 1, 2, 5))):
            _mutate(chance, spec)
        refusal = _refusal(spec)
        refused += bool(refusal)
        assert refusal.isascii()
        assert not refusal or refusal.isprintable()
    assert refused > 50


def _refusal(spec: dict[str, Any]) -> str:
    try:
        validate(spec)
        warnings(spec)  # type: ignore[arg-type]
    except InvalidArgument as error:
        return str(error)
    return ""


def _mutate(chance: random.Random, spec: dict[str, Any]) -> None:
    node: Any = spec
    while True:
        keys = list(node) if isinstance(node, dict) else list(range(len(node)))
        if not keys:
            return
        key = chance.choice(keys)
        if not isinstance(node[key], (dict, list)) or chance.random() < 0.25:
            break
        node = node[key]
    action = chance.random()
    if action < 0.2 and isinstance(node, dict):
        del node[key]
    elif action < 0.3 and isinstance(node, list):
        node.append(node[key])
    elif action < 0.4 and isinstance(node, dict):
        node[chance.choice(("x", "", "a.b", "\0", "..", "type", "path"))] = node[key]
    else:
        node[key] = chance.choice(_STRANGE)


def _remove(spec: dict[str, Any], path: str) -> None:
    if '["' in path:
        where, _, key = path.partition('["')
        node: Any = spec
        for name in keys_of(where):
            node = node[name]
        del node[key.removesuffix('"]')]
    else:
        cut(spec, path)


def _assert_one_line(error: InvalidArgument, path: str) -> None:
    text = str(error)
    # Keys of a table are the spec's own and need not be names: linux.sysctl["a.b"].
    assert text.startswith(f"{path}: ") or (
        path == "linux.sysctl" and text.startswith(("linux.sysctl[", "linux.sysctl."))
    )
    assert text.isprintable(), repr(text)
    assert len(text) < 400, text
