"""Waits for the ends of all processes of a shim, of their input and memory: one thread, one descriptor for each.

Every exit status is taken here and nowhere else: until then no other process can have the pid. Children are those of
the process that `pysandbox.caller` names, which may be another than this one (`keeper`).

Orphans of a container without a pid namespace become children of the shim. They are not waited for one by one: who has
been a zombie at two looks, two seconds apart, and is nobody's, is reaped. What `lifecycle` starts it reaps at once.
"""

from __future__ import annotations

import contextlib
import os
import select
import signal
import time
from threading import Lock, Thread

from pysandbox.caller import current

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from pysandbox.cgroup.oom import OomWatch

    #: Called with the exit code (128+N after signal N) and the time since the epoch.
    Ended = Callable[[int, float], None]


#: Seconds between two looks for orphans.
ORPHAN_PAUSE = 2.0


class Reaper:
    """Tells of each process's end once."""

    def __init__(self) -> None:
        self._lock = Lock()
        self._watched: dict[int, tuple[Callable[[], bool], Callable[[], None]]] = {}
        self._pids: set[int] = set()
        self._adopts = False
        self._starting = 0
        self._zombies: set[int] = set()
        self._looked = 0.0
        self._poll = select.epoll()
        self._bell = os.eventfd(0, os.EFD_CLOEXEC)
        self._poll.register(self._bell, select.EPOLLIN)
        self._stopping = False
        self._begin()

    def _begin(self) -> None:
        self._thread = Thread(target=self._run, name="reaper", daemon=True)
        self._thread.start()

    def stop(self) -> None:
        """Act on nothing any more: what becomes readable stays so."""
        self._stopping = True
        os.eventfd_write(self._bell, 1)
        self._thread.join()

    def go_on(self) -> None:
        """Act again, after `stop`. Raises RuntimeError where no thread is to be had."""
        os.eventfd_read(self._bell)
        self._stopping = False
        self._begin()

    @contextlib.contextmanager
    def starting(self) -> Iterator[None]:
        """Take no orphan meanwhile: a process that is being started, and may have ended, is nobody's yet."""
        with self._lock:
            self._starting += 1
        try:
            yield
        finally:
            with self._lock:
                self._starting -= 1

    def watch(self, pid: int, ended: Ended) -> None:
        """Have it called when a child ends, by the reaper's thread: it must not block. Raises OSError."""
        pidfd = os.pidfd_open(pid)
        self._pids.add(pid)

        def take() -> None:
            code = _take(pid)
            self._pids.discard(pid)
            ended(code, time.time())

        self.when_readable(pidfd, take)

    def adopt(self) -> None:
        """Reap orphans from now on."""
        self._adopts = True
        self.when_readable(os.eventfd(1, os.EFD_CLOEXEC), self._reap_orphans)  # it is readable: this wakes the thread

    def when_readable(self, descriptor: int, act: Callable[[], None]) -> None:
        """Call it once, when there is something to read, and close the descriptor."""

        def once() -> None:
            act()
            os.close(descriptor)

        self._follow(descriptor, lambda: False, once)

    def watch_memory(self, watch: OomWatch, ran_out: Callable[[], None], gone: Callable[[], None]) -> None:
        """Have it called whenever a container has run out of memory, until it is gone; then `gone`."""

        def look() -> bool:
            if (count := watch.take()) is None:
                return False
            if count:
                ran_out()
            return True

        self._follow(watch.descriptor, look, gone)

    def _follow(self, descriptor: int, look: Callable[[], bool], last: Callable[[], None]) -> None:
        """Call `look` whenever there is something to read, as long as it returns True; then `last`."""
        with self._lock:
            self._watched[descriptor] = look, last
        self._poll.register(descriptor, select.EPOLLIN)

    def _run(self) -> None:
        while not self._stops():
            if self._adopts and time.monotonic() - self._looked >= ORPHAN_PAUSE:
                self._reap_orphans()
            for descriptor, _ in self._poll.poll(ORPHAN_PAUSE if self._adopts else None):
                if self._stops():
                    return
                self._look(descriptor)

    def _stops(self) -> bool:
        return self._stopping

    def _look(self, descriptor: int) -> None:
        with self._lock:
            look, last = self._watched[descriptor]
        with contextlib.suppress(OSError):
            if look():
                return
        with self._lock:
            del self._watched[descriptor]
        self._poll.unregister(descriptor)
        last()

    def _reap_orphans(self) -> None:
        """Reap who was a zombie at the last look already, and whose end nobody waits for."""
        self._looked = time.monotonic()
        with self._lock:
            if self._starting:
                return
            before, self._zombies = self._zombies, {pid for pid in _children() - self._pids if _is_zombie(pid)}
            for pid in self._zombies & before:
                with contextlib.suppress(ChildProcessError):
                    current().reap(pid)


def _children() -> set[int]:
    """Return the pids of the shim's children: /proc/PID/task/TID/children of proc(5)."""
    pids: set[int] = set()
    tasks = f"/proc/{current().pid}/task"
    for thread in os.listdir(tasks):
        with contextlib.suppress(OSError), open(f"{tasks}/{thread}/children", "rb") as file:
            pids |= set(map(int, file.read().split()))
    return pids


def _is_zombie(pid: int) -> bool:
    try:
        with open(f"/proc/{pid}/stat", "rb") as file:
            return file.read().rpartition(b") ")[2][:1] == b"Z"
    except OSError:
        return False


def end(pid: int) -> None:
    """Kill a child that nobody has reaped, and reap it. Raises OSError."""
    os.kill(pid, signal.SIGKILL)  # no other has its pid
    while current().reap(pid) is None:
        time.sleep(0.001)


def _take(pid: int) -> int:
    """Take the exit code of a child that has ended: 128+N after signal N, 255 if somebody else has taken it."""
    try:
        status = current().reap(pid)
    except ChildProcessError:
        return 255
    if status is None:
        return 255
    code = os.waitstatus_to_exitcode(status)
    return code if code >= 0 else 128 - code
