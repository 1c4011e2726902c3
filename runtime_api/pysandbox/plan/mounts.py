"""Mounts of the spec: sources taken and prepared outside, attached inside, in the spec's order.

A bind mount is a detached clone of its source. It gets everything that makes it what the spec says (propagation, id
map, attributes, recursive attributes, in this order) while nobody can see it, and is then moved to its destination.

Decisions, each as runc has it unless said otherwise:

* The first thing every clone gets is the propagation of `linux.rootfsPropagation`, rslave if unset: a clone of a shared
  mount would otherwise carry what the container mounts below it back to the host.
* A bind mount without any per-mount option keeps its source's; with one, it has exactly those that are listed. The
  access time counts as one option of its own. In a user namespace what is not mentioned stays set: there the kernel
  locks it too.
* `ro` of a tmpfs is done at the end (`late`), because mount points and devices may have to be made in it.
* A tmpfs without `mode=` takes the mode of the directory it hides.
* A source in the rootfs itself is opened when its turn comes, so that it shows what was mounted there before, and is
  looked up as a path of the container: a link in an image leads nowhere else. Its id map is then set by the caller.
* Nothing is mounted below /proc but what LXCFS provides, and on /proc itself only procfs (CVE-2019-16884). The executor
  checks the same on what the destination really is.
* /proc and /sys are attached to real directories only (CVE-2019-19921).
* cgroup on v1: a tmpfs with a directory per hierarchy. On v2 cgroup2 itself; where a user namespace without a cgroup
  namespace forbids that, a bind of the container's own cgroup. A container that shares the host's own cgroup namespace
  gets a clone of the host's mount: a new one would show the same, but set the flags of the whole hierarchy anew
  (`nsdelegate`, `memory_recursiveprot`) and wait 10 to 20 ms for it (cgroup_get_tree in the kernel's cgroup.c).
* `remount` without `bind`, options of 256 bytes and more, `iversion` and data with an escaped comma go through
  mount(2): fsconfig(2) cannot say them.
"""

from __future__ import annotations

import posixpath

from pysandbox.errors import InvalidArgument
from pysandbox.oci import mountoptions as mo
from pysandbox.oci.mountoptions import is_bind, parse_mount_options
from pysandbox.plan import operation as op
from pysandbox.plan.devices import absolute
from pysandbox.plan.namespaces import id_maps, is_mapped
from pysandbox.plan.steps import Steps
from pysandbox.record import dataclass

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from typing import Protocol

    from pysandbox.oci.mountoptions import ParsedOptions
    from pysandbox.oci.types import Mount
    from pysandbox.plan.operation import Operation

    class CgroupMount(Protocol):
        """One hierarchy, as `pysandbox.cgroup` describes it: read its `CgroupMount`."""

        @property
        def version(self) -> int: ...  # noqa: D102
        @property
        def name(self) -> str: ...  # noqa: D102
        @property
        def source(self) -> str: ...  # noqa: D102
        @property
        def options(self) -> str: ...  # noqa: D102
        @property
        def links(self) -> Sequence[str]: ...  # noqa: D102
        @property
        def whole(self) -> str: ...  # noqa: D102


#: What LXCFS and the like put over procfs; runc allows the same.
ALLOWED_UNDER_PROC = frozenset(
    "/proc/" + name
    for name in (
        "cpuinfo", "diskstats", "meminfo", "stat", "swaps", "uptime", "loadavg", "slabinfo", "sys/kernel/ns_last_pid",
        "sys/crypto/fips_enabled",
    )
)  # fmt: skip
#: File systems without a superblock of their own to be read-only: the mount's attribute says it all.
_KERNEL_FILESYSTEMS = frozenset(
    ("proc", "sysfs", "tmpfs", "devpts", "mqueue", "cgroup", "cgroup2", "securityfs", "bpf")
)
#: No SELinux label can be given to these.
_UNLABELLED = frozenset(("proc", "sysfs", "cgroup", "cgroup2"))
_PER_MOUNT = (
    mo.MS_RDONLY | mo.MS_NOSUID | mo.MS_NODEV | mo.MS_NOEXEC | mo.MS_NOSYMFOLLOW | mo.MS_NOATIME | mo.MS_NODIRATIME
    | mo.MS_RELATIME | mo.MS_STRICTATIME | mo.MS_SYNCHRONOUS | mo.MS_DIRSYNC | mo.MS_MANDLOCK
)  # fmt: skip
_ATIME = mo.MS_NOATIME | mo.MS_NODIRATIME | mo.MS_RELATIME | mo.MS_STRICTATIME
_ACCESS = mo.MOUNT_ATTR_RDONLY | mo.MOUNT_ATTR_NOSUID | mo.MOUNT_ATTR_NODEV | mo.MOUNT_ATTR_NOEXEC
_LONGEST_VALUE = 255  # fsconfig(2) takes strings of up to 256 bytes with the terminating NUL
_LONGEST_DATA = 4095  # mount(2) takes one page


@dataclass(slots=True, kw_only=True)
class Surroundings:
    """What mounts depend on beside themselves.

    `rootfs` is its path on the host: a destination that begins with it is one inside, as runc has always taken it.
    `propagation` is given to every clone first. `user_path` is the joined user namespace, empty for a new one.
    """

    bundle: str
    propagation: int
    rootfs: str = ""
    user_namespace: bool = False
    user_path: str = ""
    uid_maps: Sequence[tuple[int, int, int]] = ()
    gid_maps: Sequence[tuple[int, int, int]] = ()
    cgroup_namespace: bool = False
    cgroup_mounts: Callable[[], Sequence[CgroupMount]] = tuple
    label: str = ""


def plan_mounts(mounts: Sequence[Mount], around: Surroundings) -> Steps:
    """Plan all mounts of a spec."""
    steps = Steps()
    for index, mount in enumerate(mounts):
        _plan_mount(steps, f"mounts[{index}]", f"mount{index}", mount, around)
    return steps


def _plan_mount(steps: Steps, where: str, slot: str, mount: Mount, around: Surroundings) -> None:
    options = parse_mount_options(mount.get("options") or ())
    destination = _inside(absolute(mount["destination"]), around.rootfs)
    kind = mount.get("type") or ""
    _check_id_map(where, mount, options)
    if is_bind(mount):
        _check_destination(where, destination, procfs=mount.get("source") == "/proc")
        _bind(steps, where, slot, mount, destination, options, around)
    elif options.set_flags & mo.MS_REMOUNT:
        _remount(steps, where, mount, destination, options)
    elif kind == "cgroup":
        _check_destination(where, destination)
        _cgroup(steps, slot, destination, options, around)
    elif not kind:
        raise InvalidArgument(f"{where}.type: missing, and the options say neither bind nor remount")
    else:
        _check_destination(where, destination, procfs=kind == "proc")
        _filesystem(steps, where, kind, mount, destination, options, around)


def _inside(destination: str, rootfs: str) -> str:
    if rootfs and (destination + "/").startswith(rootfs + "/"):
        return destination[len(rootfs) :] or "/"
    return destination


def _check_destination(where: str, destination: str, *, procfs: bool = False) -> None:
    if destination == "/":
        raise InvalidArgument(f"{where}.destination: cannot mount over the container's root")
    below_proc = destination == "/proc" or destination.startswith("/proc/")
    if below_proc and destination not in ALLOWED_UNDER_PROC and not (procfs and destination == "/proc"):
        raise InvalidArgument(f"{where}.destination: {destination} cannot be mounted because it is inside /proc")


# -- bind mounts ------------------------------------------------------------------------------------------------------


def _bind(
    steps: Steps, where: str, slot: str, mount: Mount, destination: str, options: ParsedOptions, around: Surroundings
) -> None:
    source = mount.get("source")
    if not source:
        raise InvalidArgument(f"{where}.source: missing, and a bind mount needs one")
    follow = "src-nofollow" not in options.extensions
    source = posixpath.join(around.bundle, source)
    place = _in_rootfs(source, around)
    opening = steps.outer if place is None else steps.inner
    opening.append(
        op.open_tree(slot, place or source, recursive=options.recursive, follow=follow, inside=place is not None)
    )
    opening += clone_propagation(slot, around.propagation)
    _id_map(steps, where, slot, mount, options, around, inside=place is not None)
    opening += _bind_attributes(slot, options, user_namespace=around.user_namespace)
    # A shared mount becomes a slave on its way into a user namespace (`take_mounts`): it is made shared again there.
    (steps.inner if around.user_namespace else opening).extend(_bind_propagation(slot, options))
    opening += _recursive_attributes(slot, options)
    on_proc = destination in ALLOWED_UNDER_PROC
    follow = "dest-nofollow" not in options.extensions and destination not in ("/proc", "/sys")
    steps.inner.append(op.mount_bind(slot, destination, on_proc=on_proc, follow=follow))


def _in_rootfs(source: str, around: Surroundings) -> str | None:
    """Return a source that lies in the rootfs as a path of the container; None for any other."""
    path = posixpath.normpath(source)
    inside = _inside(path, around.rootfs)
    return None if inside == path else inside


def clone_propagation(slot: str, propagation: int) -> list[Operation]:
    """Give a fresh clone the propagation of the container's tree; 0 leaves it a peer of its source."""
    if not propagation:
        return []
    recursive = bool(propagation & mo.MS_REC)
    return [op.set_attributes(slot, propagation=propagation & ~mo.MS_REC, recursive=recursive)]


def _check_id_map(where: str, mount: Mount, options: ParsedOptions) -> None:
    mapped = "uidMappings" in mount or "gidMappings" in mount
    if (mapped or not options.extensions.isdisjoint(("idmap", "ridmap"))) and not is_bind(mount):
        raise InvalidArgument(f"{where}.options: id-mapped mounts are only supported for bind mounts")
    if mapped and not (mount.get("uidMappings") and mount.get("gidMappings")):
        raise InvalidArgument(f"{where}: an id-mapped mount needs both uidMappings and gidMappings")


def _id_map(
    steps: Steps, where: str, slot: str, mount: Mount, options: ParsedOptions, around: Surroundings, *, inside: bool
) -> None:
    recursive = "ridmap" in options.extensions
    uids, gids = id_maps(mount.get("uidMappings")), id_maps(mount.get("gidMappings"))
    if not uids and not recursive and "idmap" not in options.extensions:
        return
    namespace = None if uids else around.user_path or None
    if not uids and not namespace:
        uids, gids = list(around.uid_maps), list(around.gid_maps)
        if not uids:
            raise InvalidArgument(f"{where}.options: idmap needs mappings of the mount, or a user namespace")
    if inside:
        steps.outer.append(op.open_id_map(f"{slot}_ids", uids, gids, namespace=namespace))
        steps.inner.append(op.request_id_map(slot, f"{slot}_ids", recursive=recursive))
    else:
        steps.outer.append(op.id_map_mount(slot, uids, gids, recursive=recursive, namespace=namespace))


def _bind_attributes(slot: str, options: ParsedOptions, *, user_namespace: bool) -> list[Operation]:
    if not (options.set_flags | options.clear_flags) & _PER_MOUNT:
        return []
    set_, clear = _exact_attributes(options, keep=user_namespace)
    return [op.set_attributes(slot, set=set_, clear=clear)]


def _recursive_attributes(slot: str, options: ParsedOptions) -> list[Operation]:
    if not options.set_recursive | options.clear_recursive:
        return []
    set_, clear = _whole_atime(options.set_recursive, options.clear_recursive)
    return [op.set_attributes(slot, set=set_, clear=clear, recursive=True)]


def _bind_propagation(slot: str, options: ParsedOptions) -> list[Operation]:
    return [
        op.set_attributes(slot, propagation=flags & ~mo.MS_REC, recursive=bool(flags & mo.MS_REC))
        for flags in options.propagation
    ]


def _exact_attributes(options: ParsedOptions, *, keep: bool) -> tuple[int, int]:
    """Return the attributes to set and to clear so that the mount has the listed ones; `keep` the unmentioned ones."""
    clear = options.clear_attributes
    if not keep:
        clear |= _ACCESS
    if options.set_flags & _ATIME:
        clear |= mo.MOUNT_ATTR__ATIME | mo.MOUNT_ATTR_NODIRATIME
    return _whole_atime(options.set_attributes, clear)


def _whole_atime(set_: int, clear: int) -> tuple[int, int]:
    """Return the masks as mount_setattr(2) wants them: the access time is cleared whole, nothing else is in both."""
    if (set_ | clear) & mo.MOUNT_ATTR__ATIME:
        return set_, clear & ~set_ | mo.MOUNT_ATTR__ATIME
    return set_, clear & ~set_


# -- file systems -----------------------------------------------------------------------------------------------------


def _filesystem(
    steps: Steps, where: str, kind: str, mount: Mount, destination: str, options: ParsedOptions, around: Surroundings
) -> None:
    data = _data(where, kind, options, around)
    late_readonly = options.set_flags & mo.MS_RDONLY and (kind == "tmpfs" or destination == "/dev")
    if late_readonly:
        options.set_attributes &= ~mo.MOUNT_ATTR_RDONLY
        options.set_flags &= ~mo.MS_RDONLY
        steps.late.append(op.remount(destination, set=mo.MOUNT_ATTR_RDONLY))
    legacy = _needs_mount2(options, data)
    set_, clear = _whole_atime(options.set_recursive, options.clear_recursive)
    propagation = options.propagation[:1] or [0]
    steps.inner.append(
        op.mount_filesystem(
            kind,
            mount.get("source") or kind,
            destination,
            options=[] if legacy else _superblock(kind, options) + _pairs(data),
            attributes=options.set_attributes,
            propagation=propagation[0] & ~mo.MS_REC,
            recursive_set=set_,
            recursive_clear=clear,
            follow=kind not in ("proc", "sysfs") and "dest-nofollow" not in options.extensions,
            copy_up=kind == "tmpfs" and "tmpcopyup" in options.extensions,
            legacy_flags=options.set_flags if legacy else None,
            legacy_data=_joined(where, data) if legacy else None,
            keep_mode=kind == "tmpfs" and not any(entry.startswith("mode=") for entry in data),
        )
    )
    steps.inner += [op.remount(destination, propagation=flags & ~mo.MS_REC) for flags in options.propagation[1:]]


def _data(where: str, kind: str, options: ParsedOptions, around: Surroundings) -> list[str]:
    """Return the file system's own options one by one. One of the spec's may hold several, as mount(2)'s data does."""
    data = [part for entry in options.data for part in (entry.split(",") if "\\," not in entry else [entry]) if part]
    if around.user_namespace and kind in ("tmpfs", "devpts"):
        for entry in data:
            _check_owner(where, entry, around)
    if around.label and kind not in _UNLABELLED:
        data.append(f"context={around.label}")
    return data


def _check_owner(where: str, entry: str, around: Surroundings) -> None:
    key, _, value = entry.partition("=")
    maps = {"uid": around.uid_maps, "gid": around.gid_maps}.get(key)
    if maps and value.isdecimal() and not is_mapped(maps, int(value)):
        raise InvalidArgument(f"{where}.options: {entry} is not mapped in linux.{key}Mappings")


def _superblock(kind: str, options: ParsedOptions) -> list[tuple[str, str | None]]:
    skipped = ("ro", "rw") if kind in _KERNEL_FILESYSTEMS else ()
    return [(name, None) for name in options.superblock if name not in skipped]


def _pairs(data: Sequence[str]) -> list[tuple[str, str | None]]:
    pairs = (entry.partition("=") for entry in data)
    return [(key, value if equals else None) for key, equals, value in pairs]


def _needs_mount2(options: ParsedOptions, data: Sequence[str]) -> bool:
    if options.set_flags & mo.MS_I_VERSION:
        return True
    return any(len(entry.partition("=")[2].encode()) > _LONGEST_VALUE or "\\," in entry for entry in data)


def _joined(where: str, data: Sequence[str]) -> str:
    text = ",".join(data)
    if len(text.encode()) > _LONGEST_DATA:
        raise InvalidArgument(f"{where}.options: longer than the {_LONGEST_DATA} bytes that the kernel takes")
    return text


def _remount(steps: Steps, where: str, mount: Mount, destination: str, options: ParsedOptions) -> None:
    """Change what is mounted there already: mount(2) is the only call for superblock and mount at once."""
    if destination == "/proc" or destination.startswith("/proc/"):
        raise InvalidArgument(f"{where}.destination: {destination} cannot be mounted because it is inside /proc")
    steps.inner.append(
        op.mount_filesystem(
            mount.get("type") or "none",
            mount.get("source"),
            destination,
            legacy_flags=options.set_flags,
            legacy_data=_joined(where, options.data),
        )
    )


# -- cgroup -----------------------------------------------------------------------------------------------------------


def _cgroup(steps: Steps, slot: str, destination: str, options: ParsedOptions, around: Surroundings) -> None:
    hierarchies = around.cgroup_mounts()
    unified = [hierarchy for hierarchy in hierarchies if hierarchy.version == 2 and not hierarchy.name]
    if unified:
        _cgroup2(steps, slot, destination, options, unified[0], around)
    else:
        _cgroup1(steps, slot, destination, options, hierarchies, around)


def _cgroup2(
    steps: Steps, slot: str, destination: str, options: ParsedOptions, hierarchy: CgroupMount, around: Surroundings
) -> None:
    if around.user_namespace and not around.cgroup_namespace:
        _cgroup_bind(steps, slot, destination, options, hierarchy)
        return
    if hierarchy.whole and not around.cgroup_namespace and not options.data:
        _cgroup2_clone(steps, slot, destination, options, hierarchy.whole)
        return
    steps.inner.append(
        op.mount_filesystem(
            "cgroup2", "cgroup", destination, options=_pairs(options.data), attributes=options.set_attributes
        )
    )


def _cgroup2_clone(steps: Steps, slot: str, destination: str, options: ParsedOptions, whole: str) -> None:
    """Clone the host's mount of cgroup2, and that alone, with nothing of it but the superblock."""
    every = _ACCESS | mo.MOUNT_ATTR_NOSYMFOLLOW | mo.MOUNT_ATTR__ATIME | mo.MOUNT_ATTR_NODIRATIME
    set_, clear = _whole_atime(options.set_attributes, every)
    steps.outer.append(op.open_tree(slot, whole, recursive=False))
    steps.outer.append(op.set_attributes(slot, set=set_, clear=clear, propagation=mo.MS_PRIVATE))
    steps.inner.append(op.mount_bind(slot, destination))


def _cgroup1(
    steps: Steps, slot: str, destination: str, options: ParsedOptions, hierarchies: Sequence[CgroupMount],
    around: Surroundings,
) -> None:  # fmt: skip
    """Lay out /sys/fs/cgroup as hosts do: one directory per hierarchy, and a link for each name of a merged one."""
    attributes = mo.MOUNT_ATTR_NOSUID | mo.MOUNT_ATTR_NODEV | mo.MOUNT_ATTR_NOEXEC
    steps.inner.append(
        op.mount_filesystem("tmpfs", "tmpfs", destination, options=[("mode", "755")], attributes=attributes)
    )
    for number, hierarchy in enumerate(hierarchies):
        target = f"{destination}/{hierarchy.name}"
        if around.cgroup_namespace:
            pairs = _pairs(hierarchy.options.split(","))
            steps.inner.append(
                op.mount_filesystem(
                    "cgroup", "cgroup", target, options=pairs, attributes=attributes | options.set_attributes
                )
            )
        else:
            _cgroup_bind(steps, f"{slot}_{number}", target, options, hierarchy)
        steps.inner += [op.make_link(f"{destination}/{link}", hierarchy.name) for link in hierarchy.links]
    if options.set_flags & mo.MS_RDONLY:
        steps.inner.append(op.remount(destination, set=mo.MOUNT_ATTR_RDONLY))


def _cgroup_bind(steps: Steps, slot: str, target: str, options: ParsedOptions, hierarchy: CgroupMount) -> None:
    steps.outer.append(op.open_tree(slot, hierarchy.source, recursive=False))
    set_, clear = _whole_atime(options.set_attributes, 0)
    steps.outer.append(op.set_attributes(slot, set=set_, clear=clear, propagation=mo.MS_SLAVE))
    steps.inner.append(op.mount_bind(slot, target))
