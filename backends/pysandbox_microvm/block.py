"""Images and block devices of the host that become disks of a machine.

A container's root that is a regular file or a block device, instead of a directory, is an image; so is a mount of the
spec of type ext4, erofs or squashfs with the option `loop`. The host never reads a file system in it: that is for the
guest's kernel, which is the container's own. The host opens it, once, and hands QEMU the descriptor with the format
named (`raw`): an image whose content looks like a qcow2 header, which may name any file of the host, stays an image.

Who writes to an image has it alone, who reads it shares it with readers: an open-file-description lock (fcntl(2)) that
lasts as long as the descriptor, which is as long as the machine.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import stat
import struct

from pysandbox.errors import FailedPrecondition, InvalidArgument, NotFound
from pysandbox.record import dataclass
from pysandbox_microvm.place import Place
from pysandbox_microvm.tree import images, rootfs_path

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping
    from typing import Any

    from pysandbox.oci.types import Device, Linux, Spec
    from pysandbox_microvm.agent import Agent
    from pysandbox_microvm.arguments import Disk
    from pysandbox_microvm.machine import Machine

    #: (major, minor) of the host → of the guest.
    Numbers = Mapping[tuple[int, int], tuple[int, int]]

#: Where each file system has its magic number: kind, offset, bytes (include/uapi/linux/magic.h and each one's header).
_MAGIC = (("squashfs", 0, b"hsqs"), ("erofs", 1024, b"\xe2\xe1\xf5\xe0"), ("ext4", 1080, b"\x53\xef"))
#: File systems that have no other way.
_ALWAYS_READ_ONLY = frozenset(("squashfs", "erofs"))
#: A disk's serial number has room for 20 bytes (virtio 1.1, 5.2.6.1).
_LONGEST_SERIAL = 20
_SECTOR = 512
_SEEK_SET = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class Volume:
    """One image: where the spec asks for it, its path on the host, the kind of file system, how it is opened.

    `name` is the guest's name for it, and the disk's serial number; `kind` "" is found out by `open_volume`.
    """

    where: str
    name: str
    source: str
    kind: str
    read_only: bool


@dataclass(frozen=True, slots=True)
class Opened:
    """An open image: a raw one in a file, or with `device` a block device. The descriptor is the owner's to close."""

    descriptor: int
    kind: str
    read_only: bool
    device: bool


def root_volume(spec: Spec, bundle: str, storage: str) -> Volume | None:
    """Return the container's root as an image; None where it is a directory, or nothing that there is.

    `storage` is the container's name in its guest. A root that the spec wants read-only is opened so: what is to be
    mounted in it has its mount points there already.
    """
    path = rootfs_path(spec, bundle)
    try:
        mode = os.stat(path).st_mode
    except OSError:
        return None  # who opens it says why
    if not (stat.S_ISREG(mode) or stat.S_ISBLK(mode)):
        return None
    read_only = bool(spec["root"].get("readonly"))
    return Volume(where="root.path", name=_name(storage, "root"), source=path, kind="", read_only=read_only)


def find_place(spec: Spec, bundle: str) -> Place:
    """Decide where a container that has its own machine will be in its guest: on a disk, if its root is an image."""
    place = Place()
    volume = root_volume(spec, bundle, place.storage)
    return Place(disk=volume.name) if volume else place


def mount_volumes(spec: Spec, bundle: str, storage: str) -> Mapping[int, Volume]:
    """Return the mounts of the spec that are images, by their number. Pure."""
    return {
        image.index: Volume(
            where=f"mounts[{image.index}].source",
            name=_name(storage, f"m{image.index}"),
            source=image.source,
            kind=image.kind,
            read_only=image.read_only,
        )
        for image in images(spec, bundle)
    }


def _name(storage: str, what: str) -> str:
    name = f"{storage}-{what}"
    if len(name) > _LONGEST_SERIAL:
        raise InvalidArgument(f"{name}: longer than the {_LONGEST_SERIAL} bytes of a disk's serial number")
    return name


def open_volume(volume: Volume) -> Opened:
    """Open an image and lock it. Raises NotFound, InvalidArgument, FailedPrecondition, OSError; the path is the spec's.

    A FIFO or a device of another kind is looked at and never opened: that could wait, or do something.
    """
    try:
        place = os.open(volume.source, os.O_PATH | os.O_CLOEXEC)
    except FileNotFoundError:
        raise NotFound(f"{volume.where}: {volume.source}: no such file or directory") from None
    try:
        mode = os.fstat(place).st_mode
        if not (stat.S_ISREG(mode) or stat.S_ISBLK(mode)):
            raise InvalidArgument(f"{volume.where}: {volume.source}: is neither an image in a file nor a block device")
        return _open(volume, f"/proc/self/fd/{place}", device=stat.S_ISBLK(mode))
    finally:
        os.close(place)


def _open(volume: Volume, path: str, *, device: bool) -> Opened:
    """Open for reading, see what it is, and open for writing only what can be written."""
    descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    try:
        _check_size(volume, descriptor)
        kind = volume.kind or kind_of(descriptor)
        if not kind:
            raise InvalidArgument(f"{volume.where}: {volume.source}: holds no file system of a guest's (ext4, erofs)")
        read_only = volume.read_only or kind in _ALWAYS_READ_ONLY
        if not read_only:
            os.close(descriptor)
            descriptor = -1
            descriptor = os.open(path, os.O_RDWR | os.O_CLOEXEC)
        _lock(volume, descriptor, read_only=read_only)
        return Opened(descriptor, kind, read_only, device)
    except BaseException:
        if descriptor >= 0:
            os.close(descriptor)
        raise


def kind_of(descriptor: int) -> str:
    """Return which file system an image holds, by its magic number alone; "" for none of ours."""
    for kind, offset, magic in _MAGIC:
        if os.pread(descriptor, len(magic), offset) == magic:
            return kind
    return ""


def _check_size(volume: Volume, descriptor: int) -> None:
    size = os.lseek(descriptor, 0, os.SEEK_END)
    if size == 0 or size % _SECTOR:
        raise InvalidArgument(f"{volume.where}: {volume.source}: {size} bytes are no disk: not a multiple of {_SECTOR}")


def _lock(volume: Volume, descriptor: int, *, read_only: bool) -> None:
    """Hold the image against those who would write to it, or, to write, against all; length 0 is the whole file."""
    kind = fcntl.F_RDLCK if read_only else fcntl.F_WRLCK
    try:
        fcntl.fcntl(descriptor, fcntl.F_OFD_SETLK, struct.pack("hhqqi4x", kind, _SEEK_SET, 0, 0, 0))
    except (BlockingIOError, PermissionError):
        raise FailedPrecondition(
            f"{volume.where}: {volume.source}: is in use by another machine, and "
            + ("written to there" if read_only else "not to be shared with one that writes")
        ) from None


# -- block devices of the spec -----------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True, kw_only=True)
class Node:
    """A block device of `linux.devices`: where the spec asks for it, the guest's name for it, its path and numbers."""

    where: str
    name: str
    path: str
    major: int
    minor: int
    read_only: bool


def nodes(spec: Spec, storage: str) -> list[Node]:
    """Return the block devices of a spec. Pure.

    One that no rule of the cgroup's allows to be written is opened for reading alone, on the host.
    """
    linux = spec.get("linux") or {}
    return [
        Node(
            where=f"linux.devices[{index}]",
            name=_name(storage, f"d{index}"),
            path=device["path"],
            major=device.get("major") or 0,
            minor=device.get("minor") or 0,
            read_only=not _may_be_written(linux, device),
        )
        for index, device in enumerate(linux.get("devices") or ())
        if device["type"] == "b"
    ]


def _may_be_written(linux: Linux, device: Device) -> bool:
    """Say whether the rules let the container write, the last that speaks of it being the one that counts."""
    answer = False
    for rule in (linux.get("resources") or {}).get("devices") or ():
        numbers = (("major", device.get("major")), ("minor", device.get("minor")))
        of_kind = rule.get("type", "a") in ("a", "b")
        of_it = of_kind and all(rule.get(name) in (None, -1, number) for name, number in numbers)
        if of_it and "w" in (rule.get("access") or "rwm"):
            answer = rule["allow"]
    return answer


def open_node(node: Node) -> Opened:
    """Open the host's block device with these numbers. Raises NotFound where there is no node for it, OSError."""
    for path in (*_kernels_names(node), node.path):
        try:
            place = os.open(path, os.O_PATH | os.O_CLOEXEC)
        except OSError:
            continue
        try:
            status = os.fstat(place)
            if stat.S_ISBLK(status.st_mode) and status.st_rdev == os.makedev(node.major, node.minor):
                access = os.O_RDONLY if node.read_only else os.O_RDWR
                descriptor = os.open(f"/proc/self/fd/{place}", access | os.O_CLOEXEC)
                return Opened(descriptor, "disk", node.read_only, device=True)
        finally:
            os.close(place)
    raise NotFound(f"{node.where}: {node.path}: the host has no block device {node.major}:{node.minor} there")


def _kernels_names(node: Node) -> Iterator[str]:
    """Yield what the kernel calls a device, below /dev: proc and udev may call it otherwise (sysfs(5), uevent)."""
    with contextlib.suppress(OSError), open(f"/sys/dev/block/{node.major}:{node.minor}/uevent") as file:
        for line in file.read(4096).splitlines():
            name, _, value = line.partition("=")
            if name == "DEVNAME":
                yield f"/dev/{value}"


def device_rules(spec: Spec, bundle: str) -> list[dict[str, object]]:
    """Return what the host's cgroup must allow the sandbox process to open, as `linux.resources.devices` says it."""
    linux = spec.get("linux") or {}
    numbers = [(d.get("major") or 0, d.get("minor") or 0) for d in linux.get("devices") or () if d["type"] == "b"]
    for path in (rootfs_path(spec, bundle), *(image.source for image in images(spec, bundle))):
        try:
            status = os.stat(path)
        except OSError:
            continue
        if stat.S_ISBLK(status.st_mode):
            numbers.append((os.major(status.st_rdev), os.minor(status.st_rdev)))
    return [{"allow": True, "type": "b", "major": major, "minor": minor, "access": "rw"} for major, minor in numbers]


def check_joining(spec: Spec, bundle: str, storage: str) -> None:
    """Refuse disks of a container that joins a machine. Raises InvalidArgument."""
    root = root_volume(spec, bundle, storage)
    wanted: list[Volume | Node] = [root] if root else []
    wanted += [*mount_volumes(spec, bundle, storage).values(), *nodes(spec, storage)]
    for each in wanted:
        raise InvalidArgument(f"{each.where}: a disk can only be the first container's of a machine")


def relocated(document: Mapping[str, Any], spec: Spec, numbers: Numbers) -> Mapping[str, Any]:
    """Return what a guest is asked for with its own numbers for the block devices: it counts its disks by itself.

    `document` is a `GuestPlan`'s; `numbers` are (major, minor) of the host → of the guest.
    """
    if not numbers:
        return document
    import json

    from pysandbox_microvm.planning import device_program_of

    plan = json.loads(document["plan"])
    for operation in plan["operations"]:
        if operation["op"] == "make_device" and operation["kind"] == "b":
            host = (operation["major"], operation["minor"])
            operation["major"], operation["minor"] = numbers.get(host, host)
    resources: Any = (spec.get("linux") or {}).get("resources") or {}
    rules = [_relocated_rule(rule, numbers) for rule in resources.get("devices") or ()]
    program = device_program_of({**resources, "devices": rules})  # type: ignore[typeddict-item]
    return {**document, "plan": json.dumps(plan, separators=(",", ":")), "device_program": program.hex()}


def _relocated_rule(rule: Mapping[str, Any], numbers: Numbers) -> Mapping[str, Any]:
    guest = numbers.get((rule.get("major"), rule.get("minor"))) if rule.get("type") == "b" else None  # type: ignore[arg-type]
    return {**rule, "major": guest[0], "minor": guest[1]} if guest else rule


# -- the disks of a container ------------------------------------------------------------------------------------------


class Disks:
    """All images and block devices of a container, open from the beginning to `close`: QEMU has copies by then.

    `numbers` are filled in by `attach`.
    """

    def __init__(self, spec: Spec, bundle: str, storage: str) -> None:
        root = root_volume(spec, bundle, storage)
        volumes = [*([root] if root else []), *mount_volumes(spec, bundle, storage).values()]
        self._opened: dict[str, Opened] = {}
        self._nodes = {node.name: node for node in nodes(spec, storage)}
        self.root = root.name if root else None
        self.numbers: dict[tuple[int, int], tuple[int, int]] = {}
        try:
            for volume in volumes:
                self._opened[volume.name] = open_volume(volume)
            for node in self._nodes.values():
                self._opened[node.name] = open_node(node)
        except BaseException:
            self.close()
            raise

    @property
    def count(self) -> int:
        """How many disks there are."""
        return len(self._opened)

    def root_disk(self, *, root_disk: bool) -> Disk | None:
        """Return the disk that a machine with a root disk starts with."""
        if self.root is None or not root_disk:
            return None
        from pysandbox_microvm.arguments import Disk

        opened = self._opened[self.root]
        return Disk(opened.descriptor, opened.read_only, opened.device)

    def plug(self, machine: Machine, *, root_disk: bool) -> list[str]:
        """Plug in all that the machine has not started with; return the ids of the devices."""
        return [
            machine.plug_disk(opened.descriptor, name, read_only=opened.read_only)
            for name, opened in self._opened.items()
            if name != self.root or not root_disk
        ]

    def attach(self, agent: Agent, *, root_disk: bool) -> list[str]:
        """Have the guest mount the images and find the devices; return its names for what it mounted."""
        from pysandbox_microvm.arguments import ROOT_SERIAL

        for name, opened in self._opened.items():
            serial = ROOT_SERIAL if name == self.root and root_disk else name
            found = agent.attach(name, opened.kind, serial, read_only=opened.read_only)
            if name in self._nodes:
                node = self._nodes[name]
                self.numbers[node.major, node.minor] = found.major, found.minor
        return [name for name in self._opened if name not in self._nodes]

    def close(self) -> None:
        """Close them, and with that our hold on them: QEMU's copies keep the locks. Safe to call twice."""
        while self._opened:
            os.close(self._opened.popitem()[1].descriptor)
