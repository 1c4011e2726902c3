"""A command that makes containers for its own purposes is carried out by a child of the process that was started.

SIGKILL cannot be handled, but the kernel tells a child of its parent's end (PR_SET_PDEATHSIG, prctl(2)): the child gets
a SIGTERM, and clears up as it does for any other.
"""

from __future__ import annotations

import os
import signal
import sys

from pysandbox.linux import set_parent_death_signal

_FORWARDED = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGQUIT)


def carry_out_in_child() -> None:
    """Return in a child, which goes on with the command; this process waits, and ends as the child does.

    To be called while there is one thread, and before anything is made that would have to be cleared up.
    """
    sys.stdout.flush()
    parent = os.getpid()
    wanted = {number for number in _FORWARDED if signal.getsignal(number) != signal.SIG_IGN} | {signal.SIGCHLD}
    before = signal.pthread_sigmask(signal.SIG_BLOCK, wanted)
    pid = os.fork()  # noqa: TID251 (there is one thread, and it holds nothing)
    if pid:
        os._exit(_attend(pid, wanted))
    set_parent_death_signal(signal.SIGTERM)
    signal.pthread_sigmask(signal.SIG_SETMASK, before)
    if os.getppid() != parent:  # it has ended before the kernel knew that we want to be told
        os.kill(os.getpid(), signal.SIGTERM)


def _attend(pid: int, wanted: set[signal.Signals]) -> int:
    """Hand signals on until the child has ended; return its exit code."""
    while True:
        told = signal.sigwaitinfo(wanted)
        if told.si_signo == signal.SIGCHLD:
            ended, status = os.waitpid(pid, os.WNOHANG)
            if ended:
                code = os.waitstatus_to_exitcode(status)
                return code if code >= 0 else 128 - code
        elif told.si_code <= 0:  # somebody's; what a terminal sends (SI_KERNEL) the child has got itself
            os.kill(pid, told.si_signo)
