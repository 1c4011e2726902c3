"""Start a process, wait for it, take the time: the same few system calls for every contender."""

from __future__ import annotations

import ctypes
import os
import queue
import signal
import threading
import time
from typing import TYPE_CHECKING, TypeVar

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

T = TypeVar("T")

CLONE_NEWNS, MS_REC, MS_SLAVE, MNT_DETACH, PR_SET_CHILD_SUBREAPER = 0x00020000, 0x4000, 1 << 19, 2, 36
#: A container that has not ended after so long never will.
LIMIT = 30.0


class Failed(Exception):
    """A contender's command ended with an error; the text is what it wrote."""


def adopt_orphans() -> None:
    """Become the subreaper: a detached container's init is then our child, and its end is ours to see."""
    ctypes.CDLL(None).prctl(PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0)


def run(argv: Sequence[str], environment: Mapping[str, str], output: int) -> float:
    """Run a command and return its milliseconds: /dev/null as stdin, the file `output` as the rest. Raises Failed."""
    begin = time.perf_counter_ns()
    pid = spawn(argv, environment, output)
    _, status = os.waitpid(pid, 0)
    end = time.perf_counter_ns()
    code = os.waitstatus_to_exitcode(status)
    if code != 0:
        raise Failed(
            f"{' '.join(argv)}: exit code {code}: {os.pread(output, 2000, 0).decode(errors='replace').strip()}"
        )
    return (end - begin) / 1e6


def spawn(argv: Sequence[str], environment: Mapping[str, str], output: int) -> int:
    """Start a command and return its pid; streams as in `run`."""
    os.ftruncate(output, 0)
    os.lseek(output, 0, os.SEEK_SET)
    actions = [
        (os.POSIX_SPAWN_OPEN, 0, "/dev/null", os.O_RDONLY, 0),
        (os.POSIX_SPAWN_DUP2, output, 1),
        (os.POSIX_SPAWN_DUP2, output, 2),
    ]
    return os.posix_spawn(argv[0], list(argv), environment, file_actions=actions)


def end(pid: int) -> None:
    """Wait until a container's init, orphaned to us, has ended, and reap it; kill it after LIMIT seconds."""
    deadline = time.monotonic() + LIMIT
    while True:
        try:
            if os.waitpid(pid, os.WNOHANG)[0]:
                return
        except ChildProcessError:
            return
        if time.monotonic() > deadline:
            os.kill(pid, signal.SIGKILL)
            raise Failed(f"process {pid} did not end within {LIMIT:.0f} s")
        time.sleep(0.0005)


class Place:
    """A thread to start processes from, in the host's mounts or in a mount namespace with cgroup2 alone.

    Processes inherit the namespace of the thread that starts them, so nobody pays for a wrapper.
    """

    def __init__(self, *, private: bool) -> None:
        self._calls: queue.SimpleQueue[Callable[[], None] | None] = queue.SimpleQueue()
        self._thread = threading.Thread(target=self._serve, name="cgroup2" if private else "host", daemon=True)
        self._thread.start()
        if private:
            self.call(_mount_cgroup2_alone)

    def call(self, function: Callable[[], T]) -> T:
        """Run a function in the place; return or raise what it does."""
        answers: queue.SimpleQueue[tuple[T | None, BaseException | None]] = queue.SimpleQueue()

        def answer() -> None:
            try:
                answers.put((function(), None))
            except BaseException as error:  # noqa: BLE001  (handed to the caller)
                answers.put((None, error))

        self._calls.put(answer)
        value, error = answers.get()
        if error is not None:
            raise error
        return value  # type: ignore[return-value]

    def close(self) -> None:
        """End the thread; its mount namespace goes with it."""
        self._calls.put(None)
        self._thread.join()

    def _serve(self) -> None:
        while (call := self._calls.get()) is not None:
            call()


def _mount_cgroup2_alone() -> None:
    libc = ctypes.CDLL(None, use_errno=True)

    def check(result: int, what: str) -> None:
        if result != 0:
            raise OSError(ctypes.get_errno(), f"{what}: {os.strerror(ctypes.get_errno())}")

    check(libc.unshare(CLONE_NEWNS), "unshare")
    check(libc.mount(None, b"/", None, ctypes.c_ulong(MS_REC | MS_SLAVE), None), "make / a slave")
    check(libc.umount2(b"/sys/fs/cgroup", MNT_DETACH), "unmount the cgroup hierarchies")
    check(libc.mount(b"none", b"/sys/fs/cgroup", b"cgroup2", ctypes.c_ulong(0), None), "mount cgroup2")
