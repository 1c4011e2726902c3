"""System calls that Python 3.11 has no function for. One short wrapper each, named as the call.

ctypes costs 6 ms, so it is imported by the call that needs it: most commands need none of them.
"""

from __future__ import annotations

import os

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Sequence

# From the Linux kernel headers.
PR_SET_PDEATHSIG = 1
PR_SET_CHILD_SUBREAPER = 36
PR_SET_THP_DISABLE = 41
NR_pidfd_getfd = 438
#: Root, working directory and umask.
CLONE_FS = 0x200
#: IN_MODIFY | IN_ATTRIB (a link less, by a rename over it) | IN_DELETE_SELF | IN_MOVE_SELF.
IN_CHANGED = 0x002 | 0x004 | 0x400 | 0x800

#: Field numbers of /proc/PID/stat (proc(5)) counted from the state, which follows the name in brackets.
_STAT_STATE = 0
_STAT_START_TIME = 19


def kernel_version(release: str | None = None) -> tuple[int, int]:
    """Return (major, minor) of a release such as `6.1.0-18-amd64` or `6.18-rc3`, this kernel's if none is given."""
    major, minor = (release or os.uname().release).split(".")[:2]
    return int(major), int(minor.partition("-")[0])


def set_child_subreaper() -> None:
    """Make this process the one that adopts orphaned descendants: `PR_SET_CHILD_SUBREAPER` of prctl(2)."""
    _set("PR_SET_CHILD_SUBREAPER", PR_SET_CHILD_SUBREAPER)


def disable_huge_pages() -> None:
    """Have this process and what it starts do without transparent huge pages: `PR_SET_THP_DISABLE` of prctl(2)."""
    _set("PR_SET_THP_DISABLE", PR_SET_THP_DISABLE)


def set_parent_death_signal(number: int) -> None:
    """Have the kernel send this process a signal when the thread that made it ends: `PR_SET_PDEATHSIG` of prctl(2)."""
    _set("PR_SET_PDEATHSIG", PR_SET_PDEATHSIG, number)


def _set(name: str, option: int, value: int = 1) -> None:
    import ctypes

    libc = ctypes.CDLL(None, use_errno=True)
    if libc.prctl(option, *map(ctypes.c_ulong, (value, 0, 0, 0))) < 0:
        errno = ctypes.get_errno()
        raise OSError(errno, f"prctl({name}): {os.strerror(errno)}")


def pidfd_getfd(pidfd: int, descriptor: int) -> int:
    """Duplicate a descriptor of another process: pidfd_getfd(2), Linux 5.6. The copy is CLOEXEC."""
    import ctypes

    libc = ctypes.CDLL(None, use_errno=True)
    copy = int(libc.syscall(NR_pidfd_getfd, pidfd, descriptor, 0))
    if copy < 0:
        errno = ctypes.get_errno()
        raise OSError(errno, f"pidfd_getfd: {os.strerror(errno)}")
    return copy


def setns(descriptor: int, kinds: int) -> None:
    """Join namespaces: setns(2). With a pidfd (Linux 5.8), those of its process that the CLONE_NEW* flags name."""
    import ctypes

    libc = ctypes.CDLL(None, use_errno=True)
    if libc.setns(descriptor, kinds) < 0:
        errno = ctypes.get_errno()
        raise OSError(errno, f"setns: {os.strerror(errno)}")


def unshare(kinds: int) -> None:
    """Stop sharing, in the calling thread alone, what the CLONE_* flags name: unshare(2)."""
    import ctypes

    libc = ctypes.CDLL(None, use_errno=True)
    if libc.unshare(kinds) < 0:
        errno = ctypes.get_errno()
        raise OSError(errno, f"unshare: {os.strerror(errno)}")


def watch(paths: Sequence[str]) -> int:
    """Return an inotify(7) descriptor: readable once one of the files is written to, replaced or removed."""
    import ctypes

    libc = ctypes.CDLL(None, use_errno=True)
    descriptor = libc.inotify_init1(os.O_NONBLOCK | os.O_CLOEXEC)
    for path in paths if descriptor >= 0 else ():
        if libc.inotify_add_watch(descriptor, os.fsencode(path), IN_CHANGED) < 0:
            os.close(descriptor)
            descriptor = -1
            break
    if descriptor < 0:
        errno = ctypes.get_errno()
        raise OSError(errno, f"inotify: {os.strerror(errno)}")
    return int(descriptor)


def start_time(pid: int, *, zombie: bool = False) -> int | None:
    """Return when a process started, in clock ticks since boot, or None if it has ended (a zombie has, unless allowed).

    Field 22 of /proc/PID/stat; a pid and its start time together name one process for as long as the host is up.
    """
    try:
        with open(f"/proc/{pid}/stat", "rb", buffering=0) as stat:
            # The name may hold spaces and brackets of its own: what counts follows the last bracket.
            fields = stat.read(4096).rpartition(b")")[2].split()
    except (FileNotFoundError, ProcessLookupError):
        return None
    if len(fields) <= _STAT_START_TIME or (fields[_STAT_STATE] in (b"Z", b"X") and not zombie):
        return None
    return int(fields[_STAT_START_TIME])


def is_alive(pid: int, started: int) -> bool:
    """Say whether this very process, told by its start time, is there and no zombie."""
    return pid > 0 and start_time(pid) == started


def open_standard_descriptors() -> None:
    """Make sure that 0, 1 and 2 are open, so that no file opened later becomes someone's standard output."""
    while (descriptor := os.open("/dev/null", os.O_RDWR | os.O_CLOEXEC)) <= 2:
        os.set_inheritable(descriptor, True)
    os.close(descriptor)


def close_inherited_on_exec(first: int) -> frozenset[int]:
    """Set CLOEXEC on every open descriptor from `first` on, and return them.

    What the caller left open is no business of a child that was not promised it.

    The list comes from /proc, as close_range(2) with CLOSE_RANGE_CLOEXEC would cost the import of ctypes.
    """
    found = set()
    for name in os.listdir("/proc/self/fd"):
        if int(name) >= first:
            try:
                os.set_inheritable(int(name), False)
            except OSError:
                continue  # the listing's own descriptor
            found.add(int(name))
    return frozenset(found)
