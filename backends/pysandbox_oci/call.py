"""One command of a runtime: started clean, given a limit, its output bounded, its failure told in its own words.

A runtime gets no descriptor but those that are named, an environment of two variables, and a process group of its own,
so that one that does not end is ended with all that it has started.
"""

from __future__ import annotations

import contextlib
import os
import select
import signal
import time

from pysandbox.caller import current
from pysandbox.errors import DeadlineExceeded, Unavailable
from pysandbox_oci.complaint import last_words
from pysandbox_oci.program import SECURE_PATH

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

#: All that a runtime, and a hook that says no environment of its own, sees of ours.
ENVIRONMENT = {"PATH": SECURE_PATH, "LC_ALL": "C.UTF-8"}
#: Bytes of an answer, and of what is kept of complaints: their end.
OUTPUT_LIMIT = 4 * 1024 * 1024
COMPLAINT_LIMIT = 64 * 1024
#: Seconds for a runtime that was killed to be gone.
END_LIMIT = 10.0
#: Bytes: of one read(2), and of the largest pipe (/proc/sys/fs/pipe-max-size).
_PIECE, _LARGEST_PIPE = 65536, 1024 * 1024


class RuntimeFailed(Unavailable):
    """A runtime did not do what it was asked for. `words` are its own, empty if it said nothing."""

    def __init__(self, command: str, how: str, words: str) -> None:
        super().__init__(f"{command}: {words or f'{how} without a word'}")
        self.words = words


class Running:
    """A command of a runtime on its way. `name` is what errors call it."""

    def __init__(self, argv: Sequence[str], streams: Sequence[int], name: str) -> None:
        self.name = name
        self.pid = current().spawn(argv[0], argv, ENVIRONMENT, streams, group=True)
        self._pidfd = -1
        try:
            self._pidfd = os.pidfd_open(self.pid)
        except BaseException:
            self.end()
            raise

    def follow(self, limit: float, readers: Mapping[int, Callable[[], bool]]) -> int:
        """Wait for its end; return its exit code, -N after signal N.

        `readers` are called when their descriptor has something to read; one that answers True has taken as long as
        it liked: the limit begins anew. Raises DeadlineExceeded after `limit` seconds, and whatever a reader raises; it
        is ended with its process group then.
        """
        poll = select.poll()
        for descriptor in (self._pidfd, *readers):
            poll.register(descriptor, select.POLLIN)
        try:
            deadline = time.monotonic() + limit
            ready: dict[int, int] = {}
            while self._pidfd not in ready:
                ready = dict(poll.poll(max(0.0, deadline - time.monotonic()) * 1000))
                if not ready:
                    raise DeadlineExceeded(f"{self.name}: has not ended after {limit:g} s, and was killed")
                for descriptor in ready.keys() & readers.keys():
                    if not ready[descriptor] & select.POLLIN:
                        poll.unregister(descriptor)  # nobody writes any more: it would be ready for ever
                    elif readers[descriptor]():
                        deadline = time.monotonic() + limit
        except BaseException:
            self.end()
            raise
        return self._reap()

    def _reap(self) -> int:
        if self._pidfd >= 0:
            os.close(self._pidfd)
            self._pidfd = -1
        return os.waitstatus_to_exitcode(current().reap(self.pid) or 0)

    def end(self) -> None:
        """Kill it with all that it has started, and reap it."""
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self.pid, signal.SIGKILL)
        if self._pidfd >= 0:
            poll = select.poll()
            poll.register(self._pidfd, select.POLLIN)
            poll.poll(END_LIMIT * 1000)
        with contextlib.suppress(ChildProcessError):
            self._reap()


class _Collector:
    """What comes through a pipe: of an answer the beginning, of complaints the end, the rest is dropped."""

    def __init__(self, limit: int, *, end: bool) -> None:
        self.reader, self.writer = os.pipe()
        os.set_blocking(self.reader, False)
        self.text, self.cut = b"", False
        self._limit, self._end = limit, end

    def take(self) -> bool:
        """Take what is there; False, as no time was spent that is not the runtime's."""
        self._read()
        return False

    def _read(self) -> bool:
        """Take one piece; False when there is none."""
        try:
            piece = os.read(self.reader, _PIECE)
        except BlockingIOError:
            return False
        text = self.text + piece
        self.cut |= len(text) > self._limit
        self.text = text[-self._limit :] if self._end else text[: self._limit]
        return bool(piece)

    def drain(self) -> None:
        """Take what was written before the end, as much as a pipe can hold: who has inherited it may go on writing."""
        for _ in range(_LARGEST_PIPE // _PIECE):
            if not self._read():
                return

    def close(self) -> None:
        """Close both ends."""
        for descriptor in (self.reader, self.writer):
            if descriptor >= 0:
                os.close(descriptor)

    def close_writer(self) -> None:
        """Close what the runtime has a copy of."""
        os.close(self.writer)
        self.writer = -1


def ask(argv: Sequence[str], name: str, limit: float, stdin: bytes = b"") -> bytes:
    """Run a command to its end and return what it wrote to its standard output.

    Raises RuntimeFailed for any exit code but 0 and for an answer that is too long, DeadlineExceeded, and OSError where
    it cannot be started.
    """
    with contextlib.ExitStack() as held:
        source = _source(held, stdin)
        answer, complaints = _Collector(OUTPUT_LIMIT, end=False), _Collector(COMPLAINT_LIMIT, end=True)
        held.callback(answer.close)
        held.callback(complaints.close)
        running = Running(argv, (source, answer.writer, complaints.writer), name)
        answer.close_writer()
        complaints.close_writer()
        code = running.follow(limit, {each.reader: each.take for each in (answer, complaints)})
        answer.drain()
        complaints.drain()
    if code != 0:
        raise RuntimeFailed(name, ending(code), last_words(complaints.text))
    if answer.cut:
        raise RuntimeFailed(name, "", f"answered more than {OUTPUT_LIMIT} bytes")
    return answer.text


def ending(code: int) -> str:
    """Say how a process ended that exited with a code, -N after signal N."""
    return f"exit status {code}" if code >= 0 else f"signal {-code}"


def _source(held: contextlib.ExitStack, text: bytes) -> int:
    """Return a descriptor to read a text from: /dev/null for none, else a file in memory that can be opened again."""
    if not text:
        descriptor = os.open("/dev/null", os.O_RDWR | os.O_CLOEXEC)
        held.callback(os.close, descriptor)
        return descriptor
    descriptor = os.memfd_create("stdin", os.MFD_CLOEXEC)
    held.callback(os.close, descriptor)
    with open(descriptor, "wb", closefd=False) as file:
        file.write(text)
    os.lseek(descriptor, 0, os.SEEK_SET)
    return descriptor
