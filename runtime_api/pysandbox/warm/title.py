"""What `ps` shows of a fork: the command that it runs, not that of the server it came from."""

from __future__ import annotations

import ctypes

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Sequence

_PR_SET_NAME = 15
#: Fields of /proc/PID/stat counted from the state: where the arguments lie in memory (proc(5)).
_ARG_START, _ARG_END = 45, 46


class Title:
    """The memory that holds this process's arguments, as the kernel reads it for /proc/PID/cmdline."""

    def __init__(self) -> None:
        with open("/proc/self/stat", "rb") as stat:
            fields = stat.read().rpartition(b")")[2].split()
        self._start = int(fields[_ARG_START])
        self._length = int(fields[_ARG_END]) - self._start
        self._prctl = ctypes.CDLL(None).prctl

    def set(self, words: Sequence[str]) -> None:
        """Show these words, cut off where there is no more room, and the first one's file as the process's name."""
        text = b"".join(word.encode(errors="surrogateescape") + b"\0" for word in words)
        ctypes.memmove(self._start, text[: self._length - 1].ljust(self._length, b"\0"), self._length)
        name = words[0].rpartition("/")[2].encode(errors="surrogateescape")
        self._prctl(_PR_SET_NAME, ctypes.c_char_p(name[:15]), 0, 0, 0)
