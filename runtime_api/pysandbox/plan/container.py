"""The plan of a container's init: what runc does, in runc's order, as operations.

Decisions of this module:

* The whole tree of the new mount namespace becomes rslave (rprivate if the spec asks for a private root), so attaching
  anything in it reaches nobody. What `linux.rootfsPropagation` says is given to the clones of bind mounts first and to
  the container's root at the end, after `pivot_root`, which refuses a shared one.
* The working directory is made right after the root changes, before it becomes read-only.
* Masked and read-only paths without a mount namespace of the container would change the host: refused. Its mounts are
  made in the host's, below the rootfs; whoever makes the container takes them away with it.
"""

from __future__ import annotations

import posixpath

from pysandbox.errors import InvalidArgument
from pysandbox.oci import mountoptions as mo
from pysandbox.plan import operation as op
from pysandbox.plan.devices import absolute, plan_devices
from pysandbox.plan.mounts import Surroundings, plan_mounts
from pysandbox.plan.namespaces import enter, id_maps, offsets_text, read_namespaces
from pysandbox.plan.plan import Plan
from pysandbox.plan.process import (
    execute,
    hook_environment,
    outer_beginning,
    process_part,
    raise_limits,
    session_keyring,
    standard_streams,
    umask_of,
)
from pysandbox.plan.steps import Steps

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from typing import Any, Protocol

    from pysandbox.backend import Options
    from pysandbox.oci.types import Linux, Spec
    from pysandbox.plan.filter import Compiler
    from pysandbox.plan.host import Host
    from pysandbox.plan.mounts import CgroupMount
    from pysandbox.plan.namespaces import Namespaces
    from pysandbox.plan.operation import Operation

    class Cgroup(Protocol):
        """What planning asks of a cgroup."""

        def mounts(self) -> Sequence[CgroupMount]:
            """Return what a mount of type `cgroup` is made of."""


def init_plan(
    spec: Spec,
    *,
    bundle: str,
    container_id: str,
    host: Host,
    options: Options,
    state: Mapping[str, Any],
    cgroup: Cgroup | None = None,
    preserved: int = 0,
    entrances: Sequence[str] = (),
    compiler: Compiler | None = None,
) -> Plan:
    """Plan a container up to its program, which waits for `start`.

    `spec` is validated; `bundle` is absolute, relative paths start there. `state` is the OCI state document for hooks
    that run inside, `entrances` are the slots of its cgroup, `compiler` is as in `exec_plan`. Stops, in order: cgroup,
    id_maps, time_offsets, net_devices, those of `request_id_map`, runtime_created, ready, each only where it is needed.
    Raises InvalidArgument with the JSON path.
    """
    if "process" not in spec:
        raise InvalidArgument("process: missing, and a container needs one")
    process = spec["process"]
    linux = spec.get("linux") or {}
    namespaces = read_namespaces(linux)
    _check_mount_namespace(linux, namespaces)
    warnings: list[str] = []
    debug: list[str] = []
    propagation = _root_propagation(linux, options)
    rootfs = posixpath.join(bundle, spec["root"]["path"])
    around = _surroundings(bundle, rootfs, linux, namespaces, host, cgroup, propagation)
    mounts = plan_mounts(spec.get("mounts") or (), around)
    devices = plan_devices(spec, host, user_namespace=namespaces.has("user"))
    proc = _procfs(spec, linux, namespaces)
    staged = namespaces.has("user") and namespaces.is_new("mount")
    operations = [
        *outer_beginning(process, host.cpus, entrances),
        *_open_rootfs(rootfs, namespaces),
        *mounts.outer,
        *_set_slaves(devices.outer),
        *_open_null(linux),
        *proc.outer,
        *raise_limits(process, host, user_namespace=namespaces.has("user")),
        *([op.stage_mounts(rootfs)] if staged else []),
        *enter(namespaces, linux),
        *([op.take_mounts()] if staged else []),
        op.clone(into_cgroup="cgroup" in entrances),
        *_begin(container_id, options, linux, namespaces),
        *_attach_rootfs(rootfs, namespaces, propagation),
        *proc.inner,
        *mounts.inner,
        *devices.inner,
        op.stop("runtime_created"),
        *_hooks(spec, "createContainer", state, "creating"),
        *_change_root(namespaces, options, propagation),
        *_make_cwd(process["cwd"]),
        standard_streams(process, options, bind=namespaces.has("mount")),
        *mounts.late,
        *_readonly_root(spec, namespaces),
        *_identity(spec, linux, namespaces),
        op.umask(umask_of(process)),
        *process_part(process, spec, host, warnings, debug, preserved=preserved, compiler=compiler),
        op.stop("ready"),
        op.wait_start(),
        *_hooks(spec, "startContainer", state, "created", hook_environment(process)),
        execute(process),
    ]
    return Plan(
        operations=operations,
        trace=options.trace is not None,
        warnings=warnings,
        debug=debug,
        time_offsets=offsets_text(linux),
    )


def _check_mount_namespace(linux: Linux, namespaces: Namespaces) -> None:
    if namespaces.has("mount"):
        return
    if linux.get("maskedPaths") or linux.get("readonlyPaths"):
        where = "maskedPaths" if linux.get("maskedPaths") else "readonlyPaths"
        raise InvalidArgument(f"linux.{where}: unable to restrict sys entries without a private MNT namespace")


def _root_propagation(linux: Linux, options: Options) -> int:
    name = linux.get("rootfsPropagation") or ""
    propagation = mo.MOUNT_OPTIONS[name].propagation if name in mo.MOUNT_OPTIONS else 0
    if name and not propagation:
        raise InvalidArgument(f"linux.rootfsPropagation: {name!r} is not supported")
    if options.no_pivot and propagation & mo.MS_PRIVATE:
        raise InvalidArgument("linux.rootfsPropagation: [r]private is not safe without pivot_root")
    return propagation


def _surroundings(
    bundle: str,
    rootfs: str,
    linux: Linux,
    namespaces: Namespaces,
    host: Host,
    cgroup: Cgroup | None,
    propagation: int,
) -> Surroundings:
    label = linux.get("mountLabel") or ""
    if label and not host.selinux:
        raise InvalidArgument(f"linux.mountLabel: {label}: SELinux is not enabled on this host")
    return Surroundings(
        bundle=bundle,
        rootfs=posixpath.normpath(rootfs),
        propagation=_clone_propagation(propagation),
        user_namespace=namespaces.has("user"),
        user_path=namespaces.paths.get("user", ""),
        uid_maps=id_maps(linux.get("uidMappings")) if namespaces.has("user") else (),
        gid_maps=id_maps(linux.get("gidMappings")) if namespaces.has("user") else (),
        cgroup_namespace=namespaces.has("cgroup"),
        cgroup_mounts=cgroup.mounts if cgroup is not None else tuple,
        label=label,
    )


def _clone_propagation(root: int) -> int:
    """Return what a clone of a bind's source gets: a shared root leaves it a peer of its source, as the user asked.

    Private and slave are given to all of the clone. An unbindable one could not even be cloned: slave does.
    """
    if root & mo.MS_SHARED:
        return 0
    return (mo.MS_PRIVATE if root & mo.MS_PRIVATE else mo.MS_SLAVE) | mo.MS_REC


def _open_rootfs(path: str, namespaces: Namespaces) -> list[Operation]:
    """Clone the rootfs with all that is mounted in it; nothing of it may be shared when `pivot_root` comes."""
    if not namespaces.has("mount"):
        return [op.open_root(path)]
    return [
        op.open_tree("rootfs", path, recursive=True),
        op.set_attributes("rootfs", propagation=mo.MS_SLAVE, recursive=True),
    ]


def _begin(container_id: str, options: Options, linux: Linux, namespaces: Namespaces) -> list[Operation]:
    """Begin in init: PDEATHSIG again, since clone(2) does not hand it on."""
    operations = [op.parent_death_signal(9)]
    if namespaces.is_new("cgroup"):
        operations.append(op.unshare(["cgroup"]))
    operations.append(op.new_session())
    operations += session_keyring(container_id, options, user_namespace=namespaces.has("user"))
    return operations + _network(linux, namespaces)


def _attach_rootfs(path: str, namespaces: Namespaces, propagation: int) -> list[Operation]:
    if not namespaces.has("mount"):
        return []
    kind = mo.MS_PRIVATE if propagation & mo.MS_PRIVATE else mo.MS_SLAVE
    return [op.root_propagation(kind | mo.MS_REC), op.attach_root("rootfs", path)]


def _readonly_root(spec: Spec, namespaces: Namespaces) -> list[Operation]:
    if not spec["root"].get("readonly") or not namespaces.has("mount"):
        return []
    return [op.remount("/", set=mo.MOUNT_ATTR_RDONLY)]


def _set_slaves(opened: Sequence[Operation]) -> list[Operation]:
    operations = []
    for operation in opened:
        operations += [operation, op.set_attributes(operation.arguments["slot"], propagation=mo.MS_SLAVE)]
    return operations


def _open_null(linux: Linux) -> list[Operation]:
    """Open what masks files, read-only: it is a node of the host, and root of the container could chmod it."""
    if not linux.get("maskedPaths"):
        return []
    attributes = mo.MOUNT_ATTR_RDONLY | mo.MOUNT_ATTR_NOSUID | mo.MOUNT_ATTR_NOEXEC
    return [op.open_null("null"), op.set_attributes("null", set=attributes, propagation=mo.MS_PRIVATE)]


def _procfs(spec: Spec, linux: Linux, namespaces: Namespaces) -> Steps:
    """Open a private procfs where something is written to it.

    In a user namespace only the owner of the pid namespace may mount one; the host's is cloned outside instead.
    """
    process = spec["process"]
    if not (linux.get("sysctl") or process.get("apparmorProfile") or process.get("selinuxLabel")):
        return Steps()
    if namespaces.has("user") and not namespaces.has("pid"):
        return Steps(outer=[op.open_tree("proc", "/proc", recursive=False)])
    return Steps(inner=[op.open_proc()])


def _network(linux: Linux, namespaces: Namespaces) -> list[Operation]:
    operations = []
    if namespaces.is_new("network"):
        operations.append(op.loopback())
    if linux.get("netDevices"):
        if not namespaces.has("network"):
            raise InvalidArgument("linux.netDevices: needs a network namespace")
        operations.append(op.stop("net_devices"))
    return operations


def _hooks(spec: Spec, kind: str, state: Mapping[str, Any], status: str, env: Sequence[str] = ()) -> list[Operation]:
    """Run hooks inside. `env` is for those without one of their own: startContainer's get the process's, as in runc."""
    hooks = (spec.get("hooks") or {}).get(kind)
    if not hooks:
        return []
    complete = [{"env": list(env), **hook} for hook in hooks] if env else hooks  # type: ignore[attr-defined]
    return [op.run_hooks(kind, complete, {**state, "status": status})]  # type: ignore[arg-type]


def _change_root(namespaces: Namespaces, options: Options, propagation: int) -> list[Operation]:
    if not namespaces.has("mount"):
        return [op.change_root()]
    change = op.move_root() if options.no_pivot else op.pivot_root()
    if not propagation:
        return [change]
    recursive = bool(propagation & mo.MS_REC)
    return [change, op.remount("/", propagation=propagation & ~mo.MS_REC, recursive=recursive)]


def _make_cwd(cwd: str) -> list[Operation]:
    path = absolute(cwd)
    return [] if path == "/" else [op.make_directory(path)]


def _identity(spec: Spec, linux: Linux, namespaces: Namespaces) -> list[Operation]:
    """Plan names, sysctls and what the container may not see or write."""
    operations = []
    for key, operation in (("hostname", op.hostname), ("domainname", op.domainname)):
        name = spec.get(key)
        if name:
            if not namespaces.has("uts"):
                raise InvalidArgument(f"{key}: unable to set {key} without a private UTS namespace")
            operations.append(operation(str(name)))
    operations += [op.sysctl(key, value) for key, value in (linux.get("sysctl") or {}).items()]
    operations += [op.readonly_path(path) for path in dict.fromkeys(linux.get("readonlyPaths") or ())]
    operations += [op.mask_path(path) for path in dict.fromkeys(linux.get("maskedPaths") or ())]
    return operations
