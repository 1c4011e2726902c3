"""Change the limits of a container in a machine while it runs: in the guest, of the machine on the host, and its size.

A machine grows for a limit that is beyond its memory or its processors, as far as it was made for; it does not shrink:
the guest's own limit is what counts then.
"""

from __future__ import annotations

from pysandbox_microvm import service
from pysandbox_microvm.planning import device_program_of, guest_limits, host_resources

TYPE_CHECKING = False
if TYPE_CHECKING:
    from pysandbox.cgroup.cgroup import Cgroup
    from pysandbox.oci.types import Resources


def update(container_id: str, state_dir: str, cgroup: Cgroup, overhead: int, resources: Resources) -> None:
    """Set the limits that `resources` mentions. `overhead`: bytes that the host's memory limit has beyond them."""
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
