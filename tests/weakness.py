"""Bundles to audit: one as it should be, the same with everything open, and what a weak host would have a probe report."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pysandbox.audit import judge
from pysandbox.audit.catalogue import PROBES, Probe
from pysandbox.audit.context import Context
from pysandbox.oci.capabilities import CAPABILITIES
from pysandbox.oci.default import default_spec

if TYPE_CHECKING:
    from collections.abc import Callable

    Change = Callable[[dict[str, Any]], object]

DOCKER = Path(__file__).parent / "unit/oci/data/docker.json"
#: What of the host can be read through the default masks.
TELLING = (
    "/proc/kallsyms /proc/config.gz /proc/interrupts /proc/softirqs /proc/key-users /proc/iomem /proc/slabinfo "
    "/proc/vmallocinfo /proc/pagetypeinfo /proc/diskstats /proc/modules /sys/block /sys/kernel/debug "
    "/sys/kernel/security /sys/kernel/tracing /sys/devices/system/cpu/cpu0/thermal_throttle"
).split()


def strong() -> dict[str, Any]:
    """Return the spec of a container as it should be."""
    spec: dict[str, Any] = json.loads(json.dumps(default_spec(cgroup_namespace=True)))
    spec["process"]["terminal"] = False
    spec["process"]["rlimits"] += [
        {"type": "RLIMIT_CORE", "hard": 0, "soft": 0},
        {"type": "RLIMIT_MEMLOCK", "hard": 65536, "soft": 65536},
    ]
    linux = spec["linux"]
    linux["seccomp"] = _filter()
    linux["maskedPaths"] += TELLING
    linux["resources"].update(
        memory={"limit": 256 << 20}, pids={"limit": 256}, cpu={"quota": 100_000, "period": 100_000}
    )
    return spec


def _filter() -> dict[str, Any]:
    """Return docker's profile without io_uring and modify_ldt, native calls only, three families of sockets."""
    profile: dict[str, Any] = json.loads(DOCKER.read_text())["linux"]["seccomp"]
    profile["architectures"] = ["SCMP_ARCH_X86_64"]
    for rule in profile["syscalls"]:
        rule["names"] = [
            name for name in rule["names"] if not name.startswith("io_uring") and name not in ("socket", "modify_ldt")
        ]
    families = [
        {
            "names": ["socket"],
            "action": "SCMP_ACT_ALLOW",
            "args": [{"index": 0, "value": number, "op": "SCMP_CMP_EQ"}],
        }
        for number in (1, 2, 10)
    ]
    profile["syscalls"] = [rule for rule in profile["syscalls"] if rule["names"]] + families
    return profile


def open_everything(spec: dict[str, Any]) -> None:
    """Take away all that holds a container: each change is a weakness that some probe has to find."""
    process, linux = spec["process"], spec["linux"]
    process["capabilities"] = dict.fromkeys(
        ("bounding", "effective", "permitted", "inheritable", "ambient"), own_capabilities()
    )
    process["noNewPrivileges"] = False
    process["rlimits"] = [{"type": "RLIMIT_CORE", "hard": 1 << 20, "soft": 1 << 20}]
    del linux["seccomp"], spec["hostname"]
    linux.update(
        maskedPaths=[],
        readonlyPaths=[],
        resources={"devices": [{"allow": True, "access": "rwm"}]},
        namespaces=[{"type": "mount"}],
        devices=[{"path": "/dev/kmsg", "type": "c", "major": 1, "minor": 11}],
        rootfsPropagation="shared",
    )
    hosts = ("/sys", "/sys/fs/cgroup", "/dev/mqueue")
    spec["mounts"] = [mount for mount in spec["mounts"] if mount["destination"] not in hosts]
    spec["mounts"] += [
        {"destination": path, "type": "bind", "source": path, "options": ["rbind", "rw"]} for path in ("/sys", "/tmp")
    ] + [{"destination": "/run", "type": "tmpfs", "source": "tmpfs"}]


def own_capabilities() -> list[str]:
    """Return the names of all capabilities that this process may hand on."""
    status = dict(line.split(":", 1) for line in Path("/proc/self/status").read_text().splitlines())
    bounding = int(status["CapBnd"], 16)
    return [name for name, number in CAPABILITIES.items() if bounding >> number & 1]


#: One weakness each: a name, what makes it of the strong spec, and the probe that has to find it.
PLANTS: dict[str, tuple[Change, str]] = {}


def _plant(name: str, probe: str) -> Callable[[Change], Change]:
    def register(change: Change) -> Change:
        PLANTS[name] = (change, probe)
        return change

    return register


@_plant("a capability", "capabilities.effective")
def _capability(spec: dict[str, Any]) -> None:
    for names in spec["process"]["capabilities"].values():
        names.append("CAP_SYS_ADMIN")


@_plant("an unmasked path", "file.timer_list")
def _unmasked(spec: dict[str, Any]) -> None:
    spec["linux"]["maskedPaths"].remove("/proc/timer_list")


@_plant("seccomp off", "seccomp.mode")
def _no_filter(spec: dict[str, Any]) -> None:
    del spec["linux"]["seccomp"]


@_plant("a shared namespace", "outside.init.namespace.ipc")
def _shared(spec: dict[str, Any]) -> None:
    spec["linux"]["namespaces"] = [each for each in spec["linux"]["namespaces"] if each["type"] != "ipc"]
    spec["mounts"] = [each for each in spec["mounts"] if each["type"] != "mqueue"]


@_plant("a host device", "devices.listed")
def _device(spec: dict[str, Any]) -> None:
    spec["linux"]["devices"] = [{"path": "/dev/fuse", "type": "c", "major": 10, "minor": 229}]


@_plant("a capability and no filter", "mount.remount_proc_sys")
def _administrator(spec: dict[str, Any]) -> None:
    _capability(spec)
    _no_filter(spec)


@_plant("set-id programs that count", "no_new_privs")
def _set_id(spec: dict[str, Any]) -> None:
    spec["process"]["noNewPrivileges"] = False


# -- what a weak host would have a probe report ------------------------------------------------------------------------

HOST = {
    "host.release": "6.1.0", "host.version": "#1 SMP", "host.boot_id": "aaaa", "host.name": "host",
    "host.uptime": "1000.00 10.00", "host.load": "1.00 2.00 3.00 1/2 3", "host.command_line": "quiet",
    "host.memory": "MemTotal: 1 kB", "host.processor": "model name : X",
}  # fmt: skip
_EMPTY = {"bounding": [], "effective": [], "permitted": [], "inheritable": [], "ambient": []}
SPEC = {"process": {"user": {"uid": 0, "gid": 0}, "capabilities": _EMPTY}}
_SETS = {f"capabilities.{name}": {"text": "0" * 16} for name in _EMPTY}
_ALL_SETS = {f"capabilities.{name}": {"text": "000001ffffffffff"} for name in _EMPTY}

#: By the judge: facts of a host as it should be, and of a weak one.
_BY_JUDGE: dict[Any, tuple[dict[str, Any], dict[str, Any]]] = {
    judge.refused: ({"errno": 1}, {"done": True}),
    judge.unwritable: ({"errno": 30}, {"done": True}),
    judge.unreached: ({"errno": 38}, {"errno": 14}),
    judge.unreadable: ({"bytes": 0}, {"bytes": 64}),
    judge.no_node: ({"errno": 1}, {"errno": 6}),
    judge.nothing_found: ({"found": []}, {"found": ["a", "b"]}),
    judge.at_least_one: ({"text": "1"}, {"text": "0"}),
    judge.limited: ({"soft": "1024", "hard": "1024"}, {"soft": "1024", "hard": "unlimited"}),
    judge.no_core: ({"soft": "0"}, {"soft": "unlimited"}),
    judge.groups_as_spec: ({"text": "0"}, {"text": "0 27"}),
    judge.own_children_only: ({"errno": 1}, {"done": True}),
    judge.uptime_differs: ({"text": "5.0 1.0"}, {"text": "1010.00 10.00"}),
    judge.load_differs: ({"text": "0.00 0.00 0.10 1/2 3"}, {"text": "1.00 2.00 3.02 1/2 3"}),
    judge.all_threads: ({"threads": 4, "without": 0}, {"threads": 4, "without": 1}),
    judge.not_shared: ({"shared": False}, {"shared": True}),
    judge.not_root: ({"uid": 65534, "map": "0 0 4294967295"}, {"uid": 0, "map": "0 0 4294967295"}),
    judge.in_cgroup: ({"outside": []}, {"outside": ["memory"]}),
    judge.pids_bounded: ({"limit": "256"}, {"limit": None}),
    judge.bounded: ({"limit": "4096"}, {"limit": None}),
    judge.accelerated: ({"text": "kvm"}, {"text": "tcg"}),
}
_BY_NAME: dict[str, tuple[dict[str, Any], dict[str, Any]]] = {
    "seccomp.mode": ({"text": "2"}, {"text": "0"}),
    "no_new_privs": ({"text": "1"}, {"text": "0"}),
    "user.uid": ({"text": "0\t0\t0\t0"}, {"text": "0\t1000\t0\t0"}),
    "user.gid": ({"text": "0\t0\t0\t0"}, {"text": "0\t0\t0\t1000"}),
    "syscalls.sweep": ({"reached": [*range(300)], "silent": []}, {"reached": [*range(300)], "silent": [400]}),
    "processes.ptrace_child": ({"errno": 1}, {"done": True}),
}


def reports(probe: Probe) -> tuple[dict[str, Any], dict[str, Any]]:
    """Return what a probe reports of a host as it should be, and of a weak one."""
    if probe.name in _BY_NAME:
        return _BY_NAME[probe.name]
    if probe.judge in _BY_JUDGE:
        return _BY_JUDGE[probe.judge]
    if probe.name.startswith("host."):
        return {"text": "of its own"}, {"text": HOST[probe.name]}
    if probe.name.rpartition(".")[2] in (
        "effective",
        "permitted",
        "bounding",
        "inheritable",
        "ambient",
        "capabilities",
    ):
        return {"text": "0000000000000000"}, {"text": "000001ffffffffff"}
    assert probe.name == "capabilities.as_spec", f"{probe.name}: no weak observation is known"
    return {}, {}


def context(probe: Probe, *, weak: bool) -> Context:
    """Return what the verdict may look at beside the probe's own facts."""
    sets = _ALL_SETS if weak and probe.name == "capabilities.as_spec" else _SETS
    visible = {"processes.visible": {"found": ["1"] if weak else []}}
    return Context(facts={**sets, **visible}, spec=SPEC, host=HOST)


NAMES = tuple(PROBES)
