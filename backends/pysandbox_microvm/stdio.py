"""Pump the stdio of a process in the guest: between the agent's stream and the descriptors that the caller handed in.

Each direction has a thread of its own, so that one that is held up holds up no other: a reader that takes its time is
waited for (the agent gets no more credit, the process in the guest waits as at any full pipe), one that has gone is
EPIPE for the process. Both outputs into one file have one thread, which keeps the order in which the agent read them.
What a process wrote before it ended is delivered before its end is told.

Descriptors stay in the mode the caller gave them: the open file is the caller's too, and O_NONBLOCK would be for both.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import os
import select
import stat
import time
from queue import SimpleQueue
from threading import Condition, Thread

from pysandbox.errors import SandboxError
from pysandbox_microvm.agent import GuestError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from pysandbox_microvm.agent import Output, ProcessStream

#: Bytes that are read from a descriptor at a time.
_CHUNK = 64 * 1024
#: What a pipe is made to hold once its writer has ended: all that the agent may still have under way. fcntl(2).
_ROOM = 1024 * 1024
#: Seconds without any progress after which what an ended process wrote is given up: its reader does not read.
PATIENCE = 10.0
#: The device number of /dev/null.
_NULL = os.makedev(1, 3)


def is_null(descriptor: int) -> bool:
    """Say whether a descriptor is of /dev/null."""
    status = os.fstat(descriptor)
    return stat.S_ISCHR(status.st_mode) and status.st_rdev == _NULL


class Pump:
    """The stdio of one process. `streams` are the descriptors of 0, 1 and 2, of a terminal its one twice; all are ours.

    A descriptor for 0 of -1 is no input. `wrong` is called when the guest says what no agent would.
    """

    def __init__(
        self,
        stream: ProcessStream,
        streams: Sequence[int],
        *,
        terminal: bool = False,
        wrong: Callable[[GuestError], None] = lambda _: None,
    ) -> None:
        self._stream = stream
        self._wrong = wrong
        self._input, *outputs = streams
        self._outputs = dict(zip((1,) if terminal else (1, 2), outputs, strict=False))
        files = [os.fstat(descriptor) for descriptor in self._outputs.values()]
        # Two streams into one file have one queue: what was written first is to arrive first.
        queues: dict[tuple[int, int], SimpleQueue[Output | None]] = {
            (file.st_dev, file.st_ino): SimpleQueue() for file in files
        }
        self._queues = {
            number: queues[file.st_dev, file.st_ino] for number, file in zip(self._outputs, files, strict=True)
        }
        self._changed = Condition()
        self._left = set(self._outputs)  # streams that may still bring something from before the end
        self._progress = time.monotonic()
        self._stop_reader, self._stop_writer = os.pipe2(os.O_CLOEXEC)
        self._descriptors = {*streams} - {-1}
        self._threads = [Thread(target=self._receive, daemon=True)]
        self._threads += [Thread(target=self._write, args=(queue,), daemon=True) for queue in queues.values()]
        if self._input >= 0:
            self._threads.append(Thread(target=self._read, daemon=True))

    def start(self) -> None:
        """Begin."""
        for thread in self._threads:
            thread.start()

    # -- from the guest ------------------------------------------------------------------------------------------------

    def _receive(self) -> None:
        try:
            while (output := self._stream.receive()) is not None:
                if output.stream in self._queues:
                    self._queues[output.stream].put(output)
        except GuestError as error:
            self._wrong(error)
        except SandboxError:
            pass  # the machine is gone: its exit is told otherwise
        for queue in self._queues.values():
            queue.put(None)

    def _write(self, queue: SimpleQueue[Output | None]) -> None:
        """Write what comes by one queue, of one stream or of both."""
        numbers = {number for number, each in self._queues.items() if each is queue}
        going, wanted = set(numbers), True
        while going and (output := queue.get()) is not None:
            if output.data and wanted:
                wanted = self._write_all(self._outputs[output.stream], output.data)
                for number in numbers if not wanted else ():
                    self._stream.refuse(number)
            self._stream.give_back(output)
            if output.drained or output.end:
                self._settle({output.stream})
            if output.end:
                going.discard(output.stream)
        self._settle(numbers)

    def _write_all(self, descriptor: int, data: bytes) -> bool:
        rest = memoryview(data)
        while rest:
            try:
                rest = rest[os.write(descriptor, rest) :]
            except BlockingIOError:
                select.select((), (descriptor,), ())  # the caller reads and writes without waiting
            except OSError:
                return False
            self._progress = time.monotonic()
        return True

    def _settle(self, numbers: set[int]) -> None:
        with self._changed:
            self._left -= numbers
            self._changed.notify_all()

    # -- to the guest --------------------------------------------------------------------------------------------------

    def _read(self) -> None:
        poll = select.poll()
        poll.register(self._input, select.POLLIN)
        poll.register(self._stop_reader, select.POLLIN)
        with contextlib.suppress(SandboxError):
            while self._stop_reader not in dict(poll.poll()):
                data = self._read_some()
                if data is None:
                    continue
                if not data or not self._stream.write(data):
                    break
            self._stream.close_input()

    def _read_some(self) -> bytes | None:
        """Return some input, nothing at its end, None where another took it first."""
        try:
            return os.read(self._input, _CHUNK)
        except BlockingIOError:
            return None
        except OSError:
            return b""  # EIO: the terminal's other side is gone

    def terminal(self) -> int:
        """Return the descriptor of a terminal."""
        return self._input

    def close_input(self) -> None:
        """Take no more input."""
        with contextlib.suppress(OSError):
            os.write(self._stop_writer, b"\0")

    # -- the end -------------------------------------------------------------------------------------------------------

    def drain(self) -> None:
        """Wait until all is delivered that the process, which has ended, wrote; PATIENCE where nobody takes it."""
        for descriptor in self._outputs.values():
            _make_room(descriptor)
        self._progress = time.monotonic()
        with self._changed:
            while self._left:
                left = self._progress + PATIENCE - time.monotonic()
                if left <= 0:
                    return
                self._changed.wait(left)

    def close(self) -> None:
        """Close the descriptors, when all threads are done with them; one that is held up keeps its own."""
        self.close_input()
        Thread(target=self._close, daemon=True).start()

    def _close(self) -> None:
        for thread in self._threads:
            thread.join()
        for descriptor in {*self._descriptors, self._stop_reader, self._stop_writer}:
            os.close(descriptor)


def _make_room(descriptor: int) -> None:
    """Make a pipe hold what is still to come, so that an end need not wait for a reader: on a host it would not."""
    try:
        if fcntl.fcntl(descriptor, fcntl.F_GETPIPE_SZ) < _ROOM:
            fcntl.fcntl(descriptor, fcntl.F_SETPIPE_SZ, _ROOM)
    except OSError as error:
        if error.errno not in (errno.EBADF, errno.EPERM, errno.EBUSY):
            raise
