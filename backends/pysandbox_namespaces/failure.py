"""An executor's failure in runc's words: docker and podman read 126 and 127 out of them."""

from __future__ import annotations

from pysandbox.errors import SandboxError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from pysandbox.executor import ExecutorError


def in_runcs_words(error: ExecutorError, program: str) -> SandboxError:
    """Return what to tell the caller, who asked for `program` to be run."""
    if error.op == "find_program":
        what = f"stat {program}: {error.text}" if error.call == "stat" else error.text
        text = f'exec: "{program}": {what}'
    elif error.op in ("execute", ""):
        text = str(error)
    else:
        text = f"error during container init: {error}"
    return SandboxError(f"unable to start container process: {text}")
