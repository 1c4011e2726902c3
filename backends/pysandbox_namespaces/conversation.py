"""Talk an executor through its plan: answer its stops, collect what it reports."""

from __future__ import annotations

import os

from pysandbox import executor
from pysandbox.backend import Process
from pysandbox.cgroup.cgroup import open_entrances
from pysandbox.errors import Unknown

TYPE_CHECKING = False
if TYPE_CHECKING:
    import contextlib
    from collections.abc import Callable, Mapping

    from pysandbox.executor import Launch
    from pysandbox.oci.types import Spec

    #: What to do at a stop, given the pid of the process that waits.
    Answer = Callable[[int], None]
    Trace = Callable[[str, int], None]

#: Seconds that the executor gives hooks without a limit (`LONGEST` in guest_agent/src/ops/hooks.rs), and a little more.
HOOK_TIMEOUT = 24 * 3600.0 + 60


def converse(
    launch: Launch,
    answers: Mapping[str, Answer],
    *,
    until: str | None = None,
    on_listener: Callable[[int, int], None] | None = None,
    trace: Trace | None = None,
    timeout: float = executor.MESSAGE_TIMEOUT,
) -> Process:
    """Answer the executor until it has been told to go on from stop `until`, or has executed the program.

    No message may take longer than `timeout` seconds. Returns the process it made. Raises `ExecutorError` for a step
    that failed, and what an answer raises; the caller aborts the launch then.
    """
    pid = 0
    console: int | None = None
    try:
        while (message := launch.next(timeout)) is not None:
            if isinstance(message, executor.Pid):
                pid = message.pid
            elif isinstance(message, executor.Descriptor):
                console = message.descriptor
            elif isinstance(message, executor.Listener):
                if on_listener is not None:
                    on_listener(pid, message.number)
                launch.go()
            elif isinstance(message, executor.Step):
                if trace is not None:
                    trace(message.op, message.ns)
            else:
                _answer(launch, answers, message.name, pid or launch.outer_pid)
                if message.name == until:
                    return Process(pid=pid, console=console)
    except BaseException:
        if console is not None:
            os.close(console)
        raise
    if until is not None:
        raise Unknown(f"the executor ended before it reached {until!r}")
    return Process(pid=pid, console=console)


def hold_entrances(held: contextlib.ExitStack, paths: Mapping[str, str]) -> dict[str, int]:
    """Open a cgroup's entrances for as long as `held` lasts."""
    opened = open_entrances(paths)
    for descriptor in opened.values():
        held.callback(os.close, descriptor)
    return opened


def patience(spec: Spec, kind: str) -> float:
    """Return how many seconds an executor may say nothing: hooks of that kind, if it runs any, limit themselves."""
    return HOOK_TIMEOUT if (spec.get("hooks") or {}).get(kind) else executor.MESSAGE_TIMEOUT


def _answer(launch: Launch, answers: Mapping[str, Answer], name: str, pid: int) -> None:
    if name not in answers:
        raise Unknown(f"the executor stopped at {name!r}, which nobody answers")
    answers[name](pid)
    launch.go()
