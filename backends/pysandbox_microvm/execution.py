"""Start one more process in a container of a machine: the front end's side.

A static program, `pysandbox-proxy`, is started as the caller's child and stands for the process on the host: it passes
on the signals that it gets, and exits with the process's code (`proxy.py`).
"""

from __future__ import annotations

import _socket
import contextlib
import os

from pysandbox.backend import Process
from pysandbox.caller import current
from pysandbox.errors import InvalidArgument, Unimplemented
from pysandbox.executor import ExecutorError
from pysandbox.failure import in_runcs_words
from pysandbox_microvm import service
from pysandbox_microvm.planning import plan_exec
from pysandbox_microvm.terminal import open_terminal

TYPE_CHECKING = False
if TYPE_CHECKING:
    from pysandbox.backend import ExecRequest
    from pysandbox.oci.types import Spec
    from pysandbox_microvm.place import Place

PROGRAM = "pysandbox-proxy"


def execute(request: ExecRequest, bundle: str, container_id: str, state_dir: str, spec: Spec, place: Place) -> Process:
    """Run a process beside init. On failure nothing of it is left."""
    if request.stdio.preserved:
        raise Unimplemented("--preserve-fds: a descriptor of the host cannot be handed into a virtual machine")
    plan = plan_exec(request, bundle, container_id, spec, place)
    size = request.process.get("consoleSize") or {"width": 0, "height": 0}
    arguments = {
        "container": container_id,
        "exec_id": request.exec_id,
        "terminal": request.stdio.terminal,
        "plan": {
            "plan": plan.to_json().decode(),
            "cgroup": _below(request),
            "size": [size["width"], size["height"]],
        },
    }
    with contextlib.ExitStack() as held:
        stdio = request.stdio
        streams, console = [stdio.stdin, stdio.stdout, stdio.stderr], None
        if stdio.terminal:
            console, slave = open_terminal(size["width"], size["height"])
            held.callback(os.close, slave)
            streams = [slave] * 3
        try:
            pid = _execute(state_dir, arguments, streams, terminal=stdio.terminal)
        except BaseException as error:
            if console is not None:
                os.close(console)
            if isinstance(error, ExecutorError):
                raise in_runcs_words(error, request.process["args"][0], spec) from error
            raise
    return Process(pid=pid, console=console)


def _below(request: ExecRequest) -> str:
    """Return the cgroup that `exec --cgroup` asks for, below the container's; the guest has one hierarchy."""
    if not request.cgroup:
        return ""
    if set(request.cgroup) != {""}:
        raise InvalidArgument("--cgroup: the guest has cgroup v2, which has one hierarchy for all controllers")
    return os.path.normpath("/" + request.cgroup[""]).lstrip("/")


def _execute(state_dir: str, arguments: dict[str, object], streams: list[int], *, terminal: bool) -> int:
    """Start the process in the guest, and a proxy for it; return the proxy's pid."""
    ours, theirs = _socket.socketpair(_socket.AF_UNIX, _socket.SOCK_STREAM)
    with contextlib.closing(ours), contextlib.closing(theirs):
        service.ask(state_dir, "exec", arguments, [theirs.fileno(), *streams])
        return start_proxy(ours.fileno(), streams[0] if terminal else None)


def start_proxy(socket: int, terminal: int | None) -> int:
    """Start a proxy as the caller's child, with its end of a socket and its terminal; return its pid."""
    from pysandbox.executor import open_program

    program = open_program(PROGRAM)
    null = os.open("/dev/null", os.O_RDWR | os.O_CLOEXEC)
    try:
        return current().spawn(program, [PROGRAM], {}, [null if terminal is None else terminal, null, null, socket])
    finally:
        os.close(null)
        os.close(program)
