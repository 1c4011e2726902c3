"""Compiled seccomp profiles, kept on disk: libseccomp takes 2 to 20 ms for one, and a host has few.

It stands beside the planner, which keeps nothing: whoever plans in order to start something hands it in. A file is
named by a hash of all that a filter depends on (profile, kernel, machine, our code) and says which libseccomp made it;
in it stands a hash of that name and of the rest, so one that was cut short, or belongs to another profile, is not used.
Only root can write there. A cache that cannot be used is no error, and costs what it cost without one.
"""

from __future__ import annotations

import contextlib
import json
import os
import stat

from pysandbox import VERSION
from pysandbox.plan.filter import Filter
from pysandbox.warm.place import directory_path, open_directory

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from pysandbox.oci.types import Seccomp

#: The cache's directory, in that of the server's files.
DIRECTORY = "seccomp"
MOST_ENTRIES = 256
#: Bytes of one file: a program has at most 4096 instructions, as base64 44 KB; the rest is names nobody knows.
LONGEST_ENTRY = 128 * 1024
#: The dynamic linker may find another libseccomp with these than the one that a file tells of.
_LINKER = ("LD_LIBRARY_PATH", "LD_PRELOAD", "LD_AUDIT")
_SUM = 32
_OPEN = os.O_CLOEXEC | os.O_NOFOLLOW | os.O_NONBLOCK


def compile_filter(profile: Seccomp) -> Filter | None:
    """Do as `pysandbox.plan.seccomp.compile_profile`, with the program of an earlier time if there is one."""
    directory = _open_cache()
    if directory is None:
        return _compile(profile)
    try:
        name = _name(profile)
        found = _read(directory, name)
        if found is not None:
            return found
        compiled = _compile(profile)
        if compiled is not None:
            with contextlib.suppress(OSError):  # a full disk, a read-only file system
                _store(directory, name, compiled)
        return compiled
    finally:
        os.close(directory)


def _compile(profile: Seccomp) -> Filter | None:
    from pysandbox.plan.seccomp import compile_profile

    return compile_profile(profile)


def _open_cache() -> int | None:
    """Open the directory, made if it is not there; None where it is not root's alone, or cannot be."""
    if os.geteuid() != 0 or any(os.environ.get(variable) for variable in _LINKER):
        return None
    from pysandbox.errors import SandboxError

    try:
        path = os.path.join(directory_path(), DIRECTORY)
        try:
            return open_directory(path)
        except FileNotFoundError:
            _make_directories(path)
            return open_directory(path)
    except (OSError, SandboxError):
        return None


def _make_directories(path: str) -> None:
    """Make the directory, and the server's if need be: in no other than one that is root's alone."""
    parent, name = os.path.split(path)
    try:
        os.mkdir(parent, 0o700)
    except FileExistsError:  # the server's, or another command was quicker
        pass
    descriptor = open_directory(parent)
    try:
        os.mkdir(name, 0o700, dir_fd=descriptor)
    except FileExistsError:  # another command was quicker
        pass
    finally:
        os.close(descriptor)


# -- names -------------------------------------------------------------------------------------------------------------


def _name(profile: Seccomp) -> str:
    """Return the file's name: a hash of what the filter depends on, but for libseccomp itself."""
    here = os.path.dirname(__file__)
    ours = [__file__, *(f"{here}/plan/{name}.py" for name in ("filter", "seccomp", "bpf"))]
    files = [_identity(path) for path in (*ours, "/etc/ld.so.cache")]
    depends = [profile, VERSION, os.uname().release, os.uname().machine, files]
    return _hash(json.dumps(depends, sort_keys=True, separators=(",", ":")).encode()).hex()


def _identity(path: str) -> list[int]:
    """Return what is another once the file has been replaced or changed; nothing for one that is not there."""
    try:
        status = os.stat(path)
    except OSError:
        return []
    return [status.st_dev, status.st_ino, status.st_size, status.st_mtime_ns]


def _hash(data: bytes) -> bytes:
    from _blake2 import blake2b  # hashlib would load OpenSSL

    digest: bytes = blake2b(data, digest_size=_SUM).digest()
    return digest


# -- files -------------------------------------------------------------------------------------------------------------


def _read(directory: int, name: str) -> Filter | None:
    """Return what a file holds; None where there is none, or none to be trusted."""
    try:
        descriptor = os.open(name, os.O_RDONLY | _OPEN, dir_fd=directory)
    except OSError:
        return None
    try:
        status = os.fstat(descriptor)
        if not stat.S_ISREG(status.st_mode) or status.st_uid != 0 or status.st_mode & 0o077:
            return None
        return _understand(name, os.read(descriptor, LONGEST_ENTRY + 1))
    except OSError:
        return None
    finally:
        os.close(descriptor)


def _understand(name: str, data: bytes) -> Filter | None:
    given, body = data[:_SUM], data[_SUM:]
    if len(data) > LONGEST_ENTRY or given != _hash(name.encode() + body):
        return None
    document = json.loads(body)
    path, identity = document.pop("library")
    return Filter(**document) if identity == _identity(path) else None


def _store(directory: int, name: str, compiled: Filter) -> None:
    """Write a file beside its place and move it there: nobody sees half of one."""
    library = _library_path()
    identity = _identity(library)
    if not identity:  # replaced since it was loaded
        return
    document = {
        "library": [library, identity],
        "program": compiled.program,
        "flags": compiled.flags,
        "listener": compiled.listener,
        "ignored": list(compiled.ignored),
    }
    body = json.dumps(document, separators=(",", ":")).encode()
    if len(body) + _SUM <= LONGEST_ENTRY:
        _make_room(directory)
        _write(directory, name, _hash(name.encode() + body) + body)


def _library_path() -> str:
    """Return the file of the libseccomp that this process has loaded; empty for none."""
    with open("/proc/self/maps", encoding="utf-8", errors="surrogateescape") as file:
        paths = (line.rstrip("\n").partition("/")[2] for line in file if "/libseccomp.so" in line)
        path = next(paths, "")
    return path and "/" + path


def _write(directory: int, name: str, data: bytes) -> None:
    draft = f"draft-{os.urandom(8).hex()}"
    descriptor = os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_EXCL | _OPEN, 0o600, dir_fd=directory)
    try:
        try:
            complete = os.write(descriptor, data) == len(data)
        finally:
            os.close(descriptor)
        if complete:
            os.rename(draft, name, src_dir_fd=directory, dst_dir_fd=directory)
            return
    except OSError:
        os.unlink(draft, dir_fd=directory)
        raise
    os.unlink(draft, dir_fd=directory)


def _make_room(directory: int) -> None:
    """Remove the oldest files, drafts of killed commands among them, so that one more is not one too many."""
    names = os.listdir(directory)
    if len(names) < MOST_ENTRIES:
        return
    for _, name in sorted(_ages(directory, names))[: len(names) - MOST_ENTRIES + 1]:
        try:
            os.unlink(name, dir_fd=directory)
        except OSError:  # another command was quicker, or it is none of our files
            continue


def _ages(directory: int, names: Sequence[str]) -> Iterator[tuple[int, str]]:
    for name in names:
        try:
            yield os.stat(name, dir_fd=directory, follow_symlinks=False).st_mtime_ns, name
        except FileNotFoundError:
            continue
