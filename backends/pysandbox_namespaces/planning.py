"""What this backend asks the planner for: facts of this host, of the cgroup and of the request, put together."""

from __future__ import annotations

import os

from pysandbox.cgroup.resources import ignored
from pysandbox.filtercache import compile_filter
from pysandbox.plan.container import init_plan
from pysandbox.plan.host import host_facts
from pysandbox.plan.process import exec_plan

#: Files in /proc/PID/ns that are not named as the spec names the namespace.
NAMESPACE_FILES = {"network": "net", "mount": "mnt"}

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from typing import Any

    from pysandbox.backend import ExecRequest, Options
    from pysandbox.cgroup.cgroup import Cgroup
    from pysandbox.oci.types import Spec
    from pysandbox.plan.filter import Compiler
    from pysandbox.plan.plan import Plan


def plan_init(
    bundle: str,
    spec: Spec,
    container_id: str,
    options: Options,
    cgroup: Cgroup,
    state: Mapping[str, Any],
    preserved: int,
    compiler: Compiler | None = None,
) -> Plan:
    """Plan the container's init; `compiler` is for one that will be carried out."""
    plan = init_plan(
        spec,
        bundle=bundle,
        container_id=container_id,
        cgroup=cgroup,
        options=options,
        host=host_facts(spec),
        state=state,
        preserved=preserved,
        entrances=list(entrances(cgroup, spec)),
        compiler=compiler,
    )
    if options.warn is not None:
        for path in said_in_vain(spec, cgroup.version):
            options.warn(f"{path}: ignored")
    _log(plan, options)
    return plan


def said_in_vain(spec: Spec, cgroup_version: int) -> list[str]:
    """Return the JSON paths of what is asked for and has no meaning on this host's kernel, or on any."""
    vm = ["vm"] if "vm" in spec else []
    return vm + ignored((spec.get("linux") or {}).get("resources") or {}, cgroup_version)


def entrances(cgroup: Cgroup, spec: Spec) -> Mapping[str, str]:
    """Return what the executor enters the cgroup through by itself: slots and paths.

    Nothing for a container with a user namespace: CLONE_INTO_CGROUP asks for a right to the cgroup that the executor
    has given up by the time it clones. The caller moves it then.
    """
    namespaces = (spec.get("linux") or {}).get("namespaces") or ()
    return {} if any(namespace["type"] == "user" for namespace in namespaces) else cgroup.entrances()


def delegated_to(spec: Spec) -> int | None:
    """Return the uid of the host that a v2 cgroup is given to, as runc gives it: the container's root.

    Only where root is mapped, has a cgroup namespace of its own and may write to its cgroup mount: then it can make
    cgroups below its own (cgroups(7), "Cgroups delegation").
    """
    linux = spec.get("linux") or {}
    private = any(space["type"] == "cgroup" and not space.get("path") for space in linux.get("namespaces") or ())
    mounts = [mount for mount in spec.get("mounts") or () if mount.get("type") in ("cgroup", "cgroup2")]
    if not private or not any("ro" not in (mount.get("options") or ()) for mount in mounts):
        return None
    return next((line["hostID"] for line in linux.get("uidMappings") or () if line["containerID"] == 0), None)


def plan_exec(request: ExecRequest, container_id: str, spec: Spec, pid: int, slots: Sequence[str]) -> Plan:
    """Plan one more process in the container whose init is `pid`; `slots` are the entrances of its cgroup."""
    plan = exec_plan(
        request.process,
        spec,
        host=host_facts(spec),
        options=request.options,
        namespaces=separate_namespaces(spec, pid),
        container_id=container_id,
        preserved=len(request.stdio.preserved),
        entrances=slots,
        compiler=compile_filter,
    )
    _log(plan, request.options)
    return plan


def separate_namespaces(spec: Spec, pid: int) -> list[str]:
    """Return the kinds of namespace that the container does not share with us.

    One that the spec joins by path may be our own; setns(2) refuses to enter one's own user namespace.
    """
    kinds = [namespace["type"] for namespace in (spec.get("linux") or {}).get("namespaces") or ()]
    pairs = zip(kinds, _namespaces(pid, kinds), _namespaces(os.getpid(), kinds), strict=True)
    return [kind for kind, theirs, ours in pairs if theirs != ours]


def _namespaces(pid: int, kinds: Sequence[str]) -> list[str]:
    """Return what each link reads, such as `net:[4026531840]`: half the time of looking at what it leads to."""
    directory = os.open(f"/proc/{pid}/ns", os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        return [os.readlink(NAMESPACE_FILES.get(kind, kind), dir_fd=directory) for kind in kinds]
    finally:
        os.close(directory)


def _log(plan: Plan, options: Options) -> None:
    if options.warn is not None:
        for warning in plan.warnings:
            options.warn(warning)
    if options.debug is not None:
        for line in (*plan.debug, *plan.describe()):
            options.debug(line)
