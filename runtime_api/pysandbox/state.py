"""What is remembered of containers, on disk: `<root>/<id>/state.json`, beside a copy of the spec, `config.json`.

A container's directory is made under a temporary name and renamed onto the id: rename(2) onto a directory that holds
something fails, so exactly one of any number of creators wins. Its lock is flock(2) on the directory itself; who gets
it checks that the path still leads to that directory. A record is replaced by rename, so a reader needs no lock.

Temporary names hold a colon, which no id can.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import json
import os
import time

from pysandbox.backend import ContainerRecord
from pysandbox.errors import (
    AlreadyExists,
    DeadlineExceeded,
    InvalidArgument,
    NotFound,
    PermissionDenied,
    Unavailable,
)
from pysandbox.record import fields

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping
    from types import TracebackType
    from typing import Any, Self

STATE_VERSION = 1
#: Seconds that a command waits for another one on the same container.
LOCK_LIMIT = 30.0
#: Bytes. The largest part of a record are the annotations.
RECORD_LIMIT = 16 * 1024 * 1024
STATUSES = ("creating", "created", "running")
_NEW, _OLD = ".new:", ".old:"
_ID_CHARACTERS = frozenset("abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789_+-.")
_DIRECTORY = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
_FILE = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC


def check_id(container_id: str) -> None:
    """Refuse what runc refuses as an id; and what is longer than the name of a directory can be (NAME_MAX, 255)."""
    if not container_id:
        raise InvalidArgument("container id cannot be empty")
    if len(container_id) > 255:
        raise InvalidArgument(f"container id of {len(container_id)} characters is too long: at most 255")
    if container_id in (".", "..") or not _ID_CHARACTERS.issuperset(container_id):
        raise InvalidArgument(f"invalid container ID format: {container_id!r}")


class DamagedRecord(Unavailable):
    """What the state directory holds of a container cannot be trusted, or not be read."""


class Directory:
    """A container's directory, held by a descriptor and (unless `shared` or unlocked) to the exclusion of others."""

    def __init__(self, store: Store, container_id: str, descriptor: int) -> None:
        self._store = store
        self.id = container_id
        self.descriptor = descriptor
        self.path = f"{store.path}/{container_id}"

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """Let go of the directory, and of its lock. Closing twice is harmless."""
        if self.descriptor >= 0:
            os.close(self.descriptor)
            self.descriptor = -1

    def unlock(self) -> None:
        """Let go of the lock and keep the directory."""
        fcntl.flock(self.descriptor, fcntl.LOCK_UN)

    def read(self) -> ContainerRecord:
        """Return the record. Raises DamagedRecord, naming the file and what is wrong with it."""
        record = _parse_record(_read_file(self.descriptor, "state.json", self.path), f"{self.path}/state.json")
        if record.id != self.id:
            raise DamagedRecord(f"{self.path}/state.json: is the record of another container: {record.id!r}")
        return record

    def write(self, record: ContainerRecord) -> None:
        """Replace the record, whole or not at all."""
        _replace_file(self.descriptor, "state.json", _record_text(record))

    def read_spec(self) -> Any:
        """Return the copy of the spec that `create` was given."""
        text = _read_file(self.descriptor, "config.json", self.path)
        return _parse_json(text, f"{self.path}/config.json")

    def remove(self) -> None:
        """Remove the directory. It is renamed first, so that half a directory never bears the id."""
        name = _OLD + os.urandom(8).hex()
        with contextlib.suppress(FileNotFoundError):
            os.rename(self.id, name, src_dir_fd=self._store.descriptor, dst_dir_fd=self._store.descriptor)
            self._store.remove_tree(name)


class Store:
    """All containers below one `--root`."""

    def __init__(self, path: str) -> None:
        """Open the root directory, made with mode 0700 if missing. It must be ours, and writable for us only."""
        self.path = os.path.abspath(path)
        try:
            _make_directories(self.path)
            self.descriptor = os.open(self.path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        except OSError as error:
            raise InvalidArgument(f"root directory {self.path}: {error.strerror}") from error
        status = os.fstat(self.descriptor)
        if status.st_uid not in (0, os.geteuid()) or status.st_mode & 0o022:
            raise PermissionDenied(f"root directory {self.path}: must be owned by root and writable by nobody else")

    # -- one container -------------------------------------------------------------------------------------------------

    def create(self, record: ContainerRecord, spec: Mapping[str, Any]) -> Directory:
        """Take an id: the directory with its first record and the spec, locked. Raises AlreadyExists."""
        config = json.dumps(spec, separators=(",", ":")).encode()
        name, descriptor = self._make_locked()
        directory = Directory(self, record.id, descriptor)
        try:
            _make_file(descriptor, "config.json", config)
            _make_file(descriptor, "state.json", _record_text(record))
            os.rename(name, record.id, src_dir_fd=self.descriptor, dst_dir_fd=self.descriptor)
        except BaseException as error:
            self.remove_tree(name)
            directory.close()
            if isinstance(error, OSError) and error.errno in (errno.ENOTEMPTY, errno.EEXIST, errno.ENOTDIR):
                raise AlreadyExists("container with given ID already exists") from error
            raise
        return directory

    def _make_locked(self) -> tuple[str, int]:
        while True:
            name = _NEW + os.urandom(8).hex()
            os.mkdir(name, mode=0o700, dir_fd=self.descriptor)
            try:
                descriptor = os.open(name, _DIRECTORY, dir_fd=self.descriptor)
            except FileNotFoundError:
                continue  # swept by another command before it was locked
            if _try_lock(descriptor, fcntl.LOCK_EX) and self._is(name, descriptor):
                return name, descriptor
            os.close(descriptor)

    def open(self, container_id: str) -> Directory:
        """Open a container's directory for reading, without its lock. Raises NotFound."""
        check_id(container_id)
        try:
            descriptor = os.open(container_id, _DIRECTORY, dir_fd=self.descriptor)
        except FileNotFoundError:
            raise NotFound("container does not exist") from None
        except OSError as error:
            raise DamagedRecord(f"{self.path}/{container_id}: {error.strerror}") from error
        return Directory(self, container_id, descriptor)

    def lock(self, container_id: str, *, shared: bool = False, limit: float | None = None) -> Directory:
        """Open a container's directory and wait, `limit` seconds at most, for its lock. Raises DeadlineExceeded."""
        limit = LOCK_LIMIT if limit is None else limit
        deadline = time.monotonic() + limit
        kind = fcntl.LOCK_SH if shared else fcntl.LOCK_EX
        while True:
            directory = self.open(container_id)
            if _lock_until(directory.descriptor, kind, deadline):
                if self._is(container_id, directory.descriptor):
                    return directory
                directory.close()  # deleted, and perhaps made anew, while we waited
                continue
            directory.close()
            raise DeadlineExceeded(f"container {container_id} is busy: another command holds its lock for {limit:g} s")

    def try_lock(self, name: str) -> Directory | None:
        """Lock a directory if nobody holds it and it is still there; else None."""
        try:
            descriptor = os.open(name, _DIRECTORY, dir_fd=self.descriptor)
        except OSError:
            return None
        if _try_lock(descriptor, fcntl.LOCK_EX) and self._is(name, descriptor):
            return Directory(self, name, descriptor)
        os.close(descriptor)
        return None

    def _is(self, name: str, descriptor: int) -> bool:
        try:
            now = os.stat(name, dir_fd=self.descriptor, follow_symlinks=False)
        except FileNotFoundError:
            return False
        held = os.fstat(descriptor)
        return (now.st_dev, now.st_ino) == (held.st_dev, held.st_ino)

    # -- all containers ------------------------------------------------------------------------------------------------

    def ids(self) -> Iterator[str]:
        """Yield the id of each directory, sorted. Whether its record can be read is another matter."""
        with os.scandir(self.descriptor) as entries:
            names = [entry.name for entry in entries if entry.is_dir(follow_symlinks=False)]
        for name in sorted(names):
            if _ID_CHARACTERS.issuperset(name):
                yield name

    def sweep(self) -> None:
        """Remove temporary directories whose maker or remover was killed: their lock is free."""
        for name in os.listdir(self.descriptor):
            if name.startswith((_NEW, _OLD)) and (directory := self.try_lock(name)) is not None:
                with directory:
                    self.remove_tree(name)

    def remove_entry(self, name: str) -> None:
        """Remove something that bears an id and is no directory: a link or a file."""
        with contextlib.suppress(FileNotFoundError, IsADirectoryError):
            os.unlink(name, dir_fd=self.descriptor)

    def remove_tree(self, name: str) -> None:
        """Remove a directory of ours with what is in it, following nothing; what is already gone is no error."""
        with contextlib.suppress(FileNotFoundError):
            _remove_tree(name, self.descriptor)


def _make_directories(path: str) -> None:
    """Make a directory, and those above it that are missing, for us alone: a daemon's umask may be 0.

    By mode, not by umask(2): that is the whole process's, and a shim's threads would take each other's for their own.
    """
    try:
        os.mkdir(path, 0o700)
    except FileExistsError:
        if not os.path.isdir(path):
            raise
    except FileNotFoundError:
        _make_directories(os.path.dirname(path))
        _make_directories(path)


# -- files -------------------------------------------------------------------------------------------------------------


def _try_lock(descriptor: int, kind: int) -> bool:
    try:
        fcntl.flock(descriptor, kind | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


def _lock_until(descriptor: int, kind: int, deadline: float) -> bool:
    pause = 0.001
    while not _try_lock(descriptor, kind):
        if time.monotonic() > deadline:
            return False
        time.sleep(pause)
        pause = min(pause * 2, 0.05)
    return True


def _read_file(directory: int, name: str, where: str) -> bytes:
    """Read a regular file of a directory, not through a link, and not more of it than we could have written."""
    try:
        descriptor = os.open(name, _FILE, dir_fd=directory)
    except OSError as error:
        text = "is a symbolic link" if error.errno == errno.ELOOP else str(error.strerror)
        raise DamagedRecord(f"{where}/{name}: {text}") from error
    try:
        status = os.fstat(descriptor)
        if status.st_mode & 0o170000 != 0o100000:
            raise DamagedRecord(f"{where}/{name}: is not a regular file")
        if status.st_size > RECORD_LIMIT:
            raise DamagedRecord(f"{where}/{name}: {status.st_size} bytes are too many: at most {RECORD_LIMIT}")
        with open(descriptor, "rb", buffering=0, closefd=False) as file:
            return file.read(status.st_size + 1)
    finally:
        os.close(descriptor)


def _make_file(directory: int, name: str, text: bytes) -> None:
    flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
    with open(os.open(name, flags, 0o600, dir_fd=directory), "wb") as file:
        file.write(text)


def _replace_file(directory: int, name: str, text: bytes) -> None:
    """Write a file of a directory under a temporary name and rename it."""
    temporary = f"{name}:{os.urandom(4).hex()}"
    try:
        _make_file(directory, temporary, text)
        os.rename(temporary, name, src_dir_fd=directory, dst_dir_fd=directory)
    except BaseException:
        with contextlib.suppress(FileNotFoundError):
            os.unlink(temporary, dir_fd=directory)
        raise


def _remove_tree(name: str, parent: int) -> None:
    """rm -r with descriptors (shutil, which has this too, costs 9 ms)."""
    descriptor = os.open(name, _DIRECTORY, dir_fd=parent)
    try:
        with os.scandir(descriptor) as entries:
            for entry in list(entries):
                with contextlib.suppress(FileNotFoundError):
                    if entry.is_dir(follow_symlinks=False):
                        _remove_tree(entry.name, descriptor)
                    else:
                        os.unlink(entry.name, dir_fd=descriptor)
    finally:
        os.close(descriptor)
    os.rmdir(name, dir_fd=parent)


def _record_text(record: ContainerRecord) -> bytes:
    document = {"version": STATE_VERSION} | {field.name: getattr(record, field.name) for field in fields(record)}
    return json.dumps(document, separators=(",", ":")).encode()


def _parse_json(text: bytes, what: str) -> Any:
    try:
        return json.loads(text.decode())
    except (ValueError, RecursionError) as error:
        raise DamagedRecord(f"{what}: is damaged: {error}") from error


_KINDS = {"pid": int, "pid_start_time": int, "annotations": dict, "backend_state": dict}


def _parse_record(text: bytes, what: str) -> ContainerRecord:
    document = _parse_json(text, what)
    if not isinstance(document, dict):
        raise DamagedRecord(f"{what}: is damaged: not an object")
    if document.get("version") != STATE_VERSION:
        raise DamagedRecord(f"{what}: has version {document.get('version')!r}, this is version {STATE_VERSION}")
    values: dict[str, Any] = {}
    for field in fields(ContainerRecord):
        kind = _KINDS.get(field.name, str)
        value = document.get(field.name)
        if type(value) is not kind:
            raise DamagedRecord(
                f"{what}: is damaged: {field.name} should be {kind.__name__}, is {type(value).__name__}"
            )
        values[field.name] = value
    if values["status"] not in STATUSES or not 0 <= values["pid"] < 2**22 + 1:
        raise DamagedRecord(f"{what}: is damaged: status {values['status']!r}, pid {values['pid']}")
    if not all(isinstance(text, str) for text in values["annotations"].values()):
        raise DamagedRecord(f"{what}: is damaged: annotations should be strings")
    return ContainerRecord(**values)
