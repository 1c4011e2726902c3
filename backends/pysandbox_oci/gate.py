"""A hook of our own, at which a runtime waits while the front end runs the prestart and createRuntime hooks.

Only the runtime knows the moment: the namespaces stand, the root has not changed. Only the front end runs these hooks
as pysandbox does, whatever the runtime: as children of its caller, with the state document of the user's bundle, with
limits, and with errors in its words. So the runtime has one hook, which copies the state document that it gets into one
FIFO and ends as the other says. A runtime that never runs it is found out when it is done, and the hooks are run then.
"""

from __future__ import annotations

import contextlib
import json
import os

from pysandbox.errors import Unavailable
from pysandbox_oci.program import SECURE_PATH

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Mapping
    from typing import Any

#: In the container's directory.
_ASKS, _ANSWERS = "gate.asks", "gate.answers"
#: The shell that is /bin/sh on every host. `$0` and `$1` are the FIFOs.
_SHELL = "/bin/sh"
_SCRIPT = 'cat > "$0" && read -r answer < "$1" && test "$answer" = go'
#: Bytes of a state document, annotations and all.
_LONGEST = 1024 * 1024


class Gate:
    """The two FIFOs, each open both ways, which never blocks (fifo(7)). `opened` has the front end run its hooks."""

    def __init__(self, state_dir: str, held: contextlib.ExitStack, opened: Callable[[int], None]) -> None:
        self._paths = [f"{state_dir}/{name}" for name in (_ASKS, _ANSWERS)]
        self._opened = opened
        self._asked = b""
        self.passed = False
        self.error: BaseException | None = None
        numbers = []
        for path in self._paths:
            os.mkfifo(path, 0o600)
            numbers.append(os.open(path, os.O_RDWR | os.O_NONBLOCK | os.O_NOFOLLOW | os.O_CLOEXEC))
            held.callback(os.close, numbers[-1])
        self.reader, self._writer = numbers

    def hook(self) -> Mapping[str, Any]:
        """Return the runtime's hook."""
        return {"path": _SHELL, "args": ["sh", "-c", _SCRIPT, *self._paths], "env": [f"PATH={SECURE_PATH}"]}

    def step(self) -> bool:
        """Take what the hook has said; when that is all, run the front end's hooks and answer. True if it did."""
        with contextlib.suppress(BlockingIOError):
            self._asked += os.read(self.reader, 65536)
        pid = _pid_of(self._asked)
        if self.passed or pid is None:
            if len(self._asked) > _LONGEST:
                raise Unavailable(f"the runtime's state document for hooks has more than {_LONGEST} bytes")
            return False
        self._run(pid)
        return True

    def _run(self, pid: int) -> None:
        """Run the hooks. What one raises is kept: the runtime is told to give up, and undoes what it has done."""
        self.passed = True
        try:
            self._opened(pid)
        except Exception as error:  # noqa: BLE001 (it is raised when the runtime has ended)
            self.error = error
        os.write(self._writer, b"stop\n" if self.error else b"go\n")


def _pid_of(text: bytes) -> int | None:
    """Return the pid of a state document, None while it is not all there."""
    try:
        pid = json.loads(text)["pid"]
    except (ValueError, RecursionError, LookupError, TypeError):
        return None
    return pid if isinstance(pid, int) and pid > 0 else None
