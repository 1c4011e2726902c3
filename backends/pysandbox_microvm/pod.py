"""A container that joins another's machine, as the containers of a Kubernetes pod do.

The annotations of CRI say which: those of containerd, or CRI-O's. The other one must say of itself, in its own spec,
that it is a sandbox: no annotation leads a container into the machine of one that was not made to be shared. Who joins
has its own cgroup on the host, with its file server and its proxy; the machine is in the sandbox's.
"""

from __future__ import annotations

import _socket
import contextlib
import json
import os

from pysandbox.backend import Process
from pysandbox.caller import current
from pysandbox.errors import FailedPrecondition, InvalidArgument
from pysandbox.executor import ExecutorError
from pysandbox.failure import in_runcs_words
from pysandbox.filtercache import compile_filter
from pysandbox.linux import start_time
from pysandbox_microvm import service
from pysandbox_microvm.block import check_joining
from pysandbox_microvm.container import MicrovmContainer, leave
from pysandbox_microvm.creation import make_cgroup, open_spec_cgroup, order, reap, resources_of
from pysandbox_microvm.execution import start_proxy
from pysandbox_microvm.place import Place
from pysandbox_microvm.planning import host_resources, plan_init
from pysandbox_microvm.settings import overhead
from pysandbox_microvm.terminal import open_terminal

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Mapping
    from typing import Any

    from pysandbox.backend import CreateRequest
    from pysandbox.cgroup.cgroup import Cgroup

#: What a container is ("sandbox" or "container"), and which sandbox it belongs to: containerd's words, and CRI-O's.
ANNOTATIONS = (
    ("io.kubernetes.cri.container-type", "io.kubernetes.cri.sandbox-id"),
    ("io.kubernetes.cri-o.ContainerType", "io.kubernetes.cri-o.SandboxID"),
)
#: Seconds for a container to be made in a machine that runs.
PATIENCE = 180.0


def sandbox_of(annotations: Mapping[str, str]) -> str:
    """Return the id of the sandbox that a container joins, nothing for one that has its own. Raises InvalidArgument."""
    for kind, name in ANNOTATIONS:
        if annotations.get(kind) == "container":
            sandbox = annotations.get(name, "")
            if not sandbox.strip(".") or not all(
                each.isascii() and (each.isalnum() or each in "_+-.") for each in sandbox
            ):
                raise InvalidArgument(f"annotations: {name}: {sandbox!r} is no container's id")
            return sandbox
    return ""


def join(request: CreateRequest, sandbox: str) -> MicrovmContainer:
    """Make a container in the machine of another. On failure nothing is left."""
    directory = os.path.join(os.path.dirname(request.state_dir), sandbox)
    _check_sandbox(directory, sandbox)
    there = service.ask(directory, "peers", {})[0]
    peers = {int(pid): int(guest) for pid, guest in there["peers"].items()}
    place = Place(f"c{os.urandom(6).hex()}", peers)
    check_joining(request.spec, request.bundle, place.storage)
    plan = plan_init(request.bundle, request.spec, request.id, request.options, request.state, place, compile_filter)
    cgroup = open_spec_cgroup(request.spec, request.id, request.options)
    memory: dict[str, Any] = {
        "cgroup": cgroup.saved(),
        "place": place.saved(),
        "overhead": overhead(request.options.settings),
        "sandbox": directory,
    }
    request.remember(memory)
    with contextlib.ExitStack() as undo:
        make_cgroup(request, cgroup)
        undo.callback(cgroup.remove)
        undo.callback(cgroup.kill)
        hooks = request.spec.get("hooks") or {}
        if hooks.get("prestart") or hooks.get("createRuntime"):
            request.runtime_created(int(there["pid"]))
        wanted = order(request, plan, place)
        try:
            init = _create(directory, wanted, cgroup, request, undo)
        except ExecutorError as error:
            raise in_runcs_words(error, request.spec["process"]["args"][0], request.spec) from error
        cgroup.apply(host_resources(resources_of(request.spec), memory["overhead"]))
        undo.pop_all()
    started = start_time(init.pid) or 0
    return MicrovmContainer(
        request.id, request.state_dir, request.bundle, init, started, cgroup, memory, request.options.warn
    )


def _check_sandbox(directory: str, sandbox: str) -> None:
    """Refuse one that does not say of itself that it is a sandbox, to be shared."""
    try:
        with open(f"{directory}/config.json", "rb") as file:
            annotations = json.load(file).get("annotations") or {}
    except OSError:
        raise FailedPrecondition(f"sandbox {sandbox} does not exist") from None
    for kind, name in ANNOTATIONS:
        if annotations.get(kind) == "sandbox" and annotations.get(name, sandbox) == sandbox:
            return
    raise InvalidArgument(f"annotations: container {sandbox} is no sandbox that others may join")


def _create(
    directory: str, wanted: dict[str, Any], cgroup: Cgroup, request: CreateRequest, undo: contextlib.ExitStack
) -> Process:
    """Start the proxy that stands for init, put it into the cgroup, and have the sandbox process make the container."""
    stdio = request.stdio
    streams, console = [stdio.stdin, stdio.stdout, stdio.stderr], None
    ours, theirs = _socket.socketpair(_socket.AF_UNIX, _socket.SOCK_STREAM)
    with contextlib.closing(ours), contextlib.closing(theirs), contextlib.ExitStack() as held:
        if stdio.terminal:
            console, slave = open_terminal(*wanted["plan"]["size"])
            undo.callback(os.close, console)
            held.callback(os.close, slave)
            streams = [slave] * 3
        proxy = start_proxy(ours.fileno(), streams[0] if stdio.terminal else None)
        undo.callback(_end, proxy)
        cgroup.add(proxy)
        wanted |= {"proxy": proxy, "entrances": cgroup.entrances()}
        undo.callback(leave, directory, request.id)
        service.ask(directory, "create", wanted, [theirs.fileno(), *streams], PATIENCE)
    return Process(pid=proxy, console=console)


def _end(proxy: int) -> None:
    with contextlib.suppress(ProcessLookupError):
        if current().is_child(proxy):
            os.kill(proxy, 9)
    reap(proxy)
