"""Talk an executor through its plan: answer its stops, collect what it reports."""

from __future__ import annotations

import os
import time

from pysandbox import executor
from pysandbox.backend import Process
from pysandbox.cgroup.cgroup import open_entrances
from pysandbox.errors import Unknown
from pysandbox_namespaces.idmap import ID_MAP_STOPS, set_id_map

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


class Conversation:
    """One executor, talked through its plan.

    `answers` says what to do at each stop; `on_listener` gets the pid and the number of a seccomp notify descriptor.
    No message may take longer than `timeout` seconds.
    """

    def __init__(
        self,
        launch: Launch,
        answers: Mapping[str, Answer],
        *,
        on_listener: Callable[[int, int], None] | None = None,
        trace: Trace | None = None,
        timeout: float = executor.MESSAGE_TIMEOUT,
    ) -> None:
        self._launch = launch
        self._answers = answers
        self._on_listener = on_listener
        self._trace = trace
        self._timeout = timeout
        self._pid = 0
        self._received: dict[str, int] = {}

    def follow(self, until: str | None = None) -> Process:
        """Answer until the executor may go on from stop `until`, or has executed the program; return its process.

        Raises `ExecutorError` for a step that failed, and what an answer raises; the caller aborts the launch then.
        """
        try:
            while (message := self._launch.next(self._timeout)) is not None:
                stop = self._take(message)
                if stop is not None and stop == until:
                    self._launch.reap_outer()
                    return self._process()
        except BaseException:
            for descriptor in self._received.values():
                os.close(descriptor)
            raise
        if self._trace is not None:
            self._trace("executed", time.monotonic_ns())
        if until is not None:
            raise Unknown(f"the executor ended before it reached {until!r}")
        return self._process()

    def _process(self) -> Process:
        return Process(pid=self._pid, console=self._received.get("console"))

    def _take(self, message: executor.Message) -> str | None:
        """Do what a message asks for; return the name of the stop that was answered."""
        match message:
            case executor.Pid(pid=pid):
                self._pid = pid
            case executor.Descriptor(name=name, descriptor=descriptor):
                self._received[name] = descriptor
            case executor.Listener(number=number):
                if self._on_listener is not None:
                    self._on_listener(self._pid, number)
                self._launch.go()
            case executor.Step(op=op, ns=ns):
                if self._trace is not None:
                    self._trace(op, ns)
            case executor.Stop(name=name):
                self._answer(name)
                self._launch.go()
                return name
        return None

    def _answer(self, name: str) -> None:
        if name in ID_MAP_STOPS:
            set_id_map(self._received.pop("mount"), self._received.pop("id_map"), recursive=name == "id_map_tree")
        elif name in self._answers:
            self._answers[name](self._pid or self._launch.outer_pid)
        else:
            raise Unknown(f"the executor stopped at {name!r}, which nobody answers")


class Execution:
    """What the process that made a container still hears of its init, until init has executed the program."""

    def __init__(self, launch: Launch, timeout: float, trace: Trace | None) -> None:
        self._launch = launch
        self._timeout = timeout
        self._trace = trace

    def follow(self) -> None:
        """Wait for the program's execution, so that a failure is the caller's failure."""
        try:
            Conversation(self._launch, {}, trace=self._trace, timeout=self._timeout).follow()
        finally:
            self.close()

    def close(self) -> None:
        """Hear no more of it."""
        self._launch.close()


def hold_entrances(held: contextlib.ExitStack, paths: Mapping[str, str]) -> dict[str, int]:
    """Open a cgroup's entrances for as long as `held` lasts."""
    opened = open_entrances(paths)
    for descriptor in opened.values():
        held.callback(os.close, descriptor)
    return opened


def patience(spec: Spec, kind: str) -> float:
    """Return how many seconds an executor may say nothing: hooks of that kind, if it runs any, limit themselves."""
    return HOOK_TIMEOUT if (spec.get("hooks") or {}).get(kind) else executor.MESSAGE_TIMEOUT
