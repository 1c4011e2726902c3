"""Templates: machines that were saved just after their agent had said hello, for others to go on from.

    DIRECTORY/templates/KEY/memory          the guest's memory, sparse
    DIRECTORY/templates/KEY/state           QEMU's state of everything else
    DIRECTORY/templates/KEY/manifest.json   what they were when they were written, and of which boot of the host

KEY is of everything that went in: QEMU and its whole command line, kernel and initrd, the host's processor. What does
not fit the manifest any more is as good as none, and is made anew. A template is never written to: it is made beside,
under a lock, and renamed.

All clones begin with the same memory, so with the same layout of the kernel, and with the same random pool until the
agent is given another (docs/security.md).
"""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
import stat
import time

from pysandbox.errors import DeadlineExceeded, InvalidArgument, NotFound, PermissionDenied, Unavailable
from pysandbox.record import dataclass
from pysandbox_microvm.accelerator import boot_id
from pysandbox_microvm.memory import copy_sparse, copy_without_zeros, is_offered, offer, offered, sealed_copy

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping, Sequence
    from typing import Any, BinaryIO

    from pysandbox_microvm.arguments import Hardware
    from pysandbox_microvm.machine import Machine

#: Of the files and of what makes the key.
FORM = 1
MEMORY, STATE, MANIFEST = "memory", "state", "manifest.json"
#: Where a copy of the memory is found that clones map: memory.py.
NOTE = "shared"
_LOCK = "lock"
_NEW = ".new-"
#: Templates kept; beyond that those that were used longest ago go.
MOST_TEMPLATES = 16
#: Seconds to wait for another that makes a template: longer than that takes, even on a machine with much else to do.
LOCK_TIMEOUT = 60.0
#: Seconds for QEMU to write a state of some hundred kilobytes.
SAVE_TIMEOUT = 20.0
_LARGEST_STATE = 1024 * 1024
_LARGEST_MANIFEST = 64 * 1024


@dataclass(frozen=True, slots=True)
class Template:
    """A template on disk, `directory`, as its manifest says it is."""

    directory: str
    manifest: Mapping[str, Any]

    @property
    def key(self) -> str:
        """Its name."""
        return os.path.basename(self.directory)

    def state(self) -> bytes:
        """Return the saved state. Raises NotFound or OSError where another has removed it."""
        with self._open(STATE) as file:
            return file.read(_LARGEST_STATE)

    def copy_memory(self, memory: int) -> None:
        """Write the saved memory into an empty file: only what is no hole."""
        with self._open(MEMORY) as file:
            copy_sparse(file.fileno(), memory)

    def share_memory(self) -> int:
        """Return a copy of the saved memory that nobody can write to: another clone's, or one of our own."""
        with self._open(MEMORY) as file:
            found = offered(self._note, os.fstat(file.fileno()).st_size)
            return found if found is not None else sealed_copy(file.fileno())

    def offer_memory(self, descriptor: int) -> None:
        """Let later clones have what `share_memory` returned, for as long as this process has it open."""
        if not is_offered(self._note):
            offer(self._note, descriptor)

    @property
    def _note(self) -> str:
        return os.path.join(self.directory, NOTE)

    def _open(self, name: str) -> BinaryIO:
        """Open a file that is as its manifest says."""
        path = os.path.join(self.directory, name)
        descriptor = _reading(path, os.O_RDONLY)
        if _fingerprint(os.fstat(descriptor)) != self.manifest[name]:
            os.close(descriptor)
            raise NotFound(f"{path}: has been changed since it was made")
        return open(descriptor, "rb")


def key_of(parts: Sequence[object]) -> str:
    """Return the name of the template that is made of `parts`."""
    from _blake2 import blake2b  # hashlib would load OpenSSL

    digest: str = blake2b(json.dumps([FORM, *parts]).encode(), digest_size=8).hexdigest()
    return digest


def find_template(directory: str, key: str) -> Template | None:
    """Return a template of this boot of the host that is whole, else None. `directory` holds them all.

    Raises PermissionDenied for a directory that others than its owner could have changed.
    """
    try:
        _check(directory)
        return _load(os.path.join(directory, key))
    except NotFound:
        return None


def provide_template(directory: str, key: str, make: Callable[[], Machine], broken: Template | None = None) -> Template:
    """Return the template, made now if there is none, or only `broken`. Many may ask: one of them makes it.

    `make` starts a machine whose agent has said hello. Raises DeadlineExceeded when another takes too long to make it;
    what `make` raises, OSError.
    """
    os.makedirs(directory, 0o700, exist_ok=True)
    _check(directory)
    with _locked(directory):
        found = find_template(directory, key)
        if found is not None and (broken is None or found.manifest != broken.manifest):
            return found
        if found is not None:
            _remove(found.directory)
        _sweep(directory, MOST_TEMPLATES - 1)
        return _make(directory, key, make)


def list_templates(directory: str) -> list[Template]:
    """Return the templates that could be used, by key."""
    try:
        names = sorted(os.listdir(directory))
    except FileNotFoundError:
        return []
    found = [find_template(directory, name) for name in names if name.isalnum() and name != _LOCK]
    return [template for template in found if template is not None]


def remove_template(directory: str, key: str) -> None:
    """Remove one. Machines that are its clones do not need it. Raises NotFound."""
    if not key.isalnum() or key == _LOCK or not os.path.isdir(os.path.join(directory, key)):
        raise NotFound(f"{key}: no such template in {directory}")
    with _locked(directory):
        _remove(os.path.join(directory, key))


def hardware_document(hardware: Hardware) -> dict[str, Any]:
    """Return what a template's list shows of a machine."""
    return {
        "vcpus": hardware.vcpus,
        "memory_size": hardware.memory,
        "accelerator": hardware.accelerator,
        "root_ports": hardware.root_ports,
        "root_disk": hardware.root_disk,
    }


# -- making ------------------------------------------------------------------------------------------------------------


def _make(directory: str, key: str, make: Callable[[], Machine]) -> Template:
    new = os.path.join(directory, f"{_NEW}{os.getpid()}-{time.monotonic_ns()}")
    os.mkdir(new, 0o700)
    try:
        with make() as machine:
            state = machine.save(SAVE_TIMEOUT)
            manifest = {
                "form": FORM,
                "boot": boot_id(),
                "created": round(time.time()),
                **hardware_document(machine.hardware),
                STATE: _write(os.path.join(new, STATE), lambda file: _write_all(file, state)),
                MEMORY: _write(os.path.join(new, MEMORY), lambda file: copy_without_zeros(machine.memory, file)),
            }
        _write(os.path.join(new, MANIFEST), lambda file: _write_all(file, json.dumps(manifest).encode()))
        path = os.path.join(directory, key)
        _remove(path)
        os.rename(new, path)
    except BaseException:
        _remove(new)
        raise
    return Template(path, manifest)


def _write(path: str, fill: Callable[[int], None]) -> list[int]:
    """Make a file; return its fingerprint. In a private directory, readable to whom it is handed, writable to none."""
    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o444)
    try:
        fill(descriptor)
        return _fingerprint(os.fstat(descriptor))
    except OSError as error:
        raise OSError(error.errno, error.strerror, path) from error
    finally:
        os.close(descriptor)


def _write_all(descriptor: int, data: bytes) -> None:
    rest = memoryview(data)
    while rest:
        rest = rest[os.write(descriptor, rest) :]


# -- finding -----------------------------------------------------------------------------------------------------------


def _load(path: str) -> Template:
    manifest = _read_manifest(os.path.join(path, MANIFEST))
    if manifest.get("form") != FORM or manifest.get("boot") != boot_id():
        raise NotFound(f"{path}: is of another version, or was made before the host started")
    template = Template(path, manifest)
    for name in (MEMORY, STATE):
        template._open(name).close()
    return template


def _read_manifest(path: str) -> dict[str, Any]:
    try:
        with open(path, "rb", opener=_reading) as file:
            manifest = json.loads(file.read(_LARGEST_MANIFEST))
    except (ValueError, RecursionError):
        raise NotFound(f"{path}: is no manifest") from None
    except OSError as error:
        raise NotFound(f"{path}: {error.strerror}") from None
    if not isinstance(manifest, dict) or not all(isinstance(manifest.get(name), list) for name in (MEMORY, STATE)):
        raise NotFound(f"{path}: is no manifest")
    return manifest


def _fingerprint(status: os.stat_result) -> list[int]:
    """Return what changes when a file is written to, cut or replaced: nobody can set the time of its last change."""
    return [status.st_ino, status.st_size, status.st_ctime_ns]


def _reading(path: str, flags: int) -> int:
    try:
        return os.open(path, flags | os.O_CLOEXEC | os.O_NOFOLLOW)
    except OSError as error:
        raise NotFound(f"{path}: {error.strerror}") from None


def _check(directory: str) -> None:
    try:
        status = os.stat(directory, follow_symlinks=False)
    except FileNotFoundError:
        raise NotFound(f"{directory}: no such directory") from None
    if not stat.S_ISDIR(status.st_mode):
        raise InvalidArgument(f"{directory}: is no directory")
    if status.st_uid != os.geteuid() or status.st_mode & 0o077:
        raise PermissionDenied(f"{directory}: must be owned by root, and closed to everybody else (mode 0700)")


# -- keeping -----------------------------------------------------------------------------------------------------------


@contextlib.contextmanager
def _locked(directory: str) -> Iterator[None]:
    """Hold the lock of the directory. Raises DeadlineExceeded where another holds it for too long."""
    lock = os.open(os.path.join(directory, _LOCK), os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)
    deadline = time.monotonic() + LOCK_TIMEOUT
    try:
        while True:
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
                break
            except BlockingIOError:
                if time.monotonic() > deadline:
                    raise DeadlineExceeded(f"{directory}: locked for {LOCK_TIMEOUT:g} s by another") from None
                time.sleep(0.02)
        yield
    finally:
        os.close(lock)


def _sweep(directory: str, keep: int) -> None:
    """Remove what a killed maker left, what is of no use any more, and the oldest beyond so many. Under the lock."""
    useful = list_templates(directory)
    useful.sort(key=lambda template: template.manifest.get("created", 0), reverse=True)
    kept = {template.key for template in useful[:keep]}
    for name in os.listdir(directory):
        if name != _LOCK and name not in kept:
            _remove(os.path.join(directory, name))


def _remove(path: str) -> None:
    """Remove a template's directory, where there is one: its manifest first, so that nobody takes it for whole."""
    for name in (MANIFEST, STATE, MEMORY, *_notes(path)):
        with contextlib.suppress(FileNotFoundError, NotADirectoryError):
            os.unlink(os.path.join(path, name))
    try:
        os.rmdir(path)
    except FileNotFoundError:
        pass
    except OSError as error:
        raise Unavailable(f"{path}: {error.strerror}: not made by pysandbox") from error


def _notes(path: str) -> list[str]:
    try:
        return [name for name in os.listdir(path) if name.startswith(NOTE)]
    except (FileNotFoundError, NotADirectoryError):
        return []
