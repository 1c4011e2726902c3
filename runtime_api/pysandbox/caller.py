"""The process that the caller started, and what belongs to it alone: its pid, its cgroup, its children.

Cold, that is this very process. Under the warm start (docs/warm.md) it is the launcher, and this process a fork of the
server: what is started for a command must still be the launcher's child, in its cgroup, session and namespaces, or
containerd's shim, conmon and dockerd would neither reap nor limit it.
"""

from __future__ import annotations

import _signal
import contextlib
import fcntl
import os
from functools import partial

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence
    from typing import Any


class Cold(BaseException):
    """This command cannot be served warm as it would be cold. Nothing has been done yet: the launcher starts it cold.

    Not an `Exception`: no command may take it for an error of its own.
    """


class Start:
    """A program that is being started."""

    def __init__(self, pid: int = 0, error: Exception | None = None) -> None:
        self._pid, self._error = pid, error

    def pid(self) -> int:
        """Return the child's pid as soon as it is known. Raises OSError as posix_spawn(3) does."""
        if self._error is not None:
            raise self._error
        return self._pid


class Caller:
    """This very process."""

    @property
    def pid(self) -> int:
        """Its process id."""
        return os.getpid()

    def installed(self, name: str) -> str | None:
        """Return the path of another program of this installation that a server serves; cold there is none."""
        return None

    def enter(self, places: Sequence[tuple[str, int]]) -> None:
        """Have it enter what this process has entered: `tasks` or `cgroup` of a cgroup, or `network`, by descriptor."""

    def lead_session(self) -> None:
        """Have it lead a session of its own, as this process does."""

    def reside(self, *keep: int) -> None:
        """Live on in its place for long: in its cgroups, with its priorities, and with children of this process's own.

        It ends when this process does, and this process when it does. Descriptors but 0, 1, 2 and `keep` are closed.
        """

    def end_with(self, code: int) -> None:
        """Have it exit with this code when this process has ended, whatever ends it. The last one told counts."""

    def require_cold(self, reason: str) -> None:
        """Have the command run cold from its beginning, for what only the caller's own process can do."""

    def spawn(
        self,
        program: str | int,
        args: Sequence[str],
        env: Mapping[str, str] | None,
        streams: Sequence[int],
        *,
        group: bool = False,
    ) -> int:
        """Start a program as a child and return its pid: posix_spawn(3), all signals at their default.

        `program` is a path or a descriptor of the file. `streams` become the descriptors 0, 1, 2, …; it gets no others.
        `env` is the whole environment, None means the caller's. `group` makes it the leader of a process group.
        """
        with contextlib.ExitStack() as held:
            # Copied beyond all targets first, so that no dup2(2) overwrites what a later one needs.
            copies = [_copy(held, stream, len(streams)) for stream in streams]
            if isinstance(program, int):
                program = f"/proc/self/fd/{_copy(held, program, len(streams))}"
            spawn = partial(os.posix_spawn, setpgroup=0) if group else os.posix_spawn
            return spawn(
                program,
                list(args),
                os.environ if env is None else env,
                file_actions=[(os.POSIX_SPAWN_DUP2, copy, target) for target, copy in enumerate(copies)],
                setsigmask=(),
                setsigdef=_signal.valid_signals() - {9, 19},  # all but SIGKILL and SIGSTOP
            )

    def detach(self, stay: Callable[[Any], None]) -> bool:
        """Have a small fork of this process live on, in a session of its own; say whether one does.

        It is in the caller's cgroups, and starts children for who serves (`pysandbox.shim.keeper`). This process runs
        `stay` with it (a `pysandbox.warm.second.Second`) when its command has ended and the caller with it, holding
        whatever it holds. A process that was started cold is not forked, it may have threads: False, and a program must
        be started.
        """
        return False

    def begin(
        self, program: str | int, args: Sequence[str], env: Mapping[str, str] | None, streams: Sequence[int]
    ) -> Start:
        """Start a program as `spawn` does; its pid, and what went wrong, can be asked for later.

        The descriptors may be closed at once.
        """
        try:
            return Start(self.spawn(program, args, env, streams))
        except OSError as error:
            return Start(error=error)

    def reap(self, pid: int) -> int | None:
        """Take a child's wait status, None while it runs. Raises ChildProcessError for what is no child."""
        reaped, status = os.waitpid(pid, os.WNOHANG)
        return status if reaped else None

    def is_child(self, pid: int) -> bool:
        """Say whether a process is a child, ended or not, that nobody has reaped."""
        try:
            os.waitid(os.P_PID, pid, os.WEXITED | os.WNOHANG | os.WNOWAIT)
        except ChildProcessError:
            return False
        return True

    def adopt(self) -> None:
        """Become the parent of descendants that lose theirs: `PR_SET_CHILD_SUBREAPER` of prctl(2)."""
        from pysandbox.linux import set_child_subreaper

        set_child_subreaper()

    def attend(self, pid: int) -> None:
        """Reap every child that has ended but `pid`, whose exit code is wanted. To be called at each SIGCHLD."""
        with contextlib.suppress(ChildProcessError):
            while (ended := os.waitid(os.P_ALL, 0, os.WEXITED | os.WNOHANG | os.WNOWAIT)) is not None:
                if ended.si_pid == pid:
                    return
                os.waitpid(ended.si_pid, 0)


def _copy(held: contextlib.ExitStack, descriptor: int, beyond: int) -> int:
    copy = fcntl.fcntl(descriptor, fcntl.F_DUPFD_CLOEXEC, beyond)
    held.callback(os.close, copy)
    return copy


_current = Caller()


def current() -> Caller:
    """Return the process that the caller started."""
    return _current


def become(caller: Caller) -> None:
    """Act for another process from now on."""
    global _current
    _current = caller
