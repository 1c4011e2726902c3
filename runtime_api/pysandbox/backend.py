"""What a backend is: two abstract classes, and the requests and answers that pass between them and the front end.

The front end owns the state machine, locks, records on disk, OCI hooks, stdio, events and exit codes. A backend gets
prepared descriptors and is never asked for an illegal transition. It raises leaves of `pysandbox.errors`, or `OSError`
for trouble with the kernel. `pysandbox.testing.contract` is the definition in full: a suite that every backend passes.
"""

from __future__ import annotations

import abc

from pysandbox.errors import InvalidArgument, Unimplemented
from pysandbox.record import dataclass, field

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence
    from typing import Any, ClassVar

    from pysandbox.cgroup.oom import OomWatch
    from pysandbox.oci.types import Process as ProcessSpec
    from pysandbox.oci.types import Resources, Spec

#: Raised only when an existing backend must change. A backend of another version is refused.
API_VERSION = 1


@dataclass(frozen=True, slots=True, kw_only=True)
class Problem:
    """Why a backend cannot run on this host, and what would help."""

    what: str
    remedy: str = ""


@dataclass(frozen=True, slots=True)
class Finding:
    """One thing of this host that a backend looked at. `verdict`: ok, note (works, but should be known) or problem."""

    verdict: str
    subject: str
    what: str
    remedy: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Stdio:
    """Descriptors that become the process's 0, 1 and 2, and `preserved` ones that become 3, 4, …

    With `terminal` the process gets a pty instead, whose master comes back as `Process.console`.
    """

    stdin: int = 0
    stdout: int = 1
    stderr: int = 2
    terminal: bool = False
    preserved: Sequence[int] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class Options:
    """How, beside what: flags of the command line that change how a container is made.

    `settings` is the table `[backends.NAME]` of the settings file, as it stands there: the backend checks it.
    """

    systemd_cgroup: bool = False
    no_pivot: bool = False
    no_new_keyring: bool = False
    plain_newlines: bool = False  # of a terminal, from before the program starts: the caller's own terminal adds the \r
    trace: Callable[[str, int], None] | None = None  # (step, CLOCK_MONOTONIC in ns)
    warn: Callable[[str], None] | None = None  # one line for the log
    debug: Callable[[str], None] | None = None  # the same, only under --debug
    settings: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, slots=True, kw_only=True)
class CreateRequest:
    """All that a backend needs to make a container whose program waits for `start`.

    `remember` keeps a JSON object in the record on disk: call it *before* making anything that would outlive this
    process, so that `destroy` can find it. `runtime_created(pid)` is to be called when the namespaces and mounts stand
    and the root has not changed: the front end runs prestart and createRuntime hooks in it. `state` is the OCI state
    document that hooks inside the container get, its `pid` to be filled in.
    """

    id: str
    bundle: str
    spec: Spec
    state_dir: str
    stdio: Stdio
    remember: Callable[[Mapping[str, Any]], None]
    runtime_created: Callable[[int], None]
    state: Mapping[str, Any]
    options: Options = field(default_factory=Options)


@dataclass(frozen=True, slots=True, kw_only=True)
class ExecRequest:
    """One more process in a running container. `process` is complete: the front end has filled in what was not said."""

    exec_id: str
    process: ProcessSpec
    stdio: Stdio
    cgroup: Mapping[str, str] | None = None  # controller ("": all others) → existing cgroup below the container's
    state: Mapping[str, Any] = field(default_factory=dict)  # the container's OCI state, for a seccomp listener
    options: Options = field(default_factory=Options)


@dataclass(frozen=True, slots=True, kw_only=True)
class Process:
    """A process as the host sees it. `console` is the master of its pty, the caller's to close."""

    pid: int
    console: int | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class ExitStatus:
    """How a process ended: its exit code, 128+N after signal N, and when (seconds since the epoch)."""

    code: int
    exited_at: float


@dataclass(frozen=True, slots=True, kw_only=True)
class ContainerRecord:
    """What the state directory remembers of a container: enough for another process to take hold of it."""

    id: str
    backend: str
    bundle: str
    rootfs: str
    state_dir: str
    oci_version: str
    created: str
    owner: str
    annotations: Mapping[str, str]
    status: str  # creating | created | running: the last one written. What is true now is lifecycle's to find out
    pid: int = 0
    pid_start_time: int = 0  # field 22 of /proc/PID/stat: tells a reused pid
    backend_state: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, slots=True, kw_only=True)
class Features:
    """What a backend does with each part of a spec.

    `fields` maps a JSON path pattern (`process.rlimits`, `linux.seccomp.flags`) to `enforced`, `guest`, `refused` or
    `ignored`. `root_images`: `root.path` may be an image, in a file or on a block device, in place of a directory.
    """

    fields: Mapping[str, str]
    annotations: Mapping[str, str] = field(default_factory=dict)
    root_images: bool = False


class Container(abc.ABC):
    """One container of a backend. The front end holds its lock during every call."""

    id: str
    init: Process

    @abc.abstractmethod
    def start(self) -> None:
        """Let the user's program run."""

    @abc.abstractmethod
    def exec(self, request: ExecRequest) -> Process:
        """Start one more process."""

    @abc.abstractmethod
    def kill(self, signal: int, *, exec_id: str | None = None, everyone: bool = False) -> None:
        """Signal init, an exec'ed process, or all processes of the container."""

    @abc.abstractmethod
    def wait(self, exec_id: str | None = None, *, timeout: float | None = None) -> ExitStatus:
        """Wait for a process's end. Only the process that made it can know its exit code."""

    @abc.abstractmethod
    def alive(self) -> bool:
        """Say whether init is still there (a zombie is not)."""

    @abc.abstractmethod
    def delete(self) -> None:
        """Remove the ended container: processes left over, cgroup, mounts, everything but the record."""

    # Optional: a backend that cannot says so, and the front end passes it on.

    def pause(self) -> None:
        """Freeze every process."""
        raise Unimplemented("pause")

    def resume(self) -> None:
        """Thaw every process."""
        raise Unimplemented("resume")

    def paused(self) -> bool:
        """Say whether the container is frozen."""
        return False

    def update(self, resources: Resources) -> None:
        """Change limits while it runs."""
        raise Unimplemented("update")

    def stats(self) -> Mapping[str, Any]:
        """Return usage, in the shape of runc's `events --stats` data."""
        raise Unimplemented("stats")

    def pids(self) -> Sequence[int]:
        """Return all pids of the container, as the host sees them."""
        raise Unimplemented("pids")

    def wait_oom(self) -> None:
        """Block until the kernel has killed a process of the container for memory, or the container is gone."""
        raise Unimplemented("oom events")

    def watch_oom(self) -> OomWatch | None:
        """Return the same as something to poll, the caller's to close; None if the container is gone."""
        raise Unimplemented("oom events")

    def resize(self, width: int, height: int, exec_id: str | None = None) -> None:
        """Change a terminal's size."""
        raise Unimplemented("resize")

    def close_stdin(self, exec_id: str | None = None) -> None:
        """Close the writing end of a process's stdin."""
        raise Unimplemented("close stdin")

    def console(self) -> str:
        """Return what the container's own kernel said last, if it has one."""
        raise Unimplemented("console")


class Backend(abc.ABC):
    """One way to isolate containers.

    Holds no state: what must be remembered goes into the record, because the process that deletes a container is often
    not the one that created it.
    """

    name: ClassVar[str]

    @classmethod
    def of_variant(cls, variant: str) -> Backend:
        """Make the backend that `--backend NAME:VARIANT` asks for. Raises InvalidArgument for a variant it is not."""
        raise InvalidArgument(f"backend {cls.name!r} has no variants: {cls.name}:{variant}")

    @classmethod
    def variants(cls, settings: Mapping[str, Any]) -> Sequence[str]:  # noqa: ARG003 (as ARG002 of other methods)
        """Name the variants that this host has, for `pysandbox backends`. `settings` as in `Options`."""
        return ()

    def origin(self) -> str:
        """Say what of other people's it drives, path and version, as `pysandbox backends` shows it; empty for nothing.

        May ask a program for its version.
        """
        return ""

    @abc.abstractmethod
    def probe(self) -> Sequence[Problem]:
        """Say what on this host would stop the backend; empty means it can run. Changes nothing."""

    def inspect(self, settings: Mapping[str, Any]) -> Sequence[Finding]:
        """Say what of this host it would use and what of it will not do: `probe` in full, for a person.

        `settings` as in `Options`. Changes nothing; may read large files and ask programs for their versions.
        """
        return [Finding("problem", "host", problem.what, problem.remedy) for problem in self.probe()]

    @abc.abstractmethod
    def features(self) -> Features:
        """Report what is implemented, for `features` and `explain`."""

    @abc.abstractmethod
    def plan(self, bundle: str, spec: Spec, container_id: str, options: Options) -> Sequence[Mapping[str, Any]]:
        """Say what `create` would do, as the JSON objects of a plan's operations. Changes nothing."""

    @abc.abstractmethod
    def create(self, request: CreateRequest) -> Container:
        """Prepare everything up to the user's program. On failure leave nothing behind."""

    @abc.abstractmethod
    def load(self, record: ContainerRecord) -> Container:
        """Take hold of a container made by another process."""

    @abc.abstractmethod
    def destroy(self, record: ContainerRecord) -> None:
        """Remove whatever is left, in any state, any number of times."""


@dataclass(frozen=True, slots=True)
class BackendEntry:
    """What a plugin offers. `load` imports the implementation when it is called, not before."""

    name: str
    load: Callable[[], type[Backend]]
    summary: str
    api_version: int = API_VERSION


@dataclass(frozen=True, slots=True, kw_only=True)
class LifecycleEvent:
    """What happened to a container: created, started, exec-started, paused, resumed, killed, exited, deleted."""

    kind: str
    container_id: str
    backend: str
    pid: int = 0
    exec_id: str | None = None
    exit_code: int | None = None
