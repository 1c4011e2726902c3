"""An executor's failure in runc's words: docker and podman read 126 and 127 out of them."""

from __future__ import annotations

import errno

from pysandbox.errors import SandboxError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from pysandbox.executor import ExecutorError
    from pysandbox.oci.types import Spec


def in_runcs_words(error: ExecutorError, program: str, spec: Spec) -> SandboxError:
    """Return what to tell the caller, who asked for `program` to be run in the container of that spec."""
    if error.op == "find_program":
        what = f"stat {program}: {error.text}" if error.call == "stat" else error.text
        text = f'exec: "{program}": {what}'
    elif error.op in ("execute", ""):
        text = str(error)
    elif error.op == "scheduler" and error.errno == errno.EPERM and _has_cpus(spec):
        # sched(7): a deadline policy needs an affinity of all CPUs of the root domain.
        text = "error during container init: process scheduler can't be used together with AllowedCPUs"
    elif where := _mount_of(error, spec):
        text = f"{where}.source: {error.path}: {error.text}"
    else:
        text = f"error during container init: {error}"
    return SandboxError(f"unable to start container process: {text}")


def _mount_of(error: ExecutorError, spec: Spec) -> str:
    """Return the JSON path of the bind mount whose source could not be opened, or nothing."""
    if error.op != "open_tree":
        return ""
    sources = [mount.get("source") for mount in spec.get("mounts") or ()]
    return f"mounts[{sources.index(error.path)}]" if error.path in sources else ""


def _has_cpus(spec: Spec) -> bool:
    resources = (spec.get("linux") or {}).get("resources") or {}
    return bool((resources.get("cpu") or {}).get("cpus"))
