"""Make a container: its cgroup, its executor, and what is done at each stop of the executor's plan."""

from __future__ import annotations

import contextlib
import os

from pysandbox import executor
from pysandbox.cgroup.placement import open_cgroup
from pysandbox.errors import FailedPrecondition
from pysandbox.executor import ExecutorError
from pysandbox.failure import in_runcs_words
from pysandbox.filtercache import compile_filter
from pysandbox.linux import start_time
from pysandbox.plan.namespaces import makes_network
from pysandbox_namespaces.container import START_FIFO, NamespacesContainer
from pysandbox_namespaces.conversation import Conversation, Execution, hold_entrances, patience
from pysandbox_namespaces.idmap import write_id_maps, write_process_file
from pysandbox_namespaces.planning import delegated_to, entrances, plan_init

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Mapping
    from typing import Any

    from pysandbox.backend import CreateRequest, Options, Process
    from pysandbox.cgroup.cgroup import Cgroup
    from pysandbox.executor import Launch
    from pysandbox.oci.types import Spec
    from pysandbox.plan.plan import Plan
    from pysandbox_namespaces.conversation import Answer
    from pysandbox_namespaces.rootmount import RootMount


def create(request: CreateRequest) -> NamespacesContainer:
    """Make a container whose init waits for `start`. On failure nothing is left."""
    # First of all: it takes as long as the plan does.
    launch = executor.start(request.stdio, network=makes_network(request.spec))
    with contextlib.ExitStack() as undo:
        undo.callback(launch.abort)
        container = _create(request, launch, undo)
        undo.pop_all()
    return container


def _create(request: CreateRequest, launch: Launch, undo: contextlib.ExitStack) -> NamespacesContainer:
    """Plan, make what the plan needs, and talk the executor through it. What is to be undone goes onto `undo`."""
    cgroup = open_spec_cgroup(request.spec, request.id, request.options)
    preserved = len(request.stdio.preserved)
    plan = plan_init(
        request.bundle, request.spec, request.id, request.options, cgroup, request.state, preserved, compile_filter
    )
    root = _root_mount(request)
    request.remember(_memory(cgroup, root))
    with contextlib.ExitStack() as held:
        _make_cgroup(request, cgroup)
        undo.callback(cgroup.remove)
        if root is not None:
            undo.callback(root.detach)
            root.attach()
            request.remember(_memory(cgroup, root))
        slots = {
            "start": _make_start_fifo(held, request.state_dir),
            **hold_entrances(held, entrances(cgroup, request.spec)),
        }
        undo.callback(_end, launch, cgroup)
        launch.give(plan.to_json(), slots)
        try:
            init = Creation(request, plan, cgroup).follow(launch)
        except ExecutorError as error:
            raise in_runcs_words(error, request.spec["process"]["args"][0], request.spec) from error
    execution = Execution(launch, patience(request.spec, "startContainer"), request.options.trace)
    return NamespacesContainer(request.id, request.state_dir, init, start_time(init.pid) or 0, cgroup, execution, root)


def _memory(cgroup: Cgroup, root: RootMount | None) -> dict[str, Any]:
    """Return what `destroy` needs to find what was made."""
    return {"cgroup": cgroup.saved(), **({"root": root.saved()} if root is not None else {})}


def open_spec_cgroup(spec: Spec, container_id: str, options: Options) -> Cgroup:
    """Decide where the container's cgroup is, without making it."""
    path = (spec.get("linux") or {}).get("cgroupsPath") or ""
    return open_cgroup(path, container_id, systemd=options.systemd_cgroup)


def _root_mount(request: CreateRequest) -> RootMount | None:
    """Return the mount that a container without a mount namespace makes its own in, if it makes any."""
    namespaces = (request.spec.get("linux") or {}).get("namespaces") or ()
    if not request.spec.get("mounts") or any(namespace["type"] == "mount" for namespace in namespaces):
        return None
    from pysandbox_namespaces.rootmount import RootMount

    return RootMount.plan(os.path.join(request.bundle, request.spec["root"]["path"]))


def _make_cgroup(request: CreateRequest, cgroup: Cgroup) -> None:
    """Make the cgroup. One that is somebody else's is forgotten, so that nobody removes it in our name."""
    try:
        cgroup.create()
    except FailedPrecondition:
        request.remember({})
        raise


def _make_start_fifo(held: contextlib.ExitStack, state_dir: str) -> int:
    """Make the FIFO and open it both ways: never blocks, and counts as a reader while init holds it (fifo(7))."""
    path = os.path.join(state_dir, START_FIFO)
    os.mkfifo(path, 0o600)
    descriptor = os.open(path, os.O_RDWR | os.O_NOFOLLOW | os.O_CLOEXEC)
    held.callback(os.close, descriptor)
    return descriptor


def _end(launch: Launch, cgroup: Cgroup) -> None:
    launch.abort()
    cgroup.kill()


class Creation:
    """One container on its way to the stop `ready`, where init waits for `start`."""

    def __init__(self, request: CreateRequest, plan: Plan, cgroup: Cgroup) -> None:
        self._request = request
        self._plan = plan
        self._cgroup = cgroup
        self._linux = request.spec.get("linux") or {}

    def follow(self, launch: Launch) -> Process:
        """Answer every stop; return init."""
        trace = self._request.options.trace
        if trace is not None:
            trace("spawn", launch.spawned)
        conversation = Conversation(
            launch,
            self._answers(),
            on_listener=self._hand_listener,
            trace=trace,
            timeout=patience(self._request.spec, "createContainer"),
        )
        return conversation.follow("ready")

    def _answers(self) -> Mapping[str, Answer]:
        return {
            "cgroup": self._cgroup.add,
            "id_maps": self._write_id_maps,
            "time_offsets": self._write_time_offsets,
            "net_devices": self._move_devices,
            "runtime_created": self._runtime_created,
            "ready": lambda _pid: None,  # all that is left to do is to let init go on
        }

    def _write_id_maps(self, pid: int) -> None:
        write_id_maps(pid, self._linux.get("uidMappings") or (), self._linux.get("gidMappings") or ())

    def _write_time_offsets(self, pid: int) -> None:
        write_process_file(pid, "timens_offsets", self._plan.time_offsets.encode())

    def _move_devices(self, pid: int) -> None:
        from pysandbox_namespaces.netdevice import move_devices

        move_devices(self._linux.get("netDevices") or {}, pid)

    def _runtime_created(self, pid: int) -> None:
        """Set the limits only now: the executor's two processes would not fit into a limit of one."""
        self._cgroup.apply(self._linux.get("resources") or {})
        owner = delegated_to(self._request.spec)
        if owner is not None:
            self._cgroup.delegate(owner)
        self._request.runtime_created(pid)

    def _hand_listener(self, pid: int, number: int) -> None:
        from pysandbox_namespaces.listener import hand_listener

        hand_listener(self._request.spec, self._request.state, pid, number)
