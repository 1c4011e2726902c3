"""The executor's vocabulary: one function for each operation, in the order in which a container is made.

A plan is a list of operations. Python decides which and in what order; the executor (`guest_agent/src/ops/`) carries
them out one after the other and stops at the first that fails. `clone` divides the list: what stands before it runs in
the *outer* process, in the caller's namespaces until `join` or `unshare` changes them; what stands after it runs in the
container's init (or, for exec, in the exec'ed process).

Words used throughout:

* **slot**: the name of a descriptor that the executor holds. The caller hands some over (`report`, `plan`, `start`,
  `process`, `cgroup`), operations make others. Every slot is CLOEXEC.
* **path** of the host: resolved by the kernel in the caller's mount namespace, before any namespace changes.
* **destination**: a path of the container, always resolved below the root by
  `openat2(RESOLVE_IN_ROOT | RESOLVE_NO_MAGICLINKS)`, never as a string.
* attribute masks are `MOUNT_ATTR_*` of mount_setattr(2); propagation is one of `MS_SHARED`, `MS_SLAVE`, `MS_PRIVATE`,
  `MS_UNBINDABLE`, 0 for "leave it".
* id maps are lists of `[container id, host id, size]`.
"""

from __future__ import annotations

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from typing import Any

    IdMaps = Sequence[tuple[int, int, int]]

#: Raised whenever an executor of the previous version could not carry a plan out.
PLAN_VERSION = 1


class Operation:
    """One step of a plan: its name and what it needs, as plain JSON values. No record: a plan makes a hundred."""

    __slots__ = ("arguments", "name")

    def __init__(self, name: str, arguments: Mapping[str, Any]) -> None:
        self.name = name
        self.arguments = arguments

    def __eq__(self, other: object) -> bool:
        """Compare name and arguments."""
        return isinstance(other, Operation) and (self.name, self.arguments) == (other.name, other.arguments)

    __hash__ = None  # type: ignore[assignment]

    def __repr__(self) -> str:
        """Show what it was made of."""
        return f"Operation({self.name!r}, {self.arguments!r})"


def _operation(name: str, /, **arguments: Any) -> Operation:
    return Operation(name, arguments)


# -- in the outer process, the caller's namespaces --------------------------------------------------------------------


def parent_death_signal(signal: int) -> Operation:
    """`PR_SET_PDEATHSIG`; 0 clears it."""
    return _operation("parent_death_signal", signal=signal)


def oom_score_adj(value: int) -> Operation:
    """Write /proc/self/oom_score_adj. Stands before `dumpable`, which would make the file root's."""
    return _operation("oom_score_adj", value=value)


def dumpable(value: bool) -> Operation:
    """`PR_SET_DUMPABLE`: off while descriptors of the host are open (CVE-2016-9962)."""
    return _operation("dumpable", value=value)


def open_tree(slot: str, path: str, *, recursive: bool, follow: bool = True, inside: bool = False) -> Operation:
    """`open_tree(OPEN_TREE_CLONE)` of a path of the host: a detached copy of the mount(s) there.

    `follow=False` refuses a symbolic link as the last component (`src-nofollow`). `inside`: in init, of a destination,
    with what is mounted there by then.
    """
    return _operation("open_tree", slot=slot, path=path, recursive=recursive, follow=follow, inside=inside)


def open_null(slot: str) -> Operation:
    """Detached bind of the host's /dev/null, verified to be the character device 1:3 (CVE-2025-31133)."""
    return _operation("open_null", slot=slot)


def open_device(slot: str, path: str, kind: str, major: int, minor: int) -> Operation:
    """Detached bind of a device node of the host (kind c, b), verified to be that device."""
    return _operation("open_device", slot=slot, path=path, kind=kind, major=major, minor=minor)


def set_attributes(
    slot: str,
    *,
    set: int = 0,  # noqa: A002
    clear: int = 0,
    propagation: int = 0,
    recursive: bool = False,
) -> Operation:
    """`mount_setattr` on a detached mount; `recursive` adds AT_RECURSIVE."""
    return _operation("set_attributes", slot=slot, set=set, clear=clear, propagation=propagation, recursive=recursive)


def id_map_mount(
    slot: str, uid_maps: IdMaps, gid_maps: IdMaps, *, recursive: bool, namespace: str | None = None
) -> Operation:
    """`MOUNT_ATTR_IDMAP` on a detached mount. The executor makes the user namespace for it and drops it again.

    `namespace` given: the user namespace at that path of the host is taken as it is, and the maps are empty.
    """
    return _operation(
        "id_map_mount", slot=slot, uid_maps=uid_maps, gid_maps=gid_maps, recursive=recursive, namespace=namespace
    )


def open_id_map(slot: str, uid_maps: IdMaps, gid_maps: IdMaps, *, namespace: str | None = None) -> Operation:
    """Open the user namespace that `id_map_mount` would take, for `request_id_map`."""
    return _operation("open_id_map", slot=slot, uid_maps=uid_maps, gid_maps=gid_maps, namespace=namespace)


def stage_mounts(path: str) -> Operation:
    """Attach all that `open_tree` and `open_null` have opened, in a new mount namespace, over the directory `path`.

    For a container with a user namespace: see `take_mounts`.
    """
    return _operation("stage_mounts", path=path)


def take_mounts() -> Operation:
    """Detach what `stage_mounts` attached, in the mount namespace that a user namespace has made since.

    The kernel has locked it then (mount_namespaces(7)): root of the user namespace can neither make writable what is
    read-only, nor take a mount away from over what it hides. One that is merely moved there would not be locked.
    """
    return _operation("take_mounts")


def join(kind: str, path: str) -> Operation:
    """Join one namespace by path. `kind` as in the spec: pid, network, mount, ipc, uts, user, cgroup, time.

    The executor opens and verifies (`NS_GET_NSTYPE`) the file, then `setns`. All paths of consecutive `join`s are
    opened before the first `setns`, because the mount namespace changes what a path means.
    """
    return _operation("join", kind=kind, path=path)


def join_process(kinds: Sequence[str]) -> Operation:
    """`setns(pidfd, …)` into the namespaces of the process in slot `process`, all at once."""
    return _operation("join_process", kinds=kinds)


def unshare(kinds: Sequence[str]) -> Operation:
    """`unshare` of all kinds in one call. pid and time take effect at `clone`."""
    return _operation("unshare", kinds=kinds)


def stop(name: str) -> Operation:
    """Report `{"stop": name}` and wait for the caller's word to go on.

    `cgroup` (the very first operation: the caller puts the outer process into the cgroup, so that init is born there),
    `id_maps` (the caller writes them), `time_offsets` (the caller writes `Plan.time_offsets`; only with a user
    namespace), `net_devices`, `runtime_created` (limits are set; prestart and createRuntime hooks run), `ready` (the
    last one of an init plan; an exec plan has only `cgroup`).
    """
    return _operation("stop", name=name)


def become_root() -> Operation:
    """`setgroups([])` where allowed, `setresgid(0,0,0)`, `setresuid(0,0,0)`: root of the user namespace entered."""
    return _operation("become_root")


def time_offsets(offsets: Sequence[tuple[str, int, int]]) -> Operation:
    """Write /proc/self/timens_offsets: (clock, seconds, nanoseconds), clock `monotonic` or `boottime`."""
    return _operation("time_offsets", offsets=offsets)


def enter_cgroups(slots: Sequence[str]) -> Operation:
    """Write `0` into each of these `tasks` files: the process moves itself into the cgroups (v1)."""
    return _operation("enter_cgroups", slots=slots)


def clone(*, into_cgroup: bool = False) -> Operation:
    """`clone3(CLONE_PARENT)`: what follows runs in the child, whose pid is reported; the outer process ends.

    CLONE_PARENT makes the child a child of the process that spawned the executor, so that it, or its subreaper, reaps.
    `into_cgroup` adds CLONE_INTO_CGROUP with the descriptor in slot `cgroup` (Linux 5.7, cgroup v2 only).
    """
    return _operation("clone", into_cgroup=into_cgroup)


# -- in the container's init, before the root changes -----------------------------------------------------------------


def new_session() -> Operation:
    """`setsid`."""
    return _operation("new_session")


def keyring(name: str, *, permission: int = 0x80000) -> Operation:
    """`KEYCTL_JOIN_SESSION_KEYRING` of a new ring, then KEYCTL_SETPERM with `permission` added: who may search it.

    The default is KEY_USR_SEARCH. A kernel without keyrings (ENOSYS) is no error.
    """
    return _operation("keyring", name=name, permission=permission)


def loopback() -> Operation:
    """Bring `lo` up in a new network namespace."""
    return _operation("loopback")


def root_propagation(flags: int) -> Operation:
    """`mount(NULL, "/", NULL, flags, NULL)`: flags are MS_SLAVE|MS_REC, MS_PRIVATE|MS_REC, …"""
    return _operation("root_propagation", flags=flags)


def attach_root(slot: str, path: str | None = None) -> Operation:
    """Put the detached rootfs into this mount namespace and make it what destinations resolve in: slot `root`.

    It goes to `path`, the host's path of it, where hooks of the host find it until the root changes; over "/" where
    that path is not to be had in this mount and user namespace.
    """
    return _operation("attach_root", slot=slot, path=path)


def open_root(path: str) -> Operation:
    """Open a directory of the host as slot `root`, mounting nothing: where the container has no mount namespace."""
    return _operation("open_root", path=path)


def use_root() -> Operation:
    """Make the process's present root what destinations resolve in: slot `root`. For exec."""
    return _operation("use_root")


def open_proc() -> Operation:
    """A private, detached procfs of the container's pid namespace in slot `proc`: all later writes to /proc use it."""
    return _operation("open_proc")


def mount_bind(slot: str, destination: str, *, on_proc: bool = False, follow: bool = True) -> Operation:
    """`move_mount` of a detached mount onto a destination, made if missing (a directory or a file, as the source is).

    `on_proc=False` refuses a destination that lies on procfs; `follow=False` refuses symbolic links in it.
    """
    return _operation("mount_bind", slot=slot, destination=destination, on_proc=on_proc, follow=follow)


def mount_filesystem(
    kind: str,
    source: str | None,
    destination: str,
    *,
    options: Sequence[tuple[str, str | None]] = (),
    attributes: int = 0,
    propagation: int = 0,
    recursive_set: int = 0,
    recursive_clear: int = 0,
    follow: bool = True,
    copy_up: bool = False,
    legacy_flags: int | None = None,
    legacy_data: str | None = None,
    keep_mode: bool = False,
) -> Operation:
    """`fsopen`, `fsconfig` of each option (key, value or None for a flag), `fsmount`, then `move_mount`.

    `follow=False` demands that the destination be a real directory without a symbolic link in its path: for procfs and
    sysfs (CVE-2019-19921). `copy_up` copies what the destination holds into the new tmpfs before it is attached.
    `legacy_flags`/`legacy_data` given: use mount(2) on the resolved destination instead, for file systems or options
    that fsconfig(2) cannot take (values of 256 bytes and more). `keep_mode`: a destination that exists gives the new
    tmpfs its mode.
    """
    return _operation(
        "mount_filesystem", kind=kind, source=source, destination=destination, options=options, attributes=attributes,
        propagation=propagation, recursive_set=recursive_set, recursive_clear=recursive_clear, follow=follow,
        copy_up=copy_up, legacy_flags=legacy_flags, legacy_data=legacy_data, keep_mode=keep_mode,
    )  # fmt: skip


def remount(
    destination: str,
    *,
    set: int = 0,  # noqa: A002
    clear: int = 0,
    propagation: int = 0,
    recursive: bool = False,
) -> Operation:
    """`mount_setattr` on the mount whose root is `destination`."""
    return _operation(
        "remount", destination=destination, set=set, clear=clear, propagation=propagation, recursive=recursive
    )


def request_id_map(slot: str, map_slot: str, *, recursive: bool) -> Operation:
    """Have the caller set `MOUNT_ATTR_IDMAP` on a detached mount, with the user namespace in `map_slot`.

    Only who has privileges over the file system's own user namespace may: not init, once it has entered another one.
    Sends both as descriptors `id_map` and `mount`, then waits as in `stop`: `id_map_mount`, `id_map_tree` if recursive.
    """
    return _operation("request_id_map", slot=slot, map_slot=map_slot, recursive=recursive)


def make_device(path: str, kind: str, major: int, minor: int, mode: int, uid: int, gid: int) -> Operation:
    """`mknodat` of a device (kind c, b, p) at a destination, exact mode and owner; a right node that exists is kept."""
    return _operation("make_device", path=path, kind=kind, major=major, minor=minor, mode=mode, uid=uid, gid=gid)


def make_link(path: str, target: str, *, replace: bool = False) -> Operation:
    """Symbolic link at a destination; `replace` removes what is there first (/dev/ptmx), else it is kept."""
    return _operation("make_link", path=path, target=target, replace=replace)


def make_directory(path: str, mode: int = 0o755) -> Operation:
    """Directory at a destination with its parents; an existing one is kept."""
    return _operation("make_directory", path=path, mode=mode)


def run_hooks(kind: str, hooks: Sequence[Mapping[str, Any]], state: Mapping[str, Any]) -> Operation:
    """Run OCI hooks in this process's namespaces: {path, args, env, timeout}, `state` on stdin with `pid` filled in."""
    return _operation("run_hooks", kind=kind, hooks=hooks, state=state)


# -- changing the root, and what needs the new one ---------------------------------------------------------------------


def pivot_root() -> Operation:
    """`pivot_root(".", ".")`, the old root made a slave and detached."""
    return _operation("pivot_root")


def move_root() -> Operation:
    """`MS_MOVE` of the root and chroot, after /proc and /sys of the host are unmounted: `--no-pivot`."""
    return _operation("move_root")


def change_root() -> Operation:
    """Plain chroot: where the spec gives the container no mount namespace."""
    return _operation("change_root")


def console(*, width: int, height: int, bind: bool, uid: int, plain_newlines: bool = False) -> Operation:
    """Open a pty of the container's devpts, send its master as descriptor `console`, make its slave stdio and the
    controlling terminal; `bind` also mounts the slave on /dev/console. Uses TIOCGPTPEER (CVE-2025-52565).

    `plain_newlines` clears ONLCR.
    """
    return _operation("console", width=width, height=height, bind=bind, uid=uid, plain_newlines=plain_newlines)


def own_stdio(uid: int) -> Operation:
    """`fchown` stdin, stdout, stderr to the process's user, except /dev/null and what another user owns."""
    return _operation("own_stdio", uid=uid)


def hostname(name: str) -> Operation:
    """`sethostname`."""
    return _operation("hostname", name=name)


def domainname(name: str) -> Operation:
    """`setdomainname`."""
    return _operation("domainname", name=name)


def sysctl(key: str, value: str) -> Operation:
    """Write sys/<key with / for .> of slot `proc`, verified to be procfs."""
    return _operation("sysctl", key=key, value=value)


def readonly_path(path: str) -> Operation:
    """Make a destination read-only by a recursive bind of itself; a missing one is skipped."""
    return _operation("readonly_path", path=path)


def mask_path(path: str) -> Operation:
    """Hide a destination: a file under the host's null (slot `null`), a directory under an empty read-only tmpfs."""
    return _operation("mask_path", path=path)


# -- the process -------------------------------------------------------------------------------------------------------


def umask(value: int) -> Operation:
    """`umask`."""
    return _operation("umask", value=value)


def no_new_privileges() -> Operation:
    """`PR_SET_NO_NEW_PRIVS`."""
    return _operation("no_new_privileges")


def apparmor(profile: str) -> Operation:
    """Write `exec <profile>` to attr/apparmor/exec (or attr/exec) of slot `proc`."""
    return _operation("apparmor", profile=profile)


def selinux(label: str) -> Operation:
    """Write the label to attr/exec of slot `proc`."""
    return _operation("selinux", label=label)


def scheduler(policy: int, flags: int, nice: int, priority: int, runtime: int, deadline: int, period: int) -> Operation:
    """`sched_setattr`."""
    return _operation(
        "scheduler",
        policy=policy,
        flags=flags,
        nice=nice,
        priority=priority,
        runtime=runtime,
        deadline=deadline,
        period=period,
    )


def io_priority(value: int) -> Operation:
    """`ioprio_set(IOPRIO_WHO_PROCESS, 0, value)`: class and level packed as the kernel does."""
    return _operation("io_priority", value=value)


def personality(value: int) -> Operation:
    """`personality`."""
    return _operation("personality", value=value)


def memory_policy(mode: int, nodes: Sequence[int]) -> Operation:
    """`set_mempolicy`: mode with its flags, node numbers."""
    return _operation("memory_policy", mode=mode, nodes=nodes)


def cpu_affinity(cpus: Sequence[int]) -> Operation:
    """`sched_setaffinity`."""
    return _operation("cpu_affinity", cpus=cpus)


def rlimit(resource: int, soft: int, hard: int) -> Operation:
    """`prlimit`: RLIMIT_* number, limits (2**64-1 is infinity)."""
    return _operation("rlimit", resource=resource, soft=soft, hard=hard)


def home(uid: int) -> Operation:
    """Set HOME for `execute` from /etc/passwd in the root: the sixth field of the first line with that uid, else `/`.

    Only a regular file of at most 1 MiB is read, from slot `root`; whatever is wrong with it, HOME is `/`.
    """
    return _operation("home", uid=uid)


def find_program(name: str, path: str, cwd: str) -> Operation:
    """Look the program up as execvp(3) would, in the container: ENOENT and EACCES are found out before `ready`."""
    return _operation("find_program", name=name, path=path, cwd=cwd)


def seccomp(program: str, flags: int, *, listener: bool = False) -> Operation:
    """`seccomp(SECCOMP_SET_MODE_FILTER)`: base64 of struct sock_filter[]. `listener` reports the notify descriptor's
    number as `{"listener": N}` and waits for the caller to have fetched it with pidfd_getfd(2)."""
    return _operation("seccomp", program=program, flags=flags, listener=listener)


def change_directory(path: str) -> Operation:
    """`chdir`, then verify that it lies inside the root (CVE-2024-21626).

    EACCES as root is tried again as the user: the executor does so in `credentials`.
    """
    return _operation("change_directory", path=path)


def credentials(
    *, uid: int, gid: int, groups: Sequence[int] | None, bounding: int, effective: int, permitted: int,
    inheritable: int, ambient: int,
) -> Operation:  # fmt: skip
    """Bounding set dropped, KEEPCAPS, setgroups (None: leave them), setresgid, setresuid, verified; capset; ambient.

    Sets are bit masks, bit N for capability N.
    """
    return _operation(
        "credentials", uid=uid, gid=gid, groups=groups, bounding=bounding, effective=effective, permitted=permitted,
        inheritable=inheritable, ambient=ambient,
    )  # fmt: skip


def wait_start() -> Operation:
    """Read one byte from slot `start` (a FIFO opened read-write by `create`): `start` writes it."""
    return _operation("wait_start")


def close_descriptors(preserve: int) -> Operation:
    """Close every descriptor from 3+preserve on, but the report socket and slot `start`, both CLOEXEC."""
    return _operation("close_descriptors", preserve=preserve)


def execute(args: Sequence[str], env: Sequence[str]) -> Operation:
    """`execve` of what `find_program` found. Does not return."""
    return _operation("execute", args=args, env=env)
