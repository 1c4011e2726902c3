"""What this backend asks the planner for: the spec as the guest is to carry it out, and what the host does of it.

A container's plan is made here, on the host, for a kernel that has cgroup v2 alone and neither AppArmor nor SELinux.
The spec is changed first:

* root and sources of bind mounts are where the guest has mounted what the host shares (`tree.py`);
* the network namespace is the guest's own; that of the spec is the host's, and its interfaces are mirrored;
* a namespace that is joined must be one of another container in the same machine;
* of the hooks only startContainer runs in the guest.

Limits are set twice: in the guest as the spec says them, so that a container meets its own limits, and on the host for
the machine as a whole, whoever is root in the guest. CPUs and block devices are numbered by the host: they are limited
there alone, as the machine's.
"""

from __future__ import annotations

from pysandbox.errors import InvalidArgument
from pysandbox.filtercache import compile_filter
from pysandbox.plan.container import init_plan
from pysandbox.plan.host import Host
from pysandbox.plan.process import exec_plan
from pysandbox.record import dataclass, replace
from pysandbox_microvm.block import mount_volumes
from pysandbox_microvm.place import STORAGE
from pysandbox_microvm.tree import guest_mounts

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence
    from typing import Any

    from pysandbox.backend import ExecRequest, Options
    from pysandbox.cgroup.cgroup import CgroupMount
    from pysandbox.oci.types import Mount, Resources, Spec
    from pysandbox.plan.filter import Compiler
    from pysandbox.plan.plan import Plan
    from pysandbox_microvm.place import Place

#: Where the guest mounts its cgroup2.
CGROUP_ROOT = "/sys/fs/cgroup"
#: Sections of `linux.resources` that the guest's cgroup has.
_IN_GUEST = ("memory", "pids", "hugepageLimits", "unified")
#: And of those that the host's has, the members of `cpu`; which CPUs is the host's to say.
_CPU_IN_GUEST = ("shares", "quota", "period", "burst", "idle")
_ON_HOST = ("cpu", "blockIO")
#: What of `vm` a machine is made by; the kernel's parameters as far as the settings allow them.
_VM_DONE = frozenset(("hwConfig.vcpus", "hwConfig.memory", "kernel.parameters"))
#: Devices that QEMU and what feeds it use: KVM, tun, vhost-net, vhost-vsock.
_HOST_DEVICES = ((10, 232), (10, 200), (10, 238), (10, 241))
#: Files in /proc/PID/ns that are not named as the spec names the namespace.
NAMESPACE_FILES = {"mount": "mnt"}
#: The most that a hard limit can be: what init in the guest has, whoever runs there.
_NO_LIMIT = (0, 0)

GUEST = Host(last_capability=40, kcore=False)


@dataclass(frozen=True, slots=True, kw_only=True)
class GuestPlan:
    """What the agent is asked to do: a plan, and what it does at the plan's stops. Texts for files of /proc."""

    plan: Plan
    cgroup: str
    limits: Sequence[tuple[str, str]]
    device_program: bytes
    uid_map: str = ""
    gid_map: str = ""
    time_offsets: str = ""

    def document(self) -> dict[str, Any]:
        """Return what goes to the sandbox process."""
        return {
            "plan": self.plan.to_json().decode(),
            "cgroup": self.cgroup,
            "limits": list(self.limits),
            "device_program": self.device_program.hex(),
            "uid_map": self.uid_map,
            "gid_map": self.gid_map,
            "time_offsets": self.time_offsets,
        }


class GuestCgroup:
    """The container's cgroup in the guest, as far as planning asks."""

    def __init__(self, path: str) -> None:
        self._path = path

    def mounts(self) -> Sequence[CgroupMount]:
        """Return cgroup2, mounted at the usual place."""
        from pysandbox.cgroup.cgroup import CgroupMount

        return (CgroupMount(version=2, name="", source=f"{CGROUP_ROOT}/{self._path}", whole=CGROUP_ROOT),)


def cgroup_of(container_id: str) -> str:
    """Return the path of a container's cgroup in the guest. The prefix keeps an id from being a file's name."""
    return f"containers/c-{container_id}"


# -- the spec for the guest --------------------------------------------------------------------------------------------


def check_spec(spec: Spec) -> None:
    """Raise InvalidArgument, with the JSON path, for what no virtual machine can do."""
    for path, reason in _impossible(spec):
        raise InvalidArgument(f"{path}: {reason}")


def _impossible(spec: Spec) -> Iterator[tuple[str, str]]:
    linux = spec.get("linux") or {}
    kinds = [namespace["type"] for namespace in linux.get("namespaces") or ()]
    if "network" not in kinds:
        yield (
            "linux.namespaces",
            "has no network namespace: a virtual machine cannot be in the host's network (give it one of its own)",
        )
    if "mount" not in kinds:
        yield "linux.namespaces", "has no mount namespace, and in a virtual machine a container needs one"
    if (linux.get("seccomp") or {}).get("listenerPath"):
        yield "linux.seccomp.listenerPath", "system calls of a guest cannot be notified to the host"
    for index, device in enumerate(linux.get("devices") or ()):
        if device["type"] == "b" and "user" in kinds:  # a bind mount of a node whose name only the guest knows
            yield (
                f"linux.devices[{index}]",
                f"{device['path']}: no block devices in a user namespace of a virtual machine",
            )


def guest_spec(spec: Spec, bundle: str, place: Place) -> Spec:
    """Return the spec as the guest is to carry it out. Raises InvalidArgument."""
    check_spec(spec)
    linux: dict[str, Any] = dict(spec.get("linux") or {})
    linux.pop("netDevices", None)  # moved into the host's namespace, and mirrored there
    linux["namespaces"] = list(_namespaces(linux.get("namespaces") or (), place))
    hooks = {"startContainer": (spec.get("hooks") or {}).get("startContainer") or []}
    changed: Any = {
        **spec,
        "root": {**spec["root"], "path": place.root},
        "mounts": [
            _sysfs(mount, spec)
            for mount in guest_mounts(spec, bundle, place.directory, _disks(spec, bundle, place), root=place.root)
        ],
        "hooks": hooks,
        "linux": linux,
    }
    return changed  # type: ignore[no-any-return]


def _sysfs(mount: Mount, spec: Spec) -> Mount:
    """Return a mount of sysfs as the guest's own /sys, where the container has a user namespace.

    sysfs shows a network namespace, and only who owns that may mount it: the guest's is not the container's.
    """
    if mount.get("type") != "sysfs" or not _has_user_namespace(spec):
        return mount
    return {**mount, "type": "bind", "source": "/sys", "options": ["bind", *(mount.get("options") or ())]}


def _disks(spec: Spec, bundle: str, place: Place) -> dict[int, str]:
    """Return where the guest has the mounts that are images, by their number."""
    volumes = mount_volumes(spec, bundle, place.storage)
    return {index: f"{STORAGE}/{volume.name}" for index, volume in volumes.items()}


def _namespaces(namespaces: Sequence[Mapping[str, Any]], place: Place) -> Iterator[dict[str, Any]]:
    for index, namespace in enumerate(namespaces):
        path = namespace.get("path") or ""
        if namespace["type"] == "network":
            continue
        if not path:
            yield dict(namespace)
            continue
        file = NAMESPACE_FILES.get(namespace["type"], namespace["type"])
        number = path.removeprefix("/proc/").removesuffix(f"/ns/{file}")
        pid = int(number) if number.isdigit() and path == f"/proc/{number}/ns/{file}" else 0
        if pid not in place.peers:
            raise InvalidArgument(
                f"linux.namespaces[{index}].path: {path}: not a namespace of another container in the same machine"
            )
        yield {**namespace, "path": f"/proc/{place.peers[pid]}/ns/{file}"}


# -- plans -------------------------------------------------------------------------------------------------------------


def plan_init(
    bundle: str,
    spec: Spec,
    container_id: str,
    options: Options,
    state: Mapping[str, Any],
    place: Place,
    compiler: Compiler | None = None,
) -> GuestPlan:
    """Plan the container's init for the guest; `compiler` is for a plan that will be carried out."""
    changed = guest_spec(spec, bundle, place)
    resources = (spec.get("linux") or {}).get("resources") or {}
    cgroup = cgroup_of(container_id)
    plan = init_plan(
        changed,
        bundle=place.directory,
        container_id=container_id,
        cgroup=GuestCgroup(cgroup),
        options=options,
        host=_guest_facts(spec),
        state=state,
        entrances=_entrances(spec),
        compiler=compiler,
    )
    if options.warn is not None:
        for path in said_in_vain(spec):
            options.warn(f"{path}: ignored")
    _log(plan, options)
    linux = spec.get("linux") or {}
    return GuestPlan(
        plan=plan,
        cgroup=cgroup,
        limits=guest_limits(resources),
        device_program=device_program_of(resources),
        uid_map=_id_map(linux.get("uidMappings")),
        gid_map=_id_map(linux.get("gidMappings")),
        time_offsets=plan.time_offsets,
    )


def plan_exec(request: ExecRequest, bundle: str, container_id: str, spec: Spec, place: Place) -> Plan:
    """Plan one more process in a container of the guest. Raises InvalidArgument."""
    changed = guest_spec(spec, bundle, place)
    kinds = [namespace["type"] for namespace in (changed.get("linux") or {}).get("namespaces") or ()]
    plan = exec_plan(
        request.process,
        changed,
        host=_guest_facts(spec),
        options=request.options,
        namespaces=kinds,
        container_id=container_id,
        entrances=_entrances(spec),
        compiler=compile_filter,
    )
    _log(plan, request.options)
    return plan


def _guest_facts(spec: Spec) -> Host:
    """Return the guest's facts. In a user namespace hard limits are all raised first: the agent's are not known."""
    return replace(GUEST, limits=dict.fromkeys(range(16), _NO_LIMIT)) if _has_user_namespace(spec) else GUEST


def _entrances(spec: Spec) -> list[str]:
    """Return the slots through which a process enters its cgroup; in a user namespace the agent has to put it there."""
    return [] if _has_user_namespace(spec) else ["cgroup"]


def _has_user_namespace(spec: Spec) -> bool:
    namespaces = (spec.get("linux") or {}).get("namespaces") or ()
    return any(namespace["type"] == "user" for namespace in namespaces)


def _id_map(mappings: Sequence[Mapping[str, Any]] | None) -> str:
    return "".join(f"{entry['containerID']} {entry['hostID']} {entry['size']}\n" for entry in mappings or ())


def _log(plan: Plan, options: Options) -> None:
    if options.warn is not None:
        for warning in plan.warnings:
            options.warn(warning)
    if options.debug is not None:
        for line in (*plan.debug, *plan.describe()):
            options.debug(line)


# -- limits ------------------------------------------------------------------------------------------------------------


def guest_limits(resources: Resources) -> list[tuple[str, str]]:
    """Return the writes into the cgroup of the guest, in order. Raises InvalidArgument."""
    from pysandbox.cgroup.resources import Knobs, v2_writes

    inside: Any = {name: resources[name] for name in _IN_GUEST if name in resources}  # type: ignore[literal-required]
    cpu = resources.get("cpu") or {}
    inside["cpu"] = {name: cpu[name] for name in _CPU_IN_GUEST if name in cpu}  # type: ignore[literal-required]
    # The guest has no swap. What is tried again on a host, once the rest is written, comes last here.
    writes = [write for write in v2_writes(inside, Knobs(swap=False)) if write.file != "memory.swap.max"]
    writes.sort(key=lambda write: write.again)
    return [(write.file, write.value) for write in writes if not write.optional]


def device_program_of(resources: Resources) -> bytes:
    """Return the program of the guest's cgroup that allows the spec's devices and no others."""
    from pysandbox.cgroup.device_program import device_program
    from pysandbox.cgroup.devices import device_policy

    return device_program(device_policy(resources.get("devices") or ()))


def common_device_programs() -> list[bytes]:
    """Return the programs of the rules that `runc spec`, docker and containerd write: most containers have one."""
    nothing: Any = {"allow": False, "access": "rwm"}
    docker = ((1, 5), (1, 3), (1, 9), (1, 8), (5, 0), (5, 1))
    containerd = ((1, 3), (1, 8), (1, 7), (5, 0), (1, 5), (1, 9), (5, 1), (136, None), (5, 2))
    fuse: Any = {"allow": False, "type": "c", "major": 10, "minor": 229, "access": "rwm"}
    rules = [
        [nothing],
        [nothing, *map(_character_device, docker), fuse],
        [nothing, *map(_character_device, containerd)],
    ]
    return [device_program_of({"devices": each}) for each in rules]


def _character_device(numbers: tuple[int, int | None]) -> Any:
    major, minor = numbers
    rule = {"allow": True, "type": "c", "major": major, "access": "rwm"}
    return rule if minor is None else {**rule, "minor": minor}


def host_resources(resources: Resources, overhead: int) -> Resources:
    """Return what limits the machine as a whole, on the host; `overhead` is in bytes."""
    outside: Any = {name: resources[name] for name in _ON_HOST if name in resources}  # type: ignore[literal-required]
    memory: Mapping[str, Any] = resources.get("memory") or {}
    limits = {name: memory[name] + overhead for name in ("limit", "swap") if (memory.get(name) or 0) > 0}
    unlimited = {name: -1 for name in ("limit", "swap") if memory.get(name) == -1}
    if limits or unlimited:
        outside["memory"] = {**limits, **unlimited}
    outside["devices"] = [
        {"allow": True, "type": "c", "major": major, "minor": minor, "access": "rwm"} for major, minor in _HOST_DEVICES
    ]
    return outside  # type: ignore[no-any-return]


def said_in_vain(spec: Spec) -> list[str]:
    """Return the JSON paths of what is asked for and has no meaning in a guest."""
    from pysandbox.cgroup.resources import ignored

    resources = (spec.get("linux") or {}).get("resources") or {}
    paths = ignored(resources, 2)
    paths += [f"linux.resources.{name}" for name in ("network", "rdma") if resources.get(name)]
    return [*dict.fromkeys(paths), *_vm_in_vain(spec.get("vm") or {})]


def _vm_in_vain(vm: Mapping[str, Any]) -> Iterator[str]:
    """Yield what of `vm` is not done: hypervisor, kernel and image are the settings' to choose."""
    for section, members in vm.items():
        for name in members:
            if f"{section}.{name}" not in _VM_DONE:
                yield f"vm.{section}.{name}"
