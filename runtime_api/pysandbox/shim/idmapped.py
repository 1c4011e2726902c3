"""Root file systems of pods in user namespaces: containerd 2 asks for their ids to be shifted.

It says `uidmap=` and `gidmap=` among a mount's options, as CONTAINER:HOST:SIZE with commas between. An overlay's lower
directories are shared by all pods, so each gets an id-mapped mount of its own for as long as the overlay is being
mounted; the upper one containerd has given to the pod already. Needs Linux 5.12, for overlay 5.19.
"""

from __future__ import annotations

import contextlib
import ctypes
import errno
import os
import signal
import struct
import time

from pysandbox.errors import InvalidArgument, Unimplemented

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

#: util-linux's: a process of many threads cannot make a user namespace itself (unshare(2), EINVAL).
_UNSHARE = "/usr/bin/unshare"
#: Seconds for it to begin; and, should we die meanwhile, for it to last.
_LIMIT, _LIFETIME = 5.0, 30
_NAMES = ("uidmap", "gidmap")
#: The bundle's directory of shifted layers.
_LOWER = "lower"
# Numbers of system calls that are the same on every architecture, linux/mount.h, linux/fcntl.h.
_OPEN_TREE, _MOVE_MOUNT, _MOUNT_SETATTR = 428, 429, 442
_AT_FDCWD, _AT_EMPTY_PATH = -100, 0x1000
_OPEN_TREE_CLONE, _MOVE_MOUNT_F_EMPTY_PATH = 1, 4
_MOUNT_ATTR_RDONLY, _MOUNT_ATTR_IDMAP = 1, 0x100000
_MNT_DETACH, _UMOUNT_NOFOLLOW = 2, 8


def split_maps(options: Sequence[str]) -> tuple[list[str], tuple[bytes, bytes]]:
    """Return options without their id maps, and these as /proc/PID/uid_map and gid_map have them.

    Raises InvalidArgument.
    """
    rest, maps = [], {}
    for option in options:
        name, equals, value = option.partition("=")
        if equals and name in _NAMES:
            maps[name] = _lines(option, value)
        else:
            rest.append(option)
    if len(maps) != len(_NAMES):
        raise InvalidArgument("rootfs mount: uidmap and gidmap go together")
    return rest, (maps["uidmap"], maps["gidmap"])


def _lines(option: str, value: str) -> bytes:
    lines = []
    for triple in value.split(","):
        numbers = triple.split(":")
        if len(numbers) != 3 or not all(number.isascii() and number.isdigit() for number in numbers):
            raise InvalidArgument(f"rootfs mount: {option}: should be CONTAINER:HOST:SIZE, with commas between")
        lines.append(" ".join(numbers))
    return "".join(f"{line}\n" for line in lines).encode()


@contextlib.contextmanager
def user_namespace(maps: tuple[bytes, bytes]) -> Iterator[int]:
    """Have a user namespace of these maps; yields its descriptor. Raises OSError, Unimplemented."""
    words = ["unshare", "--user", "--", "/bin/sleep", str(_LIFETIME)]
    null = os.open("/dev/null", os.O_RDWR | os.O_CLOEXEC)
    actions = [(os.POSIX_SPAWN_DUP2, null, number) for number in range(3)]
    try:
        pid = os.posix_spawn(_UNSHARE, words, {}, file_actions=actions, setsigmask=(), setsigdef=[signal.SIGTERM])
    except FileNotFoundError:
        raise Unimplemented(f"rootfs mount: ids cannot be shifted: {_UNSHARE} is missing (util-linux)") from None
    finally:
        os.close(null)
    try:
        namespace = _entered(pid)
        try:
            for name, content in zip(("uid_map", "gid_map"), maps, strict=True):
                _write(f"/proc/{pid}/{name}", content)
            yield namespace
        finally:
            os.close(namespace)
    finally:
        os.kill(pid, signal.SIGKILL)  # not reaped yet: it is still ours
        with contextlib.suppress(ChildProcessError):
            os.waitpid(pid, 0)


def _entered(pid: int) -> int:
    """Return the child's user namespace as soon as it is not ours any more."""
    path, ours = f"/proc/{pid}/ns/user", os.stat("/proc/self/ns/user").st_ino
    deadline = time.monotonic() + _LIMIT
    while time.monotonic() < deadline:
        with contextlib.suppress(FileNotFoundError):
            descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
            if os.fstat(descriptor).st_ino != ours:
                return descriptor
            os.close(descriptor)
        time.sleep(0.001)
    raise OSError(errno.ETIMEDOUT, "rootfs mount: unshare(1) makes no user namespace", path)


def _write(path: str, content: bytes) -> None:
    """Write it in the one write(2) that the kernel takes."""
    descriptor = os.open(path, os.O_WRONLY | os.O_CLOEXEC)
    try:
        os.write(descriptor, content)
    except OSError as error:
        error.filename = f"{path}: {content.decode().strip()}"
        raise
    finally:
        os.close(descriptor)


def mount_shifted(source: str, target: str, namespace: int, *, flags: int = 0) -> None:
    """Mount a directory at another place, with the ids of a user namespace and MOUNT_ATTR_* `flags`. Raises OSError."""
    tree = _call("open_tree", source, _OPEN_TREE, _AT_FDCWD, os.fsencode(source), _OPEN_TREE_CLONE | os.O_CLOEXEC)
    try:
        attributes = struct.pack("4Q", _MOUNT_ATTR_IDMAP | flags, 0, 0, namespace)
        size = ctypes.c_size_t(len(attributes))
        _call("mount_setattr", source, _MOUNT_SETATTR, tree, b"", _AT_EMPTY_PATH, attributes, size)
        place = os.fsencode(target)
        _call("move_mount", target, _MOVE_MOUNT, tree, b"", _AT_FDCWD, place, _MOVE_MOUNT_F_EMPTY_PATH)
    finally:
        os.close(tree)


@contextlib.contextmanager
def lower_directories(options: Sequence[str], bundle: str, namespace: int) -> Iterator[list[str]]:
    """Have an overlay's lower directories shifted, in the bundle; yields the options that name them there.

    They cannot be written: who removes the bundle of a shim that was killed now must not remove layers with it.
    """
    names = next((option for option in options if option.startswith("lowerdir=")), "")
    place = os.path.join(bundle, _LOWER)
    made: list[str] = []
    os.mkdir(place, 0o700)
    try:
        for number, source in enumerate(filter(None, names.removeprefix("lowerdir=").split(":"))):
            made.append(os.path.join(place, str(number)))
            os.mkdir(made[-1], 0o700)
            mount_shifted(source, made[-1], namespace, flags=_MOUNT_ATTR_RDONLY)
        yield [f"lowerdir={':'.join(made)}" if option == names else option for option in options]
    finally:
        remove_lower_directories(bundle)


def remove_lower_directories(bundle: str) -> None:
    """Take away what `lower_directories` has made in a bundle, any number of times. Raises OSError."""
    place = os.path.join(bundle, _LOWER)
    libc = ctypes.CDLL(None, use_errno=True)
    try:
        names = os.listdir(place)
    except FileNotFoundError:
        return
    for name in names:
        path = os.path.join(place, name)
        libc.umount2(os.fsencode(path), _MNT_DETACH | _UMOUNT_NOFOLLOW)
        os.rmdir(path)
    os.rmdir(place)


def _call(name: str, where: str, number: int, *arguments: object) -> int:
    words = [ctypes.c_int(each) if isinstance(each, int) else each for each in arguments]
    result = int(ctypes.CDLL(None, use_errno=True).syscall(ctypes.c_long(number), *words))
    if result < 0:
        code = ctypes.get_errno()
        raise OSError(code, f"{name}: {os.strerror(code)}", where)
    return result
