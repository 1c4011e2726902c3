"""Which program a runtime's name stands for, and whether it may be trusted: it runs as root, with our caller's files.

A name is no path: it is looked up on a fixed list of directories, never on the caller's PATH. A path must be absolute,
and, links followed, neither the file nor a directory above it may be another's to change. The path that is then
executed is the one with its links followed: whoever may change a link decides nothing afterwards.
"""

from __future__ import annotations

import errno
import os
import stat

from pysandbox.errors import InvalidArgument, PermissionDenied, Unavailable

#: Where names are looked up: what root's own login has, and nothing that a caller says.
DIRECTORIES = ("/usr/local/sbin", "/usr/local/bin", "/usr/sbin", "/usr/bin", "/sbin", "/bin")
SECURE_PATH = ":".join(DIRECTORIES)
#: Names that `pysandbox backends` looks for.
KNOWN = ("runc", "crun", "runsc", "youki", "krun", "crun-vm", "sysbox-runc", "nvidia-container-runtime")
_CHARACTERS = frozenset("abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789._-")
#: Bytes of a path (PATH_MAX) and of a name (NAME_MAX).
_LONGEST_PATH, _LONGEST_NAME = 4095, 255
#: Links on the way, as many as the kernel follows (path_resolution(7)).
_MOST_LINKS = 40


def check_name(name: str) -> None:
    """Refuse what is neither a program's name nor an absolute path. Raises InvalidArgument."""
    if not name:
        raise InvalidArgument(
            "backend 'oci': which runtime? say oci:NAME (oci:runc, oci:crun, …) or oci:/ABSOLUTE/PATH"
        )
    where = f"backend {f'oci:{name}'[:_LONGEST_NAME]!r}"
    if name.startswith("/"):
        if len(os.fsencode(name)) > _LONGEST_PATH or not name.isprintable():
            raise InvalidArgument(f"{where}: is no path of printable characters, at most {_LONGEST_PATH} bytes")
    elif "/" in name:
        raise InvalidArgument(f"{where}: a runtime is a name or an absolute path")
    elif not _CHARACTERS.issuperset(name) or name in (".", "..") or name.startswith("-") or len(name) > _LONGEST_NAME:
        raise InvalidArgument(f"{where}: a runtime's name has letters, digits, '.', '_' and '-' only")


def find_program(name: str) -> str:
    """Return the path to execute for a name or a path, links followed.

    Raises InvalidArgument, Unavailable, and PermissionDenied for a program that somebody else than root could change.
    """
    check_name(name)
    path = name if name.startswith("/") else _look_up(name)
    return trusted(path, f"backend 'oci:{name}'")


def _look_up(name: str) -> str:
    for directory in DIRECTORIES:
        path = f"{directory}/{name}"
        if os.path.lexists(path):
            return path
    raise Unavailable(
        f"backend 'oci:{name}': no program {name!r} in {SECURE_PATH}; install it, or say oci:/ABSOLUTE/PATH"
    )


def trusted(path: str, where: str) -> str:
    """Return an absolute path with its links followed, if only root can change what it names.

    Every directory and link on the way is looked at, not only the end of it. `where` begins the error's text.
    Raises Unavailable (never NotFound, which `delete --force` takes for done) and PermissionDenied.
    """
    try:
        return _follow(path, where)
    except OSError as error:
        raise Unavailable(f"{where}: {error.filename or path}: {error.strerror}") from error


def _follow(path: str, where: str) -> str:
    _check_owner("/", os.stat("/"), where)
    reached, rest, links = "", path.split("/"), 0
    while rest:
        name = rest.pop(0)
        if name in ("", "."):
            continue
        if name == "..":
            reached = os.path.dirname(reached).rstrip("/")
            continue
        entry = f"{reached}/{name}"
        status = os.stat(entry, follow_symlinks=False)
        _check_owner(entry, status, where)
        if stat.S_ISLNK(status.st_mode):
            links += 1
            if links > _MOST_LINKS:
                raise OSError(errno.ELOOP, os.strerror(errno.ELOOP), path)
            target = os.readlink(entry)
            reached = "" if target.startswith("/") else reached
            rest = [*target.split("/"), *rest]
        else:
            reached = entry
    _check_file(reached or "/", where)
    return reached


def _check_file(path: str, where: str) -> None:
    mode = os.stat(path, follow_symlinks=False).st_mode
    if not stat.S_ISREG(mode):
        raise PermissionDenied(f"{where}: {path} is not a regular file")
    if not mode & 0o111:
        raise PermissionDenied(f"{where}: {path} is not executable")


def _check_owner(path: str, status: os.stat_result, where: str) -> None:
    """Refuse what another than root could change: a file, a link, or a directory on the way."""
    if status.st_uid != 0:
        raise PermissionDenied(
            f"{where}: {path} belongs to uid {status.st_uid}: a runtime runs as root, so it must be root's"
        )
    mode = status.st_mode
    if stat.S_ISLNK(mode) or (stat.S_ISDIR(mode) and mode & stat.S_ISVTX):
        return  # a link has no mode; in a sticky directory nobody can take away or replace what is root's
    if mode & 0o022:
        raise PermissionDenied(
            f"{where}: {path} is writable by others than root (mode {stat.S_IMODE(mode):04o}); remedy: chmod go-w"
        )
