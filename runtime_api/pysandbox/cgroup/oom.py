"""Being told that the kernel ran out of a cgroup's memory.

Sources: the kernel's admin-guide/cgroup-v1/memory.rst section 10 (OOM control), admin-guide/cgroup-v2.rst
`memory.events` and `cgroup.events`.
"""

from __future__ import annotations

import abc
import os

from pysandbox.cgroup import directory
from pysandbox.cgroup.directory import GONE

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence
    from typing import Self


class OomWatch(abc.ABC):
    """Counts from when it is made. `descriptor` becomes readable when there is something to take."""

    descriptor: int

    @abc.abstractmethod
    def take(self) -> int | None:
        """Return how many there were since the last time; None when the cgroup is gone or, on v2, empty."""

    @abc.abstractmethod
    def close(self) -> None:
        """Close all descriptors."""

    def left(self) -> tuple[tuple[str | int, ...], list[int]] | None:
        """Return what `resumed` needs to go on in another process: what it knows, all descriptors, its own first.

        None where no other process can.
        """
        return None

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


def events(watch: OomWatch | None) -> Iterator[int]:
    """Yield how many there were since the last time, blocking between; end when the cgroup is gone or empty."""
    import select

    if watch is None:
        return
    with watch:
        poll = select.poll()
        poll.register(watch.descriptor, select.POLLIN)
        while (count := watch.take()) is not None:
            if count:
                yield count
            else:
                poll.poll()


class _V1Watch(OomWatch):
    """An eventfd that the kernel was told of. It signals the removal of the cgroup in the same way."""

    def __init__(self, path: str) -> None:
        self._path = path
        self.descriptor = os.eventfd(0, os.EFD_CLOEXEC | os.EFD_NONBLOCK)
        try:
            control = os.open(os.path.join(path, "memory.oom_control"), os.O_RDONLY | os.O_CLOEXEC)
            try:
                directory.write(path, "cgroup.event_control", f"{self.descriptor} {control}")
            finally:
                os.close(control)
        except BaseException:
            self.close()
            raise

    def take(self) -> int | None:
        try:
            count = os.eventfd_read(self.descriptor)
        except BlockingIOError:
            return 0
        return count if directory.exists(self._path, "memory.oom_control") else None

    def close(self) -> None:
        os.close(self.descriptor)

    def left(self) -> tuple[tuple[str | int, ...], list[int]]:
        return ("v1", self._path), [self.descriptor]

    @classmethod
    def resumed(cls, path: str, descriptor: int) -> Self:
        watch = cls.__new__(cls)
        watch._path, watch.descriptor = path, descriptor
        return watch


class _V2Watch(OomWatch):
    """Two files in an epoll(7) instance: each is urgent from when it changes until it is read."""

    def __init__(self, path: str) -> None:
        import select

        self._poll = select.epoll()
        self._files: list[int] = []
        self.descriptor = self._poll.fileno()
        try:
            for name in ("memory.events", "cgroup.events"):
                self._files.append(os.open(os.path.join(path, name), os.O_RDONLY | os.O_CLOEXEC))
                self._poll.register(self._files[-1], select.EPOLLPRI)
            self._before = _read_key(self._files[0], "oom_kill")
        except BaseException:
            self.close()
            raise

    def take(self) -> int | None:
        try:
            kills, populated = _read_key(self._files[0], "oom_kill"), _read_key(self._files[1], "populated")
        except OSError as error:
            if error.errno in GONE:
                return None
            raise
        count, self._before = kills - self._before, kills
        return count if count or populated else None

    def close(self) -> None:
        while self._files:
            os.close(self._files.pop())
        self._poll.close()

    def left(self) -> tuple[tuple[str | int, ...], list[int]]:
        return ("v2", self._before), [self.descriptor, *self._files]

    @classmethod
    def resumed(cls, before: int, descriptor: int, *files: int) -> Self:
        import select

        watch = cls.__new__(cls)
        # What the instance watches are the open files, whatever their numbers (epoll(7)).
        watch._poll, watch._files = select.epoll.fromfd(descriptor), list(files)
        watch.descriptor, watch._before = descriptor, before
        return watch


def v1_oom_watch(path: str) -> OomWatch | None:
    """Watch a memory cgroup of v1; None if it is gone."""
    return _watch(_V1Watch, path)


def v2_oom_watch(path: str) -> OomWatch | None:
    """Watch a cgroup of v2; None if it is gone."""
    return _watch(_V2Watch, path)


def resumed(known: tuple[str | int, ...], descriptors: Sequence[int]) -> OomWatch:
    """Go on with a watch that another process has `left`."""
    kind, detail = known
    if kind == "v1":
        return _V1Watch.resumed(str(detail), *descriptors)
    return _V2Watch.resumed(int(detail), *descriptors)


def _watch(kind: Callable[[str], OomWatch], path: str) -> OomWatch | None:
    try:
        return kind(path)
    except OSError as error:
        if error.errno in GONE:
            return None
        raise


def _read_key(file: int, key: str) -> int:
    """Return one number of a flat keyed file; reading also arms poll(2) for the next change."""
    for line in os.pread(file, 4096, 0).decode().splitlines():
        name, _, value = line.partition(" ")
        if name == key:
            return int(value)
    return 0
