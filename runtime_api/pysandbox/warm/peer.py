"""Who is at the other end of a connection, and may a fork of this server act for it?

Being uid 0 is not enough: root in a container may have lost capabilities, system calls or its way out of a directory,
and must not get them back through us. So a caller is served only if the kernel says that it has exactly what the
server has; anybody else runs cold, with what is its own. What can be had from the caller by request (limits, groups,
namespaces to join) is taken from the kernel too, never from what the caller says.

All of it is read from /proc/PID. That it is the peer's, and not that of a process which has got its pid since, is known
by the peer's pidfd (SO_PEERPIDFD, Linux 6.5): it is asked afterwards whether the peer is still alive. What /proc does
not show, proof.py has the kernel say.
"""

from __future__ import annotations

import fcntl
import os
import select

from pysandbox.record import dataclass

TYPE_CHECKING = False
if TYPE_CHECKING:
    import _socket

#: What a spare holds itself has numbers from here on; a caller's descriptors have their own numbers below.
OUR_DESCRIPTORS = 512
#: asm-generic/socket.h, newer than Python 3.11's constants.
SO_PEERPIDFD = 77
SO_PEERCRED = 17
SOL_SOCKET = 1
#: Resource limits there are: asm-generic/resource.h.
RLIM_NLIMITS = 16
#: Namespaces that a fork of the server joins where the caller is in others: file in /proc/PID/ns → CLONE_NEW* flag.
JOINED = {"mnt": 0x00020000, "net": 0x40000000, "uts": 0x04000000, "ipc": 0x08000000, "cgroup": 0x02000000}
#: Those that a process cannot join for itself, or only at the price of its powers.
SHARED = ("user", "pid", "time")
#: Lines of /proc/PID/status (proc(5)) that must be the server's own.
POWERS = (b"Uid", b"CapInh", b"CapPrm", b"CapEff", b"CapBnd", b"CapAmb", b"NoNewPrivs", b"Seccomp", b"Threads")
#: Those of them that are capabilities one has, and those that are handed on to programs: bits, in hexadecimal.
HELD, HANDED_ON = (b"CapPrm", b"CapEff", b"CapBnd"), (b"CapInh", b"CapAmb")


class Refused(Exception):
    """The caller cannot be served; the text says why."""


class Stale(Refused):
    """No such caller can be served by this server, which should make room for another."""


@dataclass(frozen=True, slots=True)
class Standing:
    """What a process has: its powers, its place, and what a fork takes over from it."""

    powers: dict[bytes, bytes]
    label: bytes
    shared: tuple[int, ...]
    joined: dict[str, int]
    root: tuple[int, int, bytes]
    groups: tuple[int, ...]
    gids: tuple[int, ...]
    limits: bytes
    oom_score_adj: bytes


def standing(pid: int, proc: int) -> Standing:
    """Read what a process has; `proc` is a descriptor of /proc. Raises OSError when it is gone."""
    lines = _status(proc, pid)
    return Standing(
        powers=_powers(lines),
        label=_label(proc, pid),
        shared=tuple(_namespace(proc, pid, kind) for kind in SHARED),
        joined={kind: _namespace(proc, pid, kind) for kind in JOINED},
        root=root_of(proc, pid),
        groups=tuple(map(int, lines[b"Groups"].split())),
        gids=tuple(map(int, lines[b"Gid"].split())),
        limits=_read(proc, f"{pid}/limits"),
        oom_score_adj=_read(proc, f"{pid}/oom_score_adj"),
    )


def _status(proc: int, pid: int) -> dict[bytes, bytes]:
    return dict(line.split(b":", 1) for line in _read(proc, f"{pid}/status").splitlines())


def _powers(lines: dict[bytes, bytes]) -> dict[bytes, bytes]:
    return {name: lines[name].strip() for name in POWERS}


def root_of(proc: int, pid: int) -> tuple[int, int, bytes]:
    """Return device, inode and mount of a process's root. Its path would not do: mounts may be stacked on `/`."""
    descriptor = os.open(f"{pid}/root", os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC, dir_fd=proc)
    try:
        status = os.fstat(descriptor)
        lines = _read(proc, f"self/fdinfo/{descriptor}").splitlines()
        return status.st_dev, status.st_ino, next(line for line in lines if line.startswith(b"mnt_id"))
    finally:
        os.close(descriptor)


def _read(proc: int, name: str) -> bytes:
    descriptor = os.open(name, os.O_RDONLY | os.O_CLOEXEC, dir_fd=proc)
    try:
        return os.read(descriptor, 16384)
    finally:
        os.close(descriptor)


def _label(proc: int, pid: int) -> bytes:
    """Return the process's security label; nothing where no security module keeps labels (EINVAL)."""
    try:
        return _read(proc, f"{pid}/attr/current")
    except OSError:
        return b""


def _namespace(proc: int, pid: int, kind: str) -> int:
    return os.stat(f"{pid}/ns/{kind}", dir_fd=proc).st_ino


def check(caller: Standing, own: Standing) -> None:
    """Raise Refused for a caller that has not exactly the server's powers and place, but for namespaces to join."""
    # First: root of a user namespace has all capabilities, which says nothing about ours.
    for kind, its, ours in zip(SHARED, caller.shared, own.shared, strict=True):
        if its != ours:
            raise Refused(f"it is in another {kind} namespace")
    for name in POWERS:
        if caller.powers[name] != own.powers[name]:
            difference = f"{name.decode()} differs from the server's"
            raise Stale(difference) if has_more(caller, own) else Refused(difference)
    if caller.powers[b"Seccomp"] != b"0":
        raise Refused("it has a seccomp filter")  # as may we, but who knows whether it is the same one
    if caller.label != own.label:
        raise Refused("its security label differs from the server's")
    if caller.joined["mnt"] == own.joined["mnt"] and caller.root != own.root:
        raise Refused("it has another root directory")


def has_more(caller: Standing, own: Standing) -> bool:
    """Say whether a caller has all that the server has, and something that it has not.

    Such a server was started by somebody confined, and would send everybody else cold for as long as it lives.
    """
    its, ours = caller.powers, own.powers
    if any(its[name] != ours[name] for name in (b"Uid", b"Seccomp", b"Threads")):
        return False
    lacks = any(int(ours[name], 16) & ~int(its[name], 16) for name in HELD) or its[b"NoNewPrivs"] > ours[b"NoNewPrivs"]
    has = any(int(its[name], 16) & ~int(ours[name], 16) for name in HELD) or its[b"NoNewPrivs"] < ours[b"NoNewPrivs"]
    plain = not any(int(its[name], 16) for name in HANDED_ON)
    return plain and not lacks and (has or any(int(ours[name], 16) for name in HANDED_ON))


class Peer:
    """The process that has connected: its pid, and a pidfd that names it for good."""

    def __init__(self, connection: _socket.socket) -> None:
        """Ask the kernel who connected. Raises Refused on a kernel that cannot say it race-free."""
        credentials = connection.getsockopt(SOL_SOCKET, SO_PEERCRED, 12)
        self.pid = int.from_bytes(credentials[:4], "little", signed=True)
        try:
            pidfd = connection.getsockopt(SOL_SOCKET, SO_PEERPIDFD)
        except OSError as error:
            raise Refused(f"the kernel does not tell the caller's pidfd: {error.strerror}") from error
        self.pidfd = fcntl.fcntl(pidfd, fcntl.F_DUPFD_CLOEXEC, OUR_DESCRIPTORS)
        os.close(pidfd)

    def standing(self, proc: int) -> Standing:
        """Read what it has: nothing to rely on before `confirm`. Raises Refused."""
        try:
            return standing(self.pid, proc)
        except (OSError, KeyError, ValueError) as error:
            raise Refused(f"cannot tell who it is: {error}") from error

    def confirm(self, found: Standing, proc: int) -> None:
        """Raise Refused if it has lost power since it was read about, or if that may have been another with its pid.

        To be called when it has said all it wants: what it says then, it says with these powers.
        """
        try:
            powers = _powers(_status(proc, self.pid))
        except (OSError, KeyError, ValueError) as error:
            raise Refused(f"cannot tell who it is: {error}") from error
        if powers != found.powers:
            raise Refused("it has changed since it called")
        if self.ended():
            raise Refused("it has ended")

    def ended(self) -> bool:
        """Say whether it has ended: a pidfd is readable then (pidfd_open(2))."""
        poll = select.poll()
        poll.register(self.pidfd, select.POLLIN)
        return bool(poll.poll(0))
