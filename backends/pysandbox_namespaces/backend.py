"""The namespaces backend. What only `create` and `exec` need is imported by them: the other commands are quicker so."""

from __future__ import annotations

import contextlib
from signal import SIGKILL

from pysandbox import process as processes
from pysandbox.backend import Backend, Process
from pysandbox.cgroup.placement import load_cgroup, open_cgroup
from pysandbox.errors import FailedPrecondition
from pysandbox_namespaces.container import NamespacesContainer

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from typing import Any, ClassVar

    from pysandbox.backend import Container, ContainerRecord, CreateRequest, Features, Options, Problem
    from pysandbox.cgroup.cgroup import Cgroup
    from pysandbox.oci.types import Spec
    from pysandbox_namespaces.rootmount import RootMount

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
        from pysandbox_namespaces.creation import open_spec_cgroup
        from pysandbox_namespaces.planning import plan_init

        cgroup = open_spec_cgroup(spec, container_id, options)
        return plan_init(bundle, spec, container_id, options, cgroup, {}, preserved=0).documents()

    def create(self, request: CreateRequest) -> Container:
        """Make the cgroup, spawn the executor, and talk it through to the stop `ready`."""
        from pysandbox_namespaces.creation import create
        from pysandbox_namespaces.probe import check_kernel

        check_kernel(KERNEL_FLOOR)
        return create(request)

    def load(self, record: ContainerRecord) -> Container:
        """Take hold of the init that the record names."""
        cgroup = load_cgroup(record.backend_state["cgroup"])
        init = Process(pid=record.pid)
        root = _root_mount(record)
        return NamespacesContainer(record.id, record.state_dir, init, record.pid_start_time, cgroup, root=root)

    def destroy(self, record: ContainerRecord) -> None:
        """End init if it is the one we made, and everything in the cgroup, and remove the cgroup."""
        with contextlib.suppress(FailedPrecondition):
            processes.send_signal(record.pid, record.pid_start_time, SIGKILL)
        cgroup = _remembered_cgroup(record)
        if cgroup is not None:
            cgroup.kill()
            cgroup.remove()
        root = _root_mount(record)
        if root is not None:
            root.detach()


def _root_mount(record: ContainerRecord) -> RootMount | None:
    """Return the mount that a container without a mount namespace made its own in."""
    if "root" not in record.backend_state:
        return None
    from pysandbox_namespaces.rootmount import RootMount

    return RootMount.load(record.backend_state["root"])


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
