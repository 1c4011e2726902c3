"""Start one more process in a container."""

from __future__ import annotations

import contextlib
import os

from pysandbox import executor
from pysandbox.executor import ExecutorError
from pysandbox.failure import in_runcs_words
from pysandbox.process import open_process
from pysandbox_namespaces.conversation import Conversation, hold_entrances
from pysandbox_namespaces.listener import hand_listener
from pysandbox_namespaces.planning import entrances, plan_exec

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable

    from pysandbox.backend import ExecRequest, Process
    from pysandbox.cgroup.cgroup import Cgroup
    from pysandbox.executor import Launch
    from pysandbox.oci.types import Spec


def execute(
    request: ExecRequest, container_id: str, read_spec: Callable[[], Spec], pid: int, started: int, cgroup: Cgroup
) -> Process:
    """Run a process beside init, which is `pid` and began at `started`. On failure nothing of it is left."""
    with contextlib.ExitStack() as held:
        pidfd = open_process(pid, started)
        held.callback(os.close, pidfd)
        launch = executor.start(request.stdio)  # first of all: it takes as long as the plan does
        try:
            spec = read_spec()
            opened = hold_entrances(held, {} if request.cgroup else entrances(cgroup, spec))
            plan = plan_exec(request, container_id, spec, pid, list(opened))
            launch.give(plan.to_json(), {"process": pidfd, **opened})
            process = _follow(launch, request, spec, cgroup, pid)
        except BaseException as error:
            launch.abort()
            if isinstance(error, ExecutorError):
                raise in_runcs_words(error, request.process["args"][0], spec) from error
            raise
    launch.close()
    return process


def _follow(launch: Launch, request: ExecRequest, spec: Spec, cgroup: Cgroup, init: int) -> Process:
    trace = request.options.trace
    if trace is not None:
        trace("spawn", launch.spawned)
    conversation = Conversation(
        launch,
        {"cgroup": lambda pid: cgroup.add(pid, request.cgroup, init=init)},
        on_listener=lambda pid, number: hand_listener(spec, request.state, pid, number),
        trace=trace,
    )
    return conversation.follow()
