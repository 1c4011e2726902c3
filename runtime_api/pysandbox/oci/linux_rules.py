"""What config.json's `linux` may say, and what its parts demand of each other."""

from __future__ import annotations

from pysandbox.oci.document import quote
from pysandbox.oci.mount_rules import id_mappings
from pysandbox.oci.resource_rules import RESOURCES, interface_name
from pysandbox.oci.schema import (
    Array,
    Bad,
    Choice,
    Integer,
    Object,
    Strings,
    Table,
    absolute,
    absolute_or_empty,
    boolean,
    identifier,
    int64,
    line,
    string,
    uint32,
)
from pysandbox.oci.seccomp_rules import SECCOMP

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Sequence
    from typing import Any

    from pysandbox.oci.types import Device, IdMapping, Linux, MemoryPolicy, Process, Spec

NAMESPACES = ("pid", "network", "mount", "ipc", "uts", "user", "cgroup", "time")

#: set_mempolicy(2), by name; WEIGHTED_INTERLEAVE since Linux 6.9.
MEMORY_POLICY_MODES = {
    "MPOL_DEFAULT": 0,
    "MPOL_PREFERRED": 1,
    "MPOL_BIND": 2,
    "MPOL_INTERLEAVE": 3,
    "MPOL_LOCAL": 4,
    "MPOL_PREFERRED_MANY": 5,
    "MPOL_WEIGHTED_INTERLEAVE": 6,
}
MEMORY_POLICY_FLAGS = {
    "MPOL_F_NUMA_BALANCING": 1 << 13,
    "MPOL_F_RELATIVE_NODES": 1 << 14,
    "MPOL_F_STATIC_NODES": 1 << 15,
}

#: Of /proc/sys/kernel, what an IPC namespace has for itself: ipc_namespaces(7).
_IPC_SYSCTLS = frozenset(
    "kernel." + name for name in "msgmax msgmnb msgmni sem shmall shmmax shmmni shm_rmid_forced".split()
)
_KEY_CHARACTERS = frozenset("ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789_-./:@*,")
_VALUE_CHARACTERS = _KEY_CHARACTERS | {" ", "\t"}


def sysctl_path(key: str) -> str:
    """Turn a sysctl's name into its path below /proc/sys.

    As sysctl(8): the first separator tells which of '.' and '/' separates, the other stands for a '.' in a name
    (`net.ipv4.conf.eth0/1.rp_filter` and `net/ipv4/conf/eth0.1/rp_filter` are the same).
    """
    first = next((character for character in key if character in "./"), "/")
    return key if first == "/" else key.translate({ord("."): "/", ord("/"): "."})


def _sysctl_key(value: Any) -> None:
    string(value)
    if not _KEY_CHARACTERS.issuperset(value) or len(value) > 255:
        raise Bad(f"invalid sysctl name {quote(value)}")
    if not {"", ".", ".."}.isdisjoint(sysctl_path(value).split("/")):
        raise Bad(f"invalid sysctl name {quote(value)}")


def _sysctl_value(value: Any) -> None:
    # Not only control characters: '+' and '=' once carried a second sysctl past this check (CVE-2022-0811).
    string(value)
    if not _VALUE_CHARACTERS.issuperset(value) or len(value) > 4096:
        raise Bad(f"invalid sysctl value {quote(value)}")


def _namespaces(value: Any) -> None:
    _NAMESPACES(value)
    seen = set()
    for index, namespace in enumerate(value):
        if namespace["type"] in seen:
            raise Bad(f"duplicated ns {quote(namespace['type'])}", index, "type")
        seen.add(namespace["type"])


_NAMESPACES = Array(Object({"type": Choice("namespace", NAMESPACES), "path": absolute_or_empty}, ("type",)))


def _device(device: Device) -> None:
    if device["type"] != "p":
        for name in ("major", "minor"):
            if name not in device:
                raise Bad("is required", name)


_DEVICES = Array(
    Object(
        {
            "type": Choice("device type", "cbup"),
            "path": absolute,
            # 12 and 20 bits: MKDEV() of the kernel
            "major": Integer(0, (1 << 12) - 1),
            "minor": Integer(0, (1 << 20) - 1),
            "fileMode": uint32,
            "uid": identifier,
            "gid": identifier,
        },
        ("type", "path"),
        rule=_device,
    )
)


def _devices(value: Any) -> None:
    _DEVICES(value)
    nodes: dict[str, tuple[Any, ...]] = {}
    for index, device in enumerate(value):
        node = (device["type"].replace("u", "c"), device.get("major"), device.get("minor"))
        if nodes.setdefault(device["path"], node) != node:
            raise Bad(f"conflicts with another device at {quote(device['path'])}", index, "path")


def _nodes(value: Any) -> None:
    string(value)
    for part in value.split(",") if value else ():
        ends = part.strip().split("-")
        if not all(end.isascii() and end.isdigit() and len(end) <= 4 for end in ends) or len(ends) > 2:
            raise Bad(f"invalid memory policy node {quote(part)}")
        if int(ends[0]) > int(ends[-1]):
            raise Bad(f"invalid memory policy node range {quote(part)}")


def _memory_policy(policy: MemoryPolicy) -> None:
    """Say what set_mempolicy(2) would only call an invalid argument."""
    mode, nodes, flags = policy.get("mode", ""), policy.get("nodes", ""), policy.get("flags", [])
    if not mode:
        if nodes or flags:
            raise Bad("invalid memory policy mode: it is required with nodes or flags", "mode")
        return
    refused = f"set_mempolicy(2) refuses {{}} {mode}: invalid argument"
    if mode in {"MPOL_DEFAULT", "MPOL_LOCAL"}:
        if nodes:
            raise Bad(f"memory policy mode requires 0 nodes but got {_count(nodes)}", "nodes")
        if flags:
            raise Bad(refused.format("flags with"), "flags")
    elif not nodes and mode != "MPOL_PREFERRED":
        raise Bad("memory policy mode requires at least one node but got 0", "nodes")
    if "MPOL_F_STATIC_NODES" in flags and "MPOL_F_RELATIVE_NODES" in flags:
        raise Bad(refused.format("static and relative nodes together with"), "flags")


def _count(nodes: str) -> int:
    """Return how many numbers a checked list has."""
    numbers: set[int] = set()
    for part in nodes.split(","):
        first, _, last = part.strip().partition("-")
        numbers.update(range(int(first), int(last or first) + 1))
    return len(numbers)


def _memory_policy_mode(value: Any) -> None:
    string(value)
    if value:
        _MODE(value)


_MODE = Choice("memory policy mode", MEMORY_POLICY_MODES, "invalid")


def _clos_id(value: Any) -> None:
    line(value)
    if value in {".", ".."} or "/" in value:
        raise Bad(f"invalid intelRdt.ClosID {quote(value)}")


def _no_intel_rdt(_: Any) -> None:
    raise Bad("not supported: pysandbox does not manage resctrl")


def _personality_flags(value: Any) -> None:
    Strings()(value)
    if value:
        raise Bad(f"unknown personality flag {quote(value[0])}", 0)


def _cgroups_path(value: Any) -> None:
    line(value)
    if ".." in value.replace(":", "/").split("/"):
        raise Bad(f"must not contain '..': {quote(value)}")


def _propagation(value: Any) -> None:
    string(value)
    if value:
        _PROPAGATION(value)


_PROPAGATION = Choice(
    "rootfsPropagation", "shared slave private unbindable rshared rslave rprivate runbindable".split()
)


def _net_devices(value: Any) -> None:
    Table(interface_name, Object({"name": _new_interface_name}))(value)
    targets: set[str] = set()
    for name, device in value.items():
        target = device.get("name") or name
        if target in targets:
            place = (name, "name") if device.get("name") else (name,)
            raise Bad(f"network device name {quote(target)} is used twice", *place)
        targets.add(target)


def _new_interface_name(value: Any) -> None:
    string(value)
    if value:
        interface_name(value)


#: The shape of `linux`.
LINUX = Object(
    {
        "uidMappings": id_mappings,
        "gidMappings": id_mappings,
        "timeOffsets": Table(
            Choice("clock", ("monotonic", "boottime")), Object({"secs": int64, "nanosecs": Integer(0, 999_999_999)})
        ),
        "sysctl": Table(_sysctl_key, _sysctl_value),
        "resources": RESOURCES,
        "cgroupsPath": _cgroups_path,
        "namespaces": _namespaces,
        "devices": _devices,
        "netDevices": _net_devices,
        "seccomp": SECCOMP,
        "rootfsPropagation": _propagation,
        "maskedPaths": Array(absolute),
        "readonlyPaths": Array(absolute),
        "mountLabel": line,
        "intelRdt": Object(
            {
                "closID": _clos_id,
                "schemata": Array(line),
                "l3CacheSchema": string,
                "memBwSchema": line,
                "enableMonitoring": boolean,
                "enableCMT": boolean,
                "enableMBM": boolean,
            },
            rule=_no_intel_rdt,
        ),
        "personality": Object(
            {"domain": Choice("personality domain", ("LINUX", "LINUX32")), "flags": _personality_flags}, ("domain",)
        ),
        "memoryPolicy": Object(
            {
                "mode": _memory_policy_mode,
                "nodes": _nodes,
                "flags": Array(Choice("memory policy flag", MEMORY_POLICY_FLAGS, "invalid")),
            },
            rule=_memory_policy,
        ),
    }
)


def check_namespaced(spec: Spec) -> None:
    """Refuse what would change the host because the namespace for it is missing."""
    linux = spec.get("linux", {})
    kinds = {namespace["type"]: namespace.get("path", "") for namespace in linux.get("namespaces", ())}
    if "uts" not in kinds:
        if spec.get("hostname"):
            raise Bad("unable to set hostname without a private UTS namespace", "hostname")
        if spec.get("domainname"):
            raise Bad("unable to set domainname without a private UTS namespace", "domainname")
    if "mount" not in kinds:
        for name in ("maskedPaths", "readonlyPaths"):
            if linux.get(name):
                raise Bad("unable to restrict sys entries without a private MNT namespace", "linux", name)
    if linux.get("netDevices") and "network" not in kinds:
        raise Bad("unable to move network devices without a NET namespace", "linux", "netDevices")
    _check_time(linux, kinds)
    _check_sysctls(linux, kinds)


def _check_time(linux: Linux, kinds: dict[Any, str]) -> None:
    if not linux.get("timeOffsets"):
        return
    if "time" not in kinds:
        problem = "time namespace offsets specified, but time namespace isn't enabled in the config"
        raise Bad(problem, "linux", "timeOffsets")
    if kinds["time"]:
        raise Bad("cannot be set for a time namespace that is joined by path", "linux", "timeOffsets")


def _check_sysctls(linux: Linux, kinds: dict[Any, str]) -> None:
    for key in linux.get("sysctl", ()):
        problem = _sysctl_problem(sysctl_path(key).translate({ord("."): "/", ord("/"): "."}), kinds)
        if problem:
            raise Bad(problem, "linux", "sysctl", key)


def _sysctl_problem(name: str, kinds: dict[Any, str]) -> str:
    """Say why a sysctl (dots between its parts) may not be set, or nothing."""
    if name in _IPC_SYSCTLS or name.startswith("fs.mqueue."):
        return "" if "ipc" in kinds else f'sysctl "{name}" is not allowed in the hosts ipc namespace'
    if name.startswith("net."):
        return "" if "network" in kinds else f'sysctl "{name}" not allowed in host network namespace'
    if "uts" in kinds and name == "kernel.domainname":
        return ""
    if "uts" in kinds and name == "kernel.hostname":
        return f'sysctl "{name}" is not allowed as it conflicts with the OCI "hostname" field'
    return f'sysctl "{name}" is not in a separate kernel namespace'


def check_user_namespace(spec: Spec) -> None:
    """Refuse id maps without a user namespace, a new one without maps, and a process whose ids are not mapped."""
    linux = spec.get("linux", {})
    user = [namespace for namespace in linux.get("namespaces", ()) if namespace["type"] == "user"]
    for which in ("uid", "gid"):
        mappings = _mappings(linux, which)
        if mappings and not user:
            problem = "user namespace mappings specified, but user namespace isn't enabled in the config"
            raise Bad(problem, "linux", f"{which}Mappings")
        if user and not user[0].get("path") and not mappings:
            raise Bad(f"user namespaces enabled, but no {which} mappings found", "linux", f"{which}Mappings")
    try:
        check_process_ids(spec["process"], spec)
    except Bad as bad:
        bad.keys.insert(0, "process")
        raise


def check_process_ids(process: Process, spec: Spec) -> None:
    """Refuse ids that a spec's user namespace does not map. Of one that is joined the maps need not be known."""
    linux = spec.get("linux", {})
    user_namespaces = [entry for entry in linux.get("namespaces", ()) if entry["type"] == "user"]
    uids, gids = _mappings(linux, "uid"), _mappings(linux, "gid")
    if not user_namespaces or (user_namespaces[0].get("path") and not (uids and gids)):
        return
    user = process.get("user", {"uid": 0, "gid": 0})
    if not _mapped(user.get("uid", 0), uids):
        raise Bad("cannot set uid to unmapped user in user namespace", "user", "uid")
    if not _mapped(user.get("gid", 0), gids):
        raise Bad("cannot set gid to unmapped user in user namespace", "user", "gid")
    for index, gid in enumerate(user.get("additionalGids", ())):
        if not _mapped(gid, gids):
            problem = f"cannot set gid {gid} to unmapped group in user namespace"
            raise Bad(problem, "user", "additionalGids", index)


def _mappings(linux: Linux, which: str) -> Sequence[IdMapping]:
    return linux.get("uidMappings", ()) if which == "uid" else linux.get("gidMappings", ())


def _mapped(number: int, mappings: Sequence[IdMapping]) -> bool:
    return any(0 <= number - mapping["containerID"] < mapping["size"] for mapping in mappings)
