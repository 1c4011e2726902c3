"""The pages that a fork will write to, made its own before anybody waits for it.

After fork(2) each first write to a page is a fault that copies it: some 1000 in a command, 2 to 5 us each under a
hypervisor, for Python writes to every object that it looks at (its reference count). Which pages they are is much the
same each time. So the first commands tell which ones they came to own, and later spares, which have time, have the
kernel copy those beforehand.
"""

from __future__ import annotations

import ctypes
import gc
import os

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator

#: linux/mman.h, Linux 5.14: fault pages in as if by writing. What an older kernel refuses is left to the faults.
MADV_POPULATE_WRITE = 23
#: mallopt(3), malloc.h of the GNU C library.
_M_ARENA_MAX = -8
#: So many commands tell their pages.
TEACHERS = 8
#: An entry of /proc/PID/pagemap: 64 bits. Bit 63, the page is there; bit 56, no other process has it mapped (proc(5)).
_ENTRY, _OWN = 8, 0x81
#: Pages between two wanted ones that are taken with them: a system call costs more.
_GAP = 2
#: Runs of pages between two looks at whether somebody waits.
_AT_ONCE = 16


class Pages:
    """What the server knows of it. Numbers are those of pages, addresses divided by their size."""

    def __init__(self) -> None:
        self._size = os.sysconf("SC_PAGESIZE")
        self._numbers: set[int] = set()
        self._runs: list[tuple[int, int]] = []
        self._taught = 0
        self._madvise = ctypes.CDLL(None).madvise  # bound here: a fork should not have to look it up
        self._madvise.argtypes = (ctypes.c_void_p, ctypes.c_size_t, ctypes.c_int)

    @property
    def wanted(self) -> bool:
        """Say whether another command's pages are of use."""
        return self._taught < TEACHERS

    def mine(self) -> str:
        """Return, in a spare that has served, the pages that it has to itself, as `learn` wants them."""
        return ",".join(f"{first:x}+{length:x}" for first, length in runs(own_pages(self._size)))

    def learn(self, text: str) -> None:
        """Add what a spare has told."""
        for run in text.split(","):
            first, _, length = run.partition("+")
            if length:  # what did not fit into the message ends in the middle
                self._numbers.update(range(int(first, 16), int(first, 16) + int(length, 16)))
        self._taught += 1
        self._runs = list(runs(sorted(self._numbers)))

    def populate(self, wanted: Callable[[], bool]) -> None:
        """Make them this process's own now, or until it is wanted."""
        for number, (first, length) in enumerate(self._runs):
            if number % _AT_ONCE == 0 and wanted():
                return
            self._madvise(first * self._size, length * self._size, MADV_POPULATE_WRITE)


def one_heap() -> None:
    """Have the threads that forks will have share one heap: they take turns anyway, and each has pages of its own."""
    ctypes.CDLL(None).mallopt(_M_ARENA_MAX, 1)


def give_back() -> None:
    """Return to the kernel what many requests at a time have taken, and is free now: malloc_trim(3)."""
    gc.collect()
    ctypes.CDLL(None).malloc_trim(0)


def runs(numbers: Iterable[int]) -> Iterator[tuple[int, int]]:
    """Join ascending numbers to runs: first and length. Small gaps belong to a run."""
    first = last = -1
    for number in numbers:
        if first >= 0 and number - last > _GAP + 1:
            yield first, last - first + 1
            first = -1
        if first < 0:
            first = number
        last = number
    if first >= 0:
        yield first, last - first + 1


def own_pages(size: int) -> Iterator[int]:
    """Yield the pages of writable memory that only this process has."""
    with open("/proc/self/maps", "rb") as maps, open("/proc/self/pagemap", "rb", buffering=0) as pagemap:
        for line in maps.read().splitlines():
            addresses, access, *rest = line.split(maxsplit=5)
            if access != b"rw-p" or rest[-1].startswith(b"[stack"):
                continue
            start, end = (int(address, 16) // size for address in addresses.split(b"-"))
            entries = os.pread(pagemap.fileno(), (end - start) * _ENTRY, start * _ENTRY)
            for number, highest in enumerate(entries[_ENTRY - 1 :: _ENTRY], start):
                if highest & _OWN == _OWN:
                    yield number
