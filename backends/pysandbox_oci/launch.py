"""Start a process through a runtime, its init or one more: streams, terminal, pid file, and whose child it becomes.

The process does not stay a child of the runtime's command: `create`, and `exec --detach`, end and leave it behind, and
the kernel gives it to the nearest ancestor that adopts orphans (PR_SET_CHILD_SUBREAPER of prctl(2)). So our caller's
process does that, before the runtime is started: it can wait for the process then and take its exit code. When it ends,
the process goes to the next one above, which is the shim, or conmon, as under the runtime itself.
"""

from __future__ import annotations

import contextlib
import os
import time

from pysandbox.caller import current
from pysandbox.errors import Unavailable
from pysandbox_oci.call import COMPLAINT_LIMIT, RuntimeFailed, ending
from pysandbox_oci.complaint import last_words, warnings
from pysandbox_oci.terminal import ConsoleSocket

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from pysandbox.backend import Options, Stdio
    from pysandbox_oci.runtime import OciRuntime

#: Of a pid file: digits.
_LONGEST_PID = 16
#: PID_MAX_LIMIT (proc_sys_kernel(5)).
LAST_PID = 2**22


class Launch:
    """One process: `words` says what of the command's flags depends on where it is kept."""

    def __init__(
        self, runtime: OciRuntime, stdio: Stdio, options: Options, state_dir: str, held: contextlib.ExitStack
    ) -> None:
        self._runtime, self._stdio, self._options = runtime, stdio, options
        token = os.urandom(4).hex()
        self._log = f"{state_dir}/oci-{token}.log"
        self._pid_file = f"{state_dir}/oci-{token}.pid"
        for path in (self._log, self._pid_file):
            held.callback(_remove, path)
        self._console = ConsoleSocket(state_dir, held) if stdio.terminal else None
        self._held = held

    def words(self) -> list[str]:
        """Return the flags of `create` and `exec` that say where pid, terminal and descriptors go."""
        words = ["--pid-file", self._pid_file]
        if self._console is not None:
            words += ["--console-socket", self._console.path]
        if self._stdio.preserved:
            words += ["--preserve-fds", str(len(self._stdio.preserved))]
        return words

    def run(
        self,
        command: str,
        words: Sequence[str],
        readers: Mapping[int, Callable[[], bool]],
        began: Callable[[int], None] = lambda _: None,
    ) -> int:
        """Run the command and return its process's pid, a child of our caller's process. Raises RuntimeFailed.

        `began` is told the pid of the command itself, which may outlive us.
        """
        current().adopt()
        trace = self._options.trace
        running = self._runtime.begin(command, words, self._streams(), self._log)
        try:
            began(running.pid)
        except BaseException:
            running.end()
            raise
        if trace is not None:
            trace(f"{self._runtime.name} {command}", time.monotonic_ns())
        code = running.follow(self._runtime.limit, readers)
        said = _tail(self._log)
        if code != 0:
            raise RuntimeFailed(running.name, ending(code), last_words(said))
        if self._options.warn is not None:
            for line in warnings(said):
                self._options.warn(f"{running.name}: {line}")
        if trace is not None:
            trace(f"{self._runtime.name} {command} has ended", time.monotonic_ns())
        pid = read_pid(self._pid_file, running.name)
        if self._options.warn is not None and not current().is_child(pid):
            self._options.warn(f"{running.name}: process {pid} is not a child of ours: its exit code cannot be known")
        return pid

    def console(self) -> int | None:
        """Return the master of the process's terminal, if it has one, the caller's to close."""
        if self._console is None:
            return None
        master = self._console.take()
        if self._options.plain_newlines:
            from pysandbox.console import clear_newline_translation

            clear_newline_translation(master)
        return master

    def _streams(self) -> list[int]:
        """Return what become 0, 1, 2, …: the process's own as they are, or none of the host's beside a terminal."""
        stdio = self._stdio
        if not stdio.terminal:
            return [stdio.stdin, stdio.stdout, stdio.stderr, *stdio.preserved]
        null = os.open("/dev/null", os.O_RDWR | os.O_CLOEXEC)
        self._held.callback(os.close, null)
        return [null, null, null, *stdio.preserved]


def _remove(path: str) -> None:
    with contextlib.suppress(FileNotFoundError):
        os.unlink(path)


def _tail(path: str) -> bytes:
    """Return the end of a log, empty where there is none."""
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
    except FileNotFoundError:
        return b""
    with open(descriptor, "rb") as file:
        file.seek(max(0, os.fstat(descriptor).st_size - COMPLAINT_LIMIT))
        return file.read(COMPLAINT_LIMIT)


def read_pid(path: str, name: str) -> int:
    """Return what a pid file holds. Raises Unavailable; `name` begins the text."""
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
    except OSError as error:
        raise Unavailable(f"{name}: has written no pid file: {error.strerror}") from error
    with open(descriptor, "rb", buffering=0) as file:
        text = (file.read(_LONGEST_PID) or b"").strip()
    if not text.isdigit() or not 1 < int(text) <= LAST_PID:
        raise Unavailable(f"{name}: its pid file holds no pid: {text!r}")
    return int(text)
