"""Change the limits of a container in a machine while it runs: in the guest, of the machine on the host, and its size.

A machine grows for a limit that is beyond its memory or its processors, as far as it was made for; it does not shrink:
the guest's own limit is what counts then.
"""

from __future__ import annotations

from pysandbox.cgroup.resources import usage_problem
from pysandbox.errors import FailedPrecondition
from pysandbox_microvm import service
from pysandbox_microvm.planning import device_program_of, guest_limits, host_resources

TYPE_CHECKING = False
if TYPE_CHECKING:
    from pysandbox.cgroup.cgroup import Cgroup
    from pysandbox.oci.types import Resources


def update(container_id: str, state_dir: str, cgroup: Cgroup, overhead: int, resources: Resources) -> None:
    """Set the limits that `resources` mentions. `overhead`: bytes that the host's memory limit has beyond them."""
    _check_usage(container_id, state_dir, resources)
    arguments = {
        "container": container_id,
        "limits": guest_limits(resources),
        "device_program": device_program_of(resources).hex() if resources.get("devices") is not None else "",
        "resources": resources,
    }
    outside = host_resources(resources, overhead)
    outside.pop("devices", None)
    service.ask(state_dir, "update", arguments)
    cgroup.apply(outside)


def _check_usage(container_id: str, state_dir: str, resources: Resources) -> None:
    """Refuse limits that would kill at once, where `checkBeforeUpdate` asks for it. Raises FailedPrecondition."""
    memory = resources.get("memory") or {}
    if not memory.get("checkBeforeUpdate"):
        return
    arguments = {"container": container_id, "files": ["memory.current"]}
    used = service.ask(state_dir, "read", arguments)[0]["contents"].get("memory.current", "0").strip()
    problem = usage_problem(memory, int(used) if used.isdigit() else 0)
    if problem:
        raise FailedPrecondition(problem)
