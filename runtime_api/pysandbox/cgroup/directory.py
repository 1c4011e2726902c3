"""One directory of a cgroup file system: its files, its processes, the directories below it.

What is below belongs to the container, which may have nested it as deep as it likes: every walk here holds one
descriptor and no Python frame per level, follows no symbolic link, and counts on things vanishing under it.
"""

from __future__ import annotations

import errno
import os
import time

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator

_OPEN_DIRECTORY = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC

#: The extended attribute with the id of the container that made a directory. Only the host's root can set it.
MARK = "trusted.pysandbox"

#: How long `remove_tree` waits for processes that are about to be gone, in seconds.
REMOVE_LIMIT = 5.0

#: What reading or writing a file of a cgroup says when the cgroup is being removed.
GONE = (errno.ENOENT, errno.ENODEV)


class CgroupError(OSError):
    """The kernel refused a read or a write; the text names the file and the value, as runc's does."""

    def __init__(self, number: int, action: str, path: str) -> None:
        super().__init__(number, os.strerror(number), path)
        self.action = action

    def __str__(self) -> str:
        return f"{self.action} {self.filename}: {os.strerror(self.errno or 0).lower()}"


def read(path: str, name: str) -> str:
    """Return the text of a file."""
    try:
        return _read_at(os.path.join(path, name), None)
    except OSError as error:
        raise CgroupError(error.errno or 0, "read", os.path.join(path, name)) from None


def read_or(path: str, name: str, otherwise: str) -> str:
    """Return the text of a file, or `otherwise` when there is no such file."""
    try:
        return read(path, name)
    except CgroupError as error:
        if error.errno in (*GONE, errno.EOPNOTSUPP):
            return otherwise
        raise


def write(path: str, name: str, value: str) -> None:
    """Write one value in one call, as the kernel wants it. Never makes a file."""
    file = os.path.join(path, name)
    try:
        descriptor = os.open(file, os.O_WRONLY | os.O_CLOEXEC | os.O_NOFOLLOW)
        try:
            os.write(descriptor, value.encode())
        finally:
            os.close(descriptor)
    except OSError as error:
        raise CgroupError(error.errno or 0, f'failed to write "{value}": write', file) from None


def exists(path: str, name: str = "") -> bool:
    """Say whether a directory, or a file in it, is there."""
    return os.path.exists(os.path.join(path, name) if name else path)


def controllers_above(path: str) -> set[str]:
    """Return the controllers that a cgroup2 directory, there or not yet there, can have: those of the highest level.

    They can be handed down from there: a level that somebody made between offers none before that.
    """
    highest = ""
    above = os.path.dirname(path)
    while above != "/" and (not highest or exists(above, "cgroup.controllers")):
        if highest or exists(above, "cgroup.controllers"):
            highest = above
        above = os.path.dirname(above)
    return set(read(highest, "cgroup.controllers").split()) if highest else set()


def make(path: str) -> list[str]:
    """Make a directory and those above it that are missing; return what was made, outermost first."""
    missing = [path]
    made: list[str] = []
    while missing:
        try:
            os.mkdir(missing[-1], 0o755)
            made.append(missing[-1])
        except FileExistsError:
            pass
        except FileNotFoundError:
            missing.append(os.path.dirname(missing[-1]))
            continue
        except OSError as error:
            raise CgroupError(error.errno or 0, "make", missing[-1]) from None
        missing.pop()
    return made


def mark(path: str, container_id: str) -> None:
    """Write on a directory whose it is."""
    os.setxattr(path, MARK, container_id.encode())


def owner(path: str) -> str | None:
    """Return the id of the container that made a directory; None when it is not one of ours, or not there."""
    try:
        return os.getxattr(path, MARK).decode()
    except OSError:
        return None


def subdirectories(descriptor: int) -> list[str]:
    """Return the names of the directories in an open one."""
    if os.fstat(descriptor).st_nlink == 2:
        return []  # kernfs counts `.` and `..` of each: two links mean no directory inside
    with os.scandir(descriptor) as entries:
        return [entry.name for entry in entries if entry.is_dir(follow_symlinks=False)]


def walk(path: str) -> Iterator[tuple[int, str]]:
    """Yield (descriptor of the parent, name) of every directory below `path` and last of `path`, children first."""
    above, name = os.path.split(path)
    try:
        current = os.open(above, _OPEN_DIRECTORY)
    except FileNotFoundError:
        return
    entered: list[str] = []
    pending = [[name]]
    try:
        while pending:
            if pending[-1]:
                name = pending[-1].pop()
                below = _enter(current, name)
                if below is None:
                    continue
                names = subdirectories(below)
                if names:
                    os.close(current)
                    current = below
                    entered.append(name)
                    pending.append(names)
                    continue
                os.close(below)
            else:
                pending.pop()
                if not entered:
                    break
                name = entered.pop()
                current = _leave(current)
            yield current, name
    finally:
        os.close(current)


def processes(path: str) -> set[int]:
    """Return the pids in a cgroup and below it. Those of another pid namespace (0) are left out."""
    pids: set[int] = set()
    for parent, name in walk(path):
        pids.update(map(int, read_below(parent, name + "/cgroup.procs").split()))
    pids.discard(0)
    return pids


def read_below(parent: int, file: str) -> str:
    """Return the text of a file below an open directory; empty when it is gone."""
    try:
        return _read_at(file, parent)
    except OSError as error:
        # EOPNOTSUPP: a threaded cgroup of v2; its processes are listed by the domain above it.
        if error.errno in (*GONE, errno.EOPNOTSUPP):
            return ""
        raise


def remove_tree(path: str, limit: float = REMOVE_LIMIT) -> None:
    """Remove a cgroup and all below it; EBUSY is tried again until `limit` seconds are over."""
    try:
        os.rmdir(path)
        return
    except FileNotFoundError:
        return
    except OSError as error:
        if error.errno not in (errno.EBUSY, errno.ENOTEMPTY):
            raise CgroupError(error.errno or 0, "remove", path) from None
    deadline = time.monotonic() + limit
    pause = 0.001
    while not _remove_once(path):
        if time.monotonic() > deadline:
            raise CgroupError(errno.EBUSY, "remove", path)
        time.sleep(pause)
        pause = min(2 * pause, 0.05)


def remove_empty(path: str) -> None:
    """Remove a directory only if nothing and nobody is in it: one that was made, but not marked any more."""
    try:
        os.rmdir(path)
    except OSError as error:
        if error.errno not in (errno.ENOENT, errno.EBUSY, errno.ENOTEMPTY):
            raise CgroupError(error.errno or 0, "remove", path) from None


def _remove_once(path: str) -> bool:
    """Remove what can be removed now; say whether nothing is left."""
    whole = True
    for parent, name in walk(path):
        try:
            os.rmdir(name, dir_fd=parent)
        except FileNotFoundError:
            continue
        except OSError as error:
            if error.errno not in (errno.EBUSY, errno.ENOTEMPTY):
                raise CgroupError(error.errno or 0, "remove", path) from None
            whole = False
    return whole


def _enter(parent: int, name: str) -> int | None:
    try:
        return os.open(name, _OPEN_DIRECTORY, dir_fd=parent)
    except (FileNotFoundError, NotADirectoryError):
        return None


def _leave(descriptor: int) -> int:
    """Open the directory above, then close this one. cgroups are never moved, so `..` is where we came from."""
    above = os.open("..", _OPEN_DIRECTORY, dir_fd=descriptor)
    os.close(descriptor)
    return above


def _read_at(path: str, parent: int | None) -> str:
    descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW, dir_fd=parent)
    try:
        pieces = []
        while piece := os.read(descriptor, 65536):
            pieces.append(piece)
        return b"".join(pieces).decode()
    finally:
        os.close(descriptor)
