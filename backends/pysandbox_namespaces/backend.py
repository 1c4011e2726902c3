"""The namespaces backend: spawn the executor on the host and answer it."""

from __future__ import annotations

import contextlib
import os
from signal import SIGKILL

from pysandbox import executor
from pysandbox.backend import Backend, Problem
from pysandbox.cgroup.cgroup import load_cgroup, open_cgroup
from pysandbox.errors import FailedPrecondition
from pysandbox.executor import ExecutorError
from pysandbox.linux import start_time
from pysandbox_namespaces import process as processes
from pysandbox_namespaces.container import START_FIFO, NamespacesContainer, hold_entrances
from pysandbox_namespaces.creation import Creation
from pysandbox_namespaces.failure import in_runcs_words
from pysandbox_namespaces.planning import plan_init

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from typing import Any, ClassVar

    from pysandbox.backend import Container, ContainerRecord, CreateRequest, Features, Options
    from pysandbox.cgroup.cgroup import Cgroup
    from pysandbox.executor import Launch
    from pysandbox.oci.types import Spec

#: The oldest kernel with every call the executor makes: mount_setattr(2) came last.
KERNEL_FLOOR = (5, 12)


class NamespacesBackend(Backend):
    """See `pysandbox.backend.Backend`."""

    name: ClassVar[str] = "namespaces"

    def probe(self) -> Sequence[Problem]:
        """Look at the kernel's version, the caller's uid and the executor."""
        from pysandbox_namespaces.probe import problems

        return problems(KERNEL_FLOOR)

    def features(self) -> Features:
        """Report what the plan does with each field of the spec."""
        from pysandbox_namespaces.features import FEATURES

        return FEATURES

    def plan(self, bundle: str, spec: Spec, container_id: str, options: Options) -> Sequence[Mapping[str, Any]]:
        """Plan without doing."""
        cgroup = _open_cgroup(spec, container_id, options)
        plan = plan_init(bundle, spec, container_id, options, cgroup, {}, preserved=0)
        return [{"op": operation.name, **operation.arguments} for operation in plan.operations]

    def create(self, request: CreateRequest) -> Container:
        """Make the cgroup, spawn the executor, and talk it through to the stop `ready`."""
        cgroup = _open_cgroup(request.spec, request.id, request.options)
        plan = plan_init(
            request.bundle,
            request.spec,
            request.id,
            request.options,
            cgroup,
            request.state,
            len(request.stdio.preserved),
        )
        request.remember({"cgroup": cgroup.saved()})
        with contextlib.ExitStack() as undo:
            start = _make_start_fifo(request.state_dir)
            undo.callback(os.close, start)
            cgroup.create()
            undo.callback(cgroup.remove)
            with contextlib.ExitStack() as held:
                slots = {"start": start, **hold_entrances(held, cgroup)}
                launch = executor.spawn(plan.to_json(), stdio=request.stdio, slots=slots)
            undo.callback(_end, launch, cgroup)
            try:
                init = Creation(request, plan, cgroup).follow(launch)
            except ExecutorError as error:
                raise in_runcs_words(error, request.spec["process"]["args"][0]) from error
            undo.pop_all()
            os.close(start)
        return NamespacesContainer(request.id, request.state_dir, init, start_time(init.pid) or 0, cgroup, launch)

    def load(self, record: ContainerRecord) -> Container:
        """Take hold of the init that the record names."""
        from pysandbox.backend import Process

        cgroup = load_cgroup(record.backend_state["cgroup"])
        init = Process(pid=record.pid)
        return NamespacesContainer(record.id, record.state_dir, init, record.pid_start_time, cgroup)

    def destroy(self, record: ContainerRecord) -> None:
        """End init if it is the one we made, and everything in the cgroup, and remove the cgroup."""
        with contextlib.suppress(FailedPrecondition):
            processes.send_signal(record.pid, record.pid_start_time, SIGKILL)
        cgroup = _remembered_cgroup(record)
        if cgroup is not None:
            cgroup.kill()
            cgroup.remove()


def _open_cgroup(spec: Spec, container_id: str, options: Options) -> Cgroup:
    path = (spec.get("linux") or {}).get("cgroupsPath") or ""
    return open_cgroup(path, container_id, systemd=options.systemd_cgroup)


def _remembered_cgroup(record: ContainerRecord) -> Cgroup | None:
    """Return a container's cgroup; of one whose record was lost (`running` without state), what its spec says.

    One that is only `creating` and remembers no cgroup has none: what bears that name then is somebody else's.
    """
    if "cgroup" in record.backend_state:
        return load_cgroup(record.backend_state["cgroup"])
    if record.status != "running":
        return None
    from pysandbox.oci.document import read_json

    with open(f"{record.state_dir}/config.json", "rb") as file:
        spec = read_json(file.read(), file.name)
    path = (spec.get("linux") or {}).get("cgroupsPath") or ""
    return open_cgroup(path, record.id, systemd=path.count(":") == 2)


def _make_start_fifo(state_dir: str) -> int:
    """Make the FIFO and open it both ways: never blocks, and counts as a reader while init holds it (fifo(7))."""
    path = os.path.join(state_dir, START_FIFO)
    os.mkfifo(path, 0o600)
    return os.open(path, os.O_RDWR | os.O_NOFOLLOW | os.O_CLOEXEC)


def _end(launch: Launch, cgroup: Cgroup) -> None:
    launch.abort()
    cgroup.kill()
