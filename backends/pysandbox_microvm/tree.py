"""What a container is given of the host's files: which mounts of a spec are shared, and what the guest makes of them.

One file server serves one tree: `rootfs`, and `mounts/N` for mount N of the spec where that is the host's. In the guest
the tree is at the storage's directory, and the spec's mounts have their sources there.

| mount of the spec | where it is made |
|---|---|
| file systems that a kernel makes out of nothing (tmpfs, proc, sysfs, devpts, mqueue, cgroup …), remounts | guest |
| bind of something in the rootfs | guest: it shows what is mounted there by then |
| bind of something in /proc, /sys, or of /dev but /dev/shm | guest, of its own: the host's would be the host itself |
| any other bind | host, with all that the namespaces backend gives one (`plan/mounts.py`), then shared |
| file system with the option `loop` | a disk of the machine (`block.py`): the host's kernel parses no image |
| any other file system (overlay, nfs, ext4 of a device …) | host, then shared |

On the host every mount of the tree is `nodev`, `nosuid` and `nosymfollow`, below it too. The file server opens no
device, executes nothing and follows no link; the guest's own mount says what *it* does with device nodes and set-id
bits, which are kept. A read-only mount is read-only on the host: root of the guest can remount what it likes. Only the
rootfs becomes read-only late (`FileServer.make_root_read_only`), as the mount points are made in it first.
"""

from __future__ import annotations

import posixpath

from pysandbox.errors import InvalidArgument
from pysandbox.oci import mountoptions as mo
from pysandbox.oci.mountoptions import is_bind
from pysandbox.plan import operation as op
from pysandbox.plan.mounts import Surroundings, plan_mounts
from pysandbox.plan.namespaces import id_maps
from pysandbox.record import dataclass

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence
    from typing import Any

    from pysandbox.oci.types import Mount, Spec
    from pysandbox.plan.operation import Operation

#: Where the tree is in a file server's jail. Its root is changed to it.
SHARE = "/share"
#: File systems that the guest's kernel makes out of nothing.
GUEST_FILE_SYSTEMS = frozenset(
    """
    proc sysfs tmpfs ramfs devpts devtmpfs mqueue hugetlbfs cgroup cgroup2 securityfs bpf debugfs tracefs configfs
    binfmt_misc pstore efivarfs fusectl selinuxfs
    """.split()
)
#: File systems that the guest can read from an image.
IMAGE_FILE_SYSTEMS = frozenset(("ext4", "erofs", "squashfs"))
_NEVER_ON_HOST = mo.MOUNT_ATTR_NODEV | mo.MOUNT_ATTR_NOSUID | mo.MOUNT_ATTR_NOSYMFOLLOW
_ID_MAP = frozenset(("idmap", "ridmap"))
#: Options of a bind mount that have done their work on the host. Propagation from the host reaches the share there; in
#: the guest it is the guest's own.
_DONE_ON_HOST = frozenset((*_ID_MAP, "src-nofollow"))


@dataclass(frozen=True, slots=True, kw_only=True)
class Part:
    """One mount of the tree: its place in it, the JSON path that asked for it, and its source on the host."""

    name: str
    where: str
    source: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Tree:
    """Operations of a file server's jail that make the tree below `SHARE`: outside, and once the jail's root is there.

    `read_only_root`: the rootfs is to become read-only once its mount points are made.
    """

    opened: Sequence[Operation]
    attached: Sequence[Operation]
    parts: Sequence[Part]
    read_only_root: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class Image:
    """A mount that is an image in a file of the host: number of the mount, file, kind of file system, read-only."""

    index: int
    source: str
    kind: str
    read_only: bool


def rootfs_path(spec: Spec, bundle: str) -> str:
    """Return where the container's root is on the host: a directory, or an image (`block.py`)."""
    return posixpath.normpath(posixpath.join(bundle, spec["root"]["path"]))


# -- the host's part ---------------------------------------------------------------------------------------------------


def host_tree(spec: Spec, bundle: str, *, block_root: bool = False) -> Tree:
    """Plan the tree that is shared; `block_root`: the root is a disk and not part of it.

    `bundle` is absolute; the spec is validated. Raises InvalidArgument with the JSON path. Pure.
    """
    rootfs = rootfs_path(spec, bundle)
    opened: list[Operation] = []
    attached: list[Operation] = [op.make_directory(f"{SHARE}/mounts")]
    parts = []
    if not block_root:
        opened += _open_rootfs(rootfs)
        attached.append(op.mount_bind("rootfs", f"{SHARE}/rootfs"))
        parts.append(Part(name="rootfs", where="root.path", source=rootfs))
    for index, mount in _shared(spec, bundle):
        part = Part(name=f"mounts/{index}", where=f"mounts[{index}]", source=mount.get("source") or "")
        steps = _plan_mount(part, index, mount, spec, bundle)
        opened += steps[0]
        attached += steps[1]
        parts.append(part)
    read_only = not block_root and bool(spec["root"].get("readonly"))
    return Tree(opened=opened, attached=attached, parts=parts, read_only_root=read_only)


def _open_rootfs(path: str) -> list[Operation]:
    """Clone the rootfs with all that is mounted in it, as the namespaces backend does."""
    return [
        op.open_tree("rootfs", path, recursive=True),
        op.set_attributes("rootfs", propagation=mo.MS_SLAVE, recursive=True),
        op.set_attributes("rootfs", set=_NEVER_ON_HOST, recursive=True),
    ]


def _plan_mount(
    part: Part, index: int, mount: Mount, spec: Spec, bundle: str
) -> tuple[list[Operation], list[Operation]]:
    """Plan one mount as the namespaces backend would, at its place in the tree."""
    placed: Any = {**mount, "destination": f"{SHARE}/{part.name}"}
    linux = spec.get("linux") or {}
    user_namespace = any(space["type"] == "user" for space in linux.get("namespaces") or ())
    around = Surroundings(
        bundle=bundle,
        propagation=mo.MS_SLAVE | mo.MS_REC,
        uid_maps=id_maps(linux.get("uidMappings")) if user_namespace else (),
        gid_maps=id_maps(linux.get("gidMappings")) if user_namespace else (),
    )
    _check_user_path(part, mount, linux)
    try:
        steps = plan_mounts([placed], around)
    except InvalidArgument as error:
        raise InvalidArgument(str(error).replace("mounts[0]", part.where, 1)) from None
    outer = [_numbered(operation, index) for operation in steps.outer]
    inner = [_numbered(operation, index) for operation in (*steps.inner, *steps.late)]
    return outer, [hardened for operation in inner for hardened in _hardened(operation)]


def _check_user_path(part: Part, mount: Mount, linux: Mapping[str, Any]) -> None:
    """Refuse an id map that is a namespace of the host's: the guest's container is in none of them."""
    asked = not _ID_MAP.isdisjoint(mount.get("options") or ()) and not mount.get("uidMappings")
    joined = any(space["type"] == "user" and space.get("path") for space in linux.get("namespaces") or ())
    if asked and joined:
        raise InvalidArgument(
            f"{part.where}.options: idmap needs mappings of its own, where a user namespace is joined"
        )


def _numbered(operation: Operation, index: int) -> Operation:
    """Give the one mount that `plan_mounts` was asked for the slot of its number in the spec."""
    slot = operation.arguments.get("slot")
    if not isinstance(slot, str):
        return operation
    return op.Operation(operation.name, {**operation.arguments, "slot": slot.replace("mount0", f"mount{index}", 1)})


def _hardened(operation: Operation) -> Iterator[Operation]:
    """Make a mount inert before it is attached."""
    if operation.name == "mount_bind":
        yield op.set_attributes(operation.arguments["slot"], set=_NEVER_ON_HOST, recursive=True)
        yield operation
    elif operation.name == "mount_filesystem":
        yield operation
        yield op.remount(operation.arguments["destination"], set=_NEVER_ON_HOST)
    else:
        yield operation


# -- the guest's part --------------------------------------------------------------------------------------------------


def guest_mounts(
    spec: Spec, bundle: str, storage: str, images: Mapping[int, str] | None = None, *, root: str | None = None
) -> list[Mount]:
    """Return the spec's mounts as the guest is to make them; pure.

    `storage` is the guest's directory with the tree, `images` has where the guest mounted those that are disks, `root`
    is where the guest has the container's root if that is not in the tree.
    """
    mounts = spec.get("mounts") or ()
    return [_for_guest(index, mount, spec, bundle, storage, images or {}, root) for index, mount in enumerate(mounts)]


def _for_guest(
    index: int, mount: Mount, spec: Spec, bundle: str, storage: str, images: Mapping[int, str], root: str | None
) -> Mount:
    changed: Any = dict(mount)
    if index in images:
        return _bound(changed, images[index])
    if _is_shared(mount, spec, bundle) and not is_image(mount):
        return _bound(changed, f"{storage}/mounts/{index}")
    if mount.get("type") == "sysfs" and _has_user_namespace(spec):
        # The kernel mounts one only for the owner of the network namespace, which is the guest itself.
        changed |= {"type": "bind", "source": "/sys", "options": ["bind", *(mount.get("options") or ())]}
    elif is_bind(mount):
        changed["source"] = _guest_source(mount, spec, bundle, root or f"{storage}/rootfs")
    return changed  # type: ignore[no-any-return]


def _has_user_namespace(spec: Spec) -> bool:
    return any(each["type"] == "user" for each in (spec.get("linux") or {}).get("namespaces") or ())


def _bound(mount: Any, source: str) -> Mount:
    """Return a bind mount of `source`, with what the guest still has to do for it."""
    options = [option for option in mount.get("options") or () if option not in _DONE_ON_HOST]
    if not is_bind(mount):
        options = ["rbind", *(option for option in options if option in mo.MOUNT_OPTIONS)]
    without = {key: value for key, value in mount.items() if key not in ("uidMappings", "gidMappings")}
    return {**without, "type": "bind", "source": source, "options": options}  # type: ignore[typeddict-item]


def _guest_source(mount: Mount, spec: Spec, bundle: str, root: str) -> str:
    source = posixpath.normpath(posixpath.join(bundle, mount.get("source") or ""))
    rootfs = rootfs_path(spec, bundle)
    return root + source[len(rootfs) :] if _below(source, rootfs) else source


def images(spec: Spec, bundle: str) -> list[Image]:
    """Return the mounts that are images in files of the host. Pure."""
    found = []
    for index, mount in enumerate(spec.get("mounts") or ()):
        if is_image(mount):
            source = posixpath.normpath(posixpath.join(bundle, mount.get("source") or ""))
            read_only = "ro" in (mount.get("options") or ()) or mount.get("type") != "ext4"
            found.append(Image(index=index, source=source, kind=mount["type"], read_only=read_only))
    return found


# -- which is which ----------------------------------------------------------------------------------------------------


def is_image(mount: Mount) -> bool:
    """Say whether a mount is an image that becomes a disk of the machine."""
    kind = mount.get("type") or ""
    return not is_bind(mount) and kind in IMAGE_FILE_SYSTEMS and "loop" in (mount.get("options") or ())


def _shared(spec: Spec, bundle: str) -> Iterator[tuple[int, Mount]]:
    for index, mount in enumerate(spec.get("mounts") or ()):
        if _is_shared(mount, spec, bundle) and not is_image(mount):
            yield index, mount


def _is_shared(mount: Mount, spec: Spec, bundle: str) -> bool:
    if not is_bind(mount):
        kind = mount.get("type") or ""
        return bool(kind) and kind not in GUEST_FILE_SYSTEMS and "remount" not in (mount.get("options") or ())
    source = posixpath.normpath(posixpath.join(bundle, mount.get("source") or ""))
    return not (_below(source, rootfs_path(spec, bundle)) or is_guests_own(source))


def is_guests_own(source: str) -> bool:
    """Say whether a source stands for the machine itself, which in a guest is the guest."""
    if _below(source, "/dev/shm"):  # noqa: S108 - a path to compare, no file is made
        return False
    return any(_below(source, place) for place in ("/proc", "/sys", "/dev"))


def _below(path: str, directory: str) -> bool:
    return path == directory or path.startswith(directory.rstrip("/") + "/")
