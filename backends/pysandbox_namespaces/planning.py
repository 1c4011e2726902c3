"""What this backend asks the planner for: facts of this host, of the cgroup and of the request, put together."""

from __future__ import annotations

from typing import TYPE_CHECKING

from pysandbox.plan.container import init_plan
from pysandbox.plan.host import host_facts
from pysandbox.plan.process import exec_plan

if TYPE_CHECKING:
    from collections.abc import Mapping
    from typing import Any

    from pysandbox.backend import ExecRequest, Options
    from pysandbox.cgroup.cgroup import Cgroup
    from pysandbox.oci.types import Spec
    from pysandbox.plan.plan import Plan


def plan_init(
    bundle: str, spec: Spec, container_id: str, options: Options, cgroup: Cgroup, state: Mapping[str, Any], preserved: int
) -> Plan:
    """Plan the container's init."""
    return init_plan(
        spec, bundle=bundle, container_id=container_id, cgroup=cgroup, options=options, host=host_facts(), state=state,
        preserved=preserved,
    )  # fmt: skip


def plan_exec(request: ExecRequest, spec: Spec, cgroup: Cgroup) -> bytes:
    """Plan one more process and serialise it for the executor."""
    kinds = [namespace["type"] for namespace in spec.get("linux", {}).get("namespaces", ())]
    plan = exec_plan(
        request.process, spec, host=host_facts(), options=request.options, namespaces=kinds,
        preserved=len(request.stdio.preserved),
    )  # fmt: skip
    return plan.to_json()
