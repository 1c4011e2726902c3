"""Start a command, see its first byte and its end, each with its time; nothing is waited for without a limit."""

from __future__ import annotations

import contextlib
import os
import select
import signal
import time
from dataclasses import dataclass
from typing import TYPE_CHECKING

from pysandbox.compare.gauge import printable
from pysandbox.compare.interruption import SIGNALS
from pysandbox.compare.measure import Failed

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

#: So much of what a command writes is kept: of its output the beginning, of its errors the end.
KEPT = 1 << 16
#: Bytes of the largest pipe (/proc/sys/fs/pipe-max-size).
PIPE = 1 << 20
#: Of an error of a command so much is told.
TOLD = 600
#: Seconds after its end in which a command's last bytes must have come.
REST = 5.0
_QUIET = (signal.SIGPIPE, signal.SIGXFSZ)


@dataclass(frozen=True, slots=True)
class Timing:
    """Milliseconds from the start to the first byte of output (None: there was none) and to the end."""

    first: float | None
    end: float
    output: str


class Started:
    """A command in a session of its own, so that a terminal's ^C is for us alone.

    `name` is what errors call it. `output` is a file for its streams; without one its standard output is watched, and
    the end of its errors is kept: whoever writes without end fills a pipe, not our memory. Signals that would interrupt
    us are held back until `release`, which `wait` calls: what is started and not known yet nobody could end.
    """

    def __init__(
        self, name: str, argv: Sequence[str], environment: Mapping[str, str], output: int | None = None
    ) -> None:
        self._name = name
        self._output, self._words = output, b""
        self._stdout, self._errors = -1, -1
        targets = [output, output] if output is not None else self._pipes()
        actions = [
            (os.POSIX_SPAWN_OPEN, 0, "/dev/null", os.O_RDONLY, 0),
            *((os.POSIX_SPAWN_DUP2, target, number) for number, target in enumerate(targets, start=1)),
        ]
        self._mask = signal.pthread_sigmask(signal.SIG_BLOCK, SIGNALS)
        self.begin = time.perf_counter()
        try:
            self.pid = os.posix_spawn(
                argv[0],
                list(argv),
                environment,
                file_actions=actions,
                setsid=True,
                setsigdef=_QUIET,
                setsigmask=self._mask,
            )
        except OSError as error:
            self._close_streams()
            self.release()
            raise Failed(f"{argv[0]}: {error.strerror}") from None
        finally:
            if output is None:
                for target in targets:
                    os.close(target)

    def release(self) -> None:
        """Let signals in again; one that has come meanwhile is raised here."""
        signal.pthread_sigmask(signal.SIG_SETMASK, self._mask)

    def _pipes(self) -> list[int]:
        """Make pipes for output and errors; return the command's ends."""
        self._stdout, output = os.pipe2(os.O_CLOEXEC)
        self._errors, errors = os.pipe2(os.O_CLOEXEC)
        os.set_blocking(self._errors, False)
        return [output, errors]

    def wait(self, limit: float) -> Timing:
        """Wait until it has ended. Raises Failed, with what it said, for an error or after `limit` seconds."""
        try:
            timing, code = self._watch(limit)
            if code != 0:
                said = self._words if self._output is None else os.pread(self._output, KEPT, 0)
                words = said.decode(errors="replace").strip() or timing.output.strip()
                raise Failed(f"{self._name}: exit code {code}: {printable(words[-TOLD:], TOLD) or 'no word'}")
            return timing
        finally:
            self._close_streams()

    def _watch(self, limit: float) -> tuple[Timing, int]:
        first, kept, deadline = None, bytearray(), self.begin + limit
        poll = select.poll()
        pidfd = os.pidfd_open(self.pid)
        for descriptor in (pidfd, self._stdout, self._errors):
            if descriptor >= 0:
                poll.register(descriptor, select.POLLIN)
        end = 0.0
        try:
            self.release()
            while not end or (self._stdout >= 0 and time.perf_counter() < end + REST):
                left = deadline - time.perf_counter()
                if left <= 0:
                    raise Failed(f"{self._name}: no end within {limit:.0f} s")
                events = [descriptor for descriptor, _ in poll.poll(min(left, REST) * 1000)]
                now = time.perf_counter()
                if self._stdout in events:
                    first = first if first is not None else (now - self.begin) * 1000
                    if not self._read(kept):
                        poll.unregister(self._stdout)
                        os.close(self._stdout)
                        self._stdout = -1
                if self._errors in events and not self._read_errors():
                    poll.unregister(self._errors)
                if pidfd in events:
                    poll.unregister(pidfd)
                    end = now
            for _ in range(PIPE // KEPT):  # what was written before the end; who still has the pipe may go on
                if self._output is not None or not self._read_errors():
                    break
            _, status = os.waitpid(self.pid, 0)
        except BaseException:
            self._kill()
            raise
        finally:
            os.close(pidfd)
        timing = Timing(first if kept else None, (end - self.begin) * 1000, kept.decode(errors="replace"))
        return timing, os.waitstatus_to_exitcode(status)

    def _read(self, kept: bytearray) -> bool:
        data = os.read(self._stdout, KEPT)
        kept += data[: KEPT - len(kept)]
        return bool(data)

    def _read_errors(self) -> bool:
        """Keep the end of what there is to read now; False where there is nothing."""
        try:
            data = os.read(self._errors, KEPT)
        except BlockingIOError:
            return False
        self._words = (self._words + data)[-KEPT:]
        return bool(data)

    def _kill(self) -> None:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self.pid, signal.SIGKILL)
        with contextlib.suppress(ChildProcessError):
            os.waitpid(self.pid, 0)

    def _close_streams(self) -> None:
        for descriptor in (self._stdout, self._errors):
            if descriptor >= 0:
                os.close(descriptor)
        self._stdout = self._errors = -1


def run(
    name: str, argv: Sequence[str], environment: Mapping[str, str], limit: float, output: int | None = None
) -> Timing:
    """Start a command and wait for it; `name` is what errors call it. Raises Failed."""
    if output is not None:
        os.ftruncate(output, 0)
        os.lseek(output, 0, os.SEEK_SET)
    return Started(name, argv, environment, output).wait(limit)


def wait_end(pid: int, limit: float) -> None:
    """Wait until a process has ended, whose child it may be; reap it if it is ours. Raises Failed."""
    try:
        pidfd = os.pidfd_open(pid)
    except ProcessLookupError:
        return
    try:
        poll = select.poll()
        poll.register(pidfd, select.POLLIN)
        if not poll.poll(limit * 1000):
            raise Failed(f"process {pid} did not end within {limit:.0f} s")
    finally:
        os.close(pidfd)
    with contextlib.suppress(ChildProcessError):
        os.waitpid(pid, os.WNOHANG)
