"""Proof that a caller has power over the server, for what /proc does not show of it.

A process under Landlock, or under a security module's policy, may look in /proc/PID like one that is not. So a launcher
takes a descriptor out of the server by pidfd_getfd(2), and sends it along: the kernel gives it only to who may trace
the server (ptrace(2), PTRACE_MODE_ATTACH_REALCREDS: capabilities, Yama, Landlock, security modules), and who may do
that needs nothing from us. That the server may do it to the caller, reading the links in /proc/PID tells (peer.py).

A kernel whose Yama lets nobody trace (`kernel.yama.ptrace_scope` is 3) has no warm start.
"""

from __future__ import annotations

import fcntl
import os

from pysandbox.warm.peer import Refused

#: The descriptor's number in the server: the launcher knows it too (conversation.rs). Spares do not have it.
NUMBER = 1000
#: Device and inode of a file in memory, which no other file has while the server lives.
Proof = tuple[int, int]


def make() -> Proof:
    """Make this process's proof, at its number; return what it is known by."""
    descriptor = os.memfd_create("proof", os.MFD_CLOEXEC | os.MFD_ALLOW_SEALING)
    os.dup2(descriptor, NUMBER, inheritable=False)
    os.close(descriptor)
    return _known_by(NUMBER)


def check(sent: int, own: Proof) -> None:
    """Raise Refused unless what a caller has sent is the server's proof."""
    try:
        fcntl.fcntl(sent, fcntl.F_GET_SEALS)  # what is not in memory might keep fstat(2) waiting (FUSE)
        proven = _known_by(sent) == own
    except OSError:
        proven = False
    if not proven:
        raise Refused("it has no proof of power over the server")


def _known_by(descriptor: int) -> Proof:
    status = os.fstat(descriptor)
    return status.st_dev, status.st_ino
