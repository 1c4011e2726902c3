"""The microvm backend. What only `create` and `exec` need is imported by them: the other commands are quicker so."""

from __future__ import annotations

import contextlib
from signal import SIGKILL

from pysandbox import process as processes
from pysandbox.backend import Backend, Process
from pysandbox.cgroup.placement import load_cgroup, open_cgroup
from pysandbox.errors import FailedPrecondition
from pysandbox_microvm.container import MicrovmContainer, leave
from pysandbox_microvm.netns import forget_network

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from typing import Any, ClassVar

    from pysandbox.backend import Container, ContainerRecord, CreateRequest, Features, Finding, Options, Problem
    from pysandbox.cgroup.cgroup import Cgroup
    from pysandbox.oci.types import Spec


class MicrovmBackend(Backend):
    """See `pysandbox.backend.Backend`."""

    name: ClassVar[str] = "microvm"

    def probe(self) -> Sequence[Problem]:
        """Look at the caller's uid, QEMU, the file server, and the guest image."""
        from pysandbox_microvm.probe import problems

        return problems({})

    def inspect(self, settings: Mapping[str, Any]) -> Sequence[Finding]:
        """Look at each piece of a machine, and the host's memory and disk."""
        from pysandbox_microvm.inspection import findings

        return findings(settings)

    def features(self) -> Features:
        """Report what becomes of each field of the spec."""
        from pysandbox_microvm.features import FEATURES

        return FEATURES

    def plan(self, bundle: str, spec: Spec, container_id: str, options: Options) -> Sequence[Mapping[str, Any]]:
        """Plan what the guest's executor would do."""
        from pysandbox_microvm.block import find_place
        from pysandbox_microvm.planning import plan_init
        from pysandbox_microvm.settings import check_settings

        check_settings(options.settings)
        return plan_init(bundle, spec, container_id, options, {}, find_place(spec, bundle)).plan.documents()

    def create(self, request: CreateRequest) -> Container:
        """Make the cgroup, start the sandbox process, and wait until init is ready in its machine."""
        from pysandbox_microvm.creation import create
        from pysandbox_microvm.pod import join, sandbox_of

        sandbox = sandbox_of(request.spec.get("annotations") or {})
        return join(request, sandbox) if sandbox else create(request)

    def load(self, record: ContainerRecord) -> Container:
        """Take hold of the sandbox process that the record names."""
        state = record.backend_state
        init = Process(pid=record.pid)
        cgroup = load_cgroup(state["cgroup"])
        return MicrovmContainer(
            record.id, record.state_dir, record.bundle, init, record.pid_start_time, cgroup, record.backend_state
        )

    def destroy(self, record: ContainerRecord) -> None:
        """End the sandbox process, and everything in the cgroup, and remove the cgroup."""
        with contextlib.suppress(FailedPrecondition):
            processes.send_signal(record.pid, record.pid_start_time, SIGKILL)
        if "sandbox" in record.backend_state:
            leave(record.backend_state["sandbox"], record.id)
        cgroup = _remembered_cgroup(record)
        if cgroup is not None:
            cgroup.kill()
            cgroup.remove()
        forget_network(record.backend_state.get("network", ""))


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
