"""The root file system that is being made. Everything in it is reached from a descriptor of its root.

The directory of an entry is found by openat2(2): symbolic links on the way lead where they would in a container, and no
further. Its last component is never followed: a file is made with O_EXCL, after what was in its place is gone.
"""

from __future__ import annotations

import errno
import os
import shutil
import stat
from contextlib import contextmanager

from pysandbox.bundle.beneath import IN_ROOT, STRICT, open_directory, place_of
from pysandbox.bundle.entry import BLOCK, CHARACTER, DEVICES, DIRECTORY, FIFO, FILE, SYMLINK
from pysandbox.bundle.name import check_length, join, shown, split
from pysandbox.errors import InvalidArgument
from pysandbox.record import dataclass

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from pysandbox.bundle.entry import Content, Entry

_KIND_BITS = {FIFO: stat.S_IFIFO, CHARACTER: stat.S_IFCHR, BLOCK: stat.S_IFBLK}


@dataclass(frozen=True, slots=True)
class Place:
    """Where an entry goes: its directory (a descriptor of the tree's) and path, its last component.

    `directory` is free of symbolic links, which the entry's own name need not be.
    """

    descriptor: int
    directory: bytes
    name: bytes

    @property
    def path(self) -> bytes:
        """The path from the root."""
        return join(self.directory, self.name)


class Tree:
    """A directory that becomes a root file system. `warn` gets what could not be kept, as a kind and a name."""

    def __init__(self, root: int, warn: Callable[[str, bytes], None]) -> None:
        self.root = root
        self._warn = warn
        self._top = place_of(root)
        self._times: dict[bytes, int] = {}
        self._open: tuple[bytes, int, bytes] | None = None

    def close(self) -> None:
        """Close what is kept open; the root is the caller's."""
        if self._open:
            os.close(self._open[1])
            self._open = None

    # -- finding

    def place(self, path: bytes, what: str, *, make: bool = True) -> Place:
        """Return where an entry goes; directories on the way that are missing are made if `make`.

        The descriptor is good until the next call. Raises FileNotFoundError without `make`, InvalidArgument where the
        way leads over something that is no directory.
        """
        parent, name = split(path)
        if self._open is None or self._open[0] != parent:
            descriptor, directory = self._directory(parent, what, make=make)
            self.close()
            self._open = (parent, descriptor, directory)
        return Place(self._open[1], self._open[2], name)

    def _directory(self, path: bytes, what: str, *, make: bool) -> tuple[int, bytes]:
        try:
            return self._resolve(path, what)
        except FileNotFoundError:
            if not make or not path:
                raise
        except OSError as error:
            if error.errno in (errno.ENOTDIR, errno.ELOOP):
                raise InvalidArgument(f"{what}: {shown(path)}: no directory, or links that lead to none") from None
            raise
        parent, name = split(path)
        descriptor, directory = self._directory(parent, what, make=True)
        try:
            check_length(join(directory, name), what)
            self._make_directory(descriptor, name, what)
            return open_directory(descriptor, name), join(directory, name)
        finally:
            os.close(descriptor)

    def _make_directory(self, descriptor: int, name: bytes, what: str) -> None:
        """Make a directory that an archive takes for granted."""
        try:
            os.mkdir(name, 0o700, dir_fd=descriptor)
        except FileExistsError:
            raise InvalidArgument(f"{what}: {shown(name)}: symbolic link on the way that leads nowhere") from None
        new = open_directory(descriptor, name)
        try:
            # Below a set-group-id directory it would have that group, and the bit.
            os.fchown(new, 0, 0)
            os.fchmod(new, 0o755)
        finally:
            os.close(new)

    def _resolve(self, path: bytes, what: str) -> tuple[int, bytes]:
        """Open a directory and say where it is, without symbolic links."""
        try:
            return open_directory(self.root, path, STRICT), path
        except OSError as error:
            if error.errno != errno.ELOOP:
                raise
        descriptor = open_directory(self.root, path, IN_ROOT)
        try:
            directory = self._beneath(place_of(descriptor), what)
            check_length(directory, what)
        except BaseException:
            os.close(descriptor)
            raise
        return descriptor, directory

    def _beneath(self, place: bytes, what: str) -> bytes:
        if place != self._top and not place.startswith(self._top + b"/"):
            raise InvalidArgument(f"{what}: the directory was moved while it was being filled")
        return place[len(self._top) + 1 :]

    def make_directories(self, path: bytes, what: str) -> None:
        """Make a directory and those above it, where they are missing. Raises InvalidArgument as `place` does."""
        self.place(join(path, b"."), what)

    # -- making

    def put(self, place: Place, entry: Entry, content: Content) -> None:
        """Make what an entry describes, in place of what is there. A directory keeps what is in it."""
        if entry.kind == DIRECTORY:
            self._put_directory(place, entry)
            return
        self.remove(place)
        if entry.kind == FILE:
            self._put_file(place, entry, content)
        elif entry.kind == SYMLINK:
            os.symlink(entry.target, place.name, dir_fd=place.descriptor)
            os.chown(place.name, entry.uid, entry.gid, dir_fd=place.descriptor, follow_symlinks=False)
            self._set_time(place, entry)
        else:
            self._put_node(place, entry)

    def put_link(self, place: Place, target: Place, what: str) -> None:
        """Make another name of a file. Raises InvalidArgument where the target is missing, a directory or the link."""
        if target.path == place.path:
            raise InvalidArgument(f"{what}: hard link to itself")
        self.remove(place)
        try:
            os.link(
                target.name,
                place.name,
                src_dir_fd=target.descriptor,
                dst_dir_fd=place.descriptor,
                follow_symlinks=False,
            )
        except FileNotFoundError:
            raise InvalidArgument(f"{what}: hard link to {shown(target.path)}, which is not there") from None
        except PermissionError:
            raise InvalidArgument(f"{what}: hard link to {shown(target.path)}, which is a directory") from None

    def remove(self, place: Place) -> None:
        """Remove what is there, with everything in it."""
        try:
            os.unlink(place.name, dir_fd=place.descriptor)
        except FileNotFoundError:
            pass
        except IsADirectoryError:
            shutil.rmtree(place.name, dir_fd=place.descriptor)

    def set_root(self, entry: Entry) -> None:
        """Give the root directory itself an owner, mode and time."""
        self._set_directory(self.root, entry)

    def _put_directory(self, place: Place, entry: Entry) -> None:
        try:
            os.mkdir(place.name, 0o700, dir_fd=place.descriptor)
        except FileExistsError:
            if not self.is_directory(place):
                self.remove(place)
                os.mkdir(place.name, 0o700, dir_fd=place.descriptor)
        descriptor = open_directory(place.descriptor, place.name)
        try:
            self._set_directory(descriptor, entry, place.path)
        finally:
            os.close(descriptor)

    def is_directory(self, place: Place) -> bool:
        """Say whether a directory is there; a symbolic link to one is none."""
        try:
            status = os.stat(place.name, dir_fd=place.descriptor, follow_symlinks=False)
        except FileNotFoundError:
            return False
        return stat.S_ISDIR(status.st_mode)

    def _set_directory(self, descriptor: int, entry: Entry, path: bytes = b"") -> None:
        for name in kept_xattrs(descriptor):  # of a lower layer's directory
            os.removexattr(descriptor, name)
        os.fchown(descriptor, entry.uid, entry.gid)
        os.fchmod(descriptor, entry.mode)
        self._set_xattrs(descriptor, entry)
        self._times[path] = entry.mtime

    def _put_file(self, place: Place, entry: Entry, content: Content) -> None:
        descriptor = os.open(
            place.name, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600,
            dir_fd=place.descriptor,
        )  # fmt: skip
        try:
            end = _write(descriptor, content)
            if end < entry.size:
                os.ftruncate(descriptor, entry.size)
            # In this order: a new owner costs a file its set-id bits and its capabilities.
            os.fchown(descriptor, entry.uid, entry.gid)
            os.fchmod(descriptor, entry.mode)
            self._set_xattrs(descriptor, entry)
            os.utime(descriptor, ns=(entry.mtime, entry.mtime))
        finally:
            os.close(descriptor)

    def _put_node(self, place: Place, entry: Entry) -> None:
        device = os.makedev(*entry.device) if entry.kind in DEVICES else 0
        os.mknod(place.name, _KIND_BITS[entry.kind] | 0o600, device, dir_fd=place.descriptor)
        os.chown(place.name, entry.uid, entry.gid, dir_fd=place.descriptor, follow_symlinks=False)
        descriptor = os.open(place.name, os.O_PATH | os.O_NOFOLLOW | os.O_CLOEXEC, dir_fd=place.descriptor)
        try:
            os.chmod(f"/proc/self/fd/{descriptor}", entry.mode)
        finally:
            os.close(descriptor)
        self._set_time(place, entry)

    def _set_time(self, place: Place, entry: Entry) -> None:
        os.utime(place.name, ns=(entry.mtime, entry.mtime), dir_fd=place.descriptor, follow_symlinks=False)

    def _set_xattrs(self, descriptor: int, entry: Entry) -> None:
        for name, value in entry.xattrs.items():
            if not is_kept(name):
                self._warn(f"extended attributes {shown(name)}", entry.name)
                continue
            try:
                os.setxattr(descriptor, name, value)
            except OSError as error:
                if error.errno == errno.EINVAL:
                    where = f"{shown(entry.name)}: extended attribute {shown(name)}"
                    raise InvalidArgument(f"{where}: the kernel does not take its value for one") from None
                if error.errno != errno.ENOTSUP:
                    raise
                self._warn(f"extended attributes {shown(name)} (the file system of the bundle has none)", entry.name)

    # -- the end

    def finish(self) -> None:
        """Give directories their times, now that nothing is made in them any more."""
        self.close()
        for path, mtime in self._times.items():
            try:
                descriptor = open_directory(self.root, path)
            except OSError as error:
                if error.errno in (errno.ENOENT, errno.ENOTDIR, errno.ELOOP):
                    continue  # a later layer has removed or replaced it
                raise
            try:
                os.utime(descriptor, ns=(mtime, mtime))
            finally:
                os.close(descriptor)


def is_kept(name: bytes) -> bool:
    """Say whether an extended attribute is taken over: file capabilities and what users set.

    Others mean something to the host: labels of its security module, integrity, and overlayfs' own (trusted.overlay.*,
    user.overlay.*), which would make a directory show what is elsewhere.
    """
    return name == b"security.capability" or (name.startswith(b"user.") and not name.startswith(b"user.overlay."))


def kept_xattrs(descriptor: int) -> list[bytes]:
    """Return which of a file's extended attributes are taken over: none where its file system has no such thing."""
    try:
        return [name for name in map(os.fsencode, os.listxattr(descriptor)) if is_kept(name)]
    except OSError as error:
        if error.errno != errno.ENOTSUP:
            raise
        return []


def _write(descriptor: int, content: Content) -> int:
    """Write pieces where they belong; return the end of the last."""
    end = 0
    for offset, data in content:
        end, view = offset, memoryview(data)
        while view:
            written = os.pwrite(descriptor, view, end)
            end, view = end + written, view[written:]
    return end


@contextmanager
def directory_at(place: Place) -> Iterator[int]:
    """Open the directory that is there, and close it again."""
    descriptor = open_directory(place.descriptor, place.name)
    try:
        yield descriptor
    finally:
        os.close(descriptor)
