"""One more process in a container: the runtime's `exec --detach`."""

from __future__ import annotations

import contextlib
import os

from pysandbox.backend import Process
from pysandbox.errors import Unimplemented
from pysandbox_oci.handover import write_document
from pysandbox_oci.launch import Launch, read_pid

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Mapping

    from pysandbox.backend import ExecRequest
    from pysandbox_oci.runtime import OciRuntime


def execute(request: ExecRequest, runtime: OciRuntime, container_id: str, state_dir: str) -> tuple[Process, int]:
    """Start a process; return it, and the pid by which the runtime knows it, 0 where that is the host's.

    Raises RuntimeFailed, and Unimplemented for what the runtime's command line cannot say.
    """
    if request.stdio.preserved and not runtime.dialect.preserves:
        raise Unimplemented(f"--preserve-fds: {runtime.name} hands no descriptors into a container")
    with contextlib.ExitStack() as held:
        base = f"{state_dir}/oci-{os.urandom(4).hex()}"
        document, inner = f"{base}.json", f"{base}.inner"
        for path in (document, inner):
            held.callback(_remove, path)
        write_document(request.process, document)
        launch = Launch(runtime, request.stdio, request.options, state_dir, held)
        words = ["--detach", "--process", document, *launch.words(), *_sub_cgroups(request.cgroup, runtime)]
        if runtime.dialect.indirect:
            words += ["--internal-pid-file", inner]
        pid = launch.run("exec", [*words, container_id], {})
        known = read_pid(inner, f"{runtime.name} exec") if runtime.dialect.indirect else 0
        return Process(pid=pid, console=launch.console()), known


def _remove(path: str) -> None:
    with contextlib.suppress(FileNotFoundError):
        os.unlink(path)


def _sub_cgroups(cgroup: Mapping[str, str] | None, runtime: OciRuntime) -> list[str]:
    """Return the flags that say in which of the container's cgroups a process runs."""
    if not cgroup:
        return []
    how = runtime.dialect.sub_cgroups
    if not how or (how == "one" and set(cgroup) != {""}):
        raise Unimplemented(f"--cgroup: {runtime.name} takes {'one path for all controllers' if how else 'none'}")
    return [word for name, path in cgroup.items() for word in ("--cgroup", f"{name}:{path}" if name else path)]
