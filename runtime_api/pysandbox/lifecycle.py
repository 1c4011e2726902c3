"""A container's life: which operation is legal when, who holds the lock, what the record says, when hooks run.

```
             create                start                 (init ends)
   (nothing) ──────► creating ─► created ──────► running ────────────► stopped ──► delete
                                    └───► paused ◄───┘
```

The record holds the last status written; what is true *now* is the record plus whether init (its pid **and** its start
time) is still there. `create`, `start`, `pause`, `resume`, `update` and `delete` hold the container's lock, `exec`
shares it. `state`, `kill`, `ps` and `events` do without: they must work while another command hangs, and a pid that was
reused is told by its start time. Errors have runc's words, as callers look for them.
"""

from __future__ import annotations

import contextlib
import os
import signal
import time

from pysandbox.backend import ContainerRecord, CreateRequest, ExecRequest, LifecycleEvent, Options, Process, Stdio
from pysandbox.config import Config
from pysandbox.errors import AlreadyExists, DeadlineExceeded, FailedPrecondition, NotFound, SandboxError, Unavailable
from pysandbox.linux import is_alive, start_time
from pysandbox.plugins import choose, load_backend, notify, settings_of
from pysandbox.record import dataclass, field, replace
from pysandbox.state import DamagedRecord, check_id

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping, Sequence
    from typing import Any

    from pysandbox.backend import Backend, Container
    from pysandbox.oci.bundle import Bundle
    from pysandbox.oci.types import Process as ProcessSpec
    from pysandbox.oci.types import Resources
    from pysandbox.state import Directory, Store

#: Seconds for a killed init to be gone, as long as runc gives it.
KILL_LIMIT = 10.0
#: Seconds that `delete --force` waits for another command before it kills the container.
FORCE_PATIENCE = 0.5

#: operation → the statuses it is legal in, and what is said in any other.
TRANSITIONS: dict[str, tuple[frozenset[str], str]] = {
    "start": (frozenset({"created"}), "cannot start a container in the {status} state"),
    "exec": (frozenset({"created", "running"}), "cannot exec in a {status} container"),
    "kill": (frozenset({"created", "running", "paused"}), "container not running"),
    "pause": (frozenset({"created", "running"}), "container not running"),
    "resume": (frozenset({"paused"}), "container not paused"),
    "update": (frozenset({"created", "running", "paused"}), "container not running"),
    "delete": (frozenset({"created", "stopped"}), "cannot delete container {id} that is not stopped: {status}"),
    "events": (frozenset({"created", "running", "paused"}), "container with id {id} is not running"),
}
#: Where runc has words of its own for one status.
REFUSALS: dict[tuple[str, str], str] = {
    ("start", "running"): "cannot start an already running container",
    ("start", "stopped"): "cannot start a container that has stopped",
    ("exec", "paused"): "cannot exec in a paused container (use --ignore-paused to override)",
}


def check_transition(operation: str, status: str, container_id: str) -> None:
    """Raise FailedPrecondition, in runc's words, unless the operation is legal in that status."""
    legal, refusal = TRANSITIONS[operation]
    if status not in legal:
        raise FailedPrecondition(REFUSALS.get((operation, status), refusal).format(status=status, id=container_id))


@dataclass(frozen=True, slots=True, kw_only=True)
class Runtime:
    """Where containers are kept and what the operator chose. `warn` takes one line for the log."""

    store: Store
    warn: Callable[[str], None]
    config: Config = field(default_factory=Config)
    backend: str | None = None

    def tell(self, record: ContainerRecord, kind: str, **details: Any) -> None:
        """Tell the observers, if there are any."""
        if self.config.observers:
            event = LifecycleEvent(kind=kind, container_id=record.id, backend=record.backend, **details)
            notify(self.config, event, self.warn)


# -- what is true now --------------------------------------------------------------------------------------------------


def init_alive(record: ContainerRecord) -> bool:
    """Say whether the record's init is still there."""
    return is_alive(record.pid, record.pid_start_time)


def _load(runtime: Runtime, record: ContainerRecord) -> Container:
    backend = load_backend(record.backend, runtime.config)
    try:
        return backend.load(record)
    except (LookupError, TypeError, ValueError) as error:
        raise DamagedRecord(f"{record.state_dir}/state.json: is damaged: backend_state: {error!r}") from error


def _status(record: ContainerRecord, container: Container) -> str:
    """Return the status now: creating, created, running, paused or stopped."""
    if record.status == "creating":
        return "creating"
    if not init_alive(record):
        return "stopped"
    return "paused" if container.paused() else record.status


def _read(runtime: Runtime, container_id: str) -> ContainerRecord:
    """Read a record without its lock; a half-made one whose maker is dead is swept, and does not exist."""
    with runtime.store.open(container_id) as directory:
        record = directory.read()
    if record.status == "creating" and _sweep_stale(runtime, container_id):
        raise NotFound("container does not exist")
    return record


def _sweep_stale(runtime: Runtime, container_id: str) -> bool:
    """Remove a container whose `create` was killed: it is `creating` and nobody holds its lock."""
    directory = runtime.store.try_lock(container_id)
    if directory is None:
        return False
    with directory:
        record = directory.read()
        if record.status != "creating":
            return False
        load_backend(record.backend, runtime.config).destroy(record)
        directory.remove()
    return True


def state_document(record: ContainerRecord, status: str, pid: int) -> dict[str, Any]:
    """Return the OCI state document (runtime-spec, runtime.md "State") that hooks get."""
    document: dict[str, Any] = {"ociVersion": record.oci_version, "id": record.id, "status": status}
    if pid:
        document["pid"] = pid
    document["bundle"] = record.bundle
    if record.annotations:
        document["annotations"] = dict(record.annotations)
    return document


@dataclass(frozen=True, slots=True)
class Standing:
    """A container as `state` and `list` show it."""

    record: ContainerRecord
    status: str

    def document(self, owner: str) -> dict[str, Any]:
        """Return what runc's `state` prints, in its order."""
        record = self.record
        document: dict[str, Any] = {
            "ociVersion": record.oci_version,
            "id": record.id,
            "pid": record.pid if self.status not in ("stopped", "creating") else 0,
            "status": self.status,
            "bundle": record.bundle,
            "rootfs": record.rootfs,
            "created": record.created,
        }
        if record.annotations:
            document["annotations"] = dict(record.annotations)
        document["owner"] = owner
        return document


def _standing(runtime: Runtime, container_id: str) -> Standing:
    record = _read(runtime, container_id)
    if record.status == "creating" or not init_alive(record):
        return Standing(record, "creating" if record.status == "creating" else "stopped")
    return Standing(record, _status(record, _load(runtime, record)))


def state(runtime: Runtime, container_id: str) -> Standing:
    """Return a container's record and its status now. Raises NotFound."""
    return _standing(runtime, container_id)


def containers(runtime: Runtime) -> Iterator[Standing]:
    """Yield every container that can be read; the others are named in a warning each."""
    for container_id in runtime.store.ids():
        try:
            yield _standing(runtime, container_id)
        except NotFound:
            continue  # deleted, or swept, while we were looking
        except (SandboxError, OSError) as error:
            runtime.warn(f"skipping container {container_id}: {error}")


# -- create ------------------------------------------------------------------------------------------------------------


class _Draft:
    """A container that is being created: its record as it grows, and what the backend calls back."""

    def __init__(self, runtime: Runtime, bundle: Bundle, directory: Directory, record: ContainerRecord) -> None:
        self.runtime, self.bundle, self.directory, self.record = runtime, bundle, directory, record
        self.hooks_began = False

    def change(self, **values: Any) -> None:
        self.record = replace(self.record, **values)
        self.directory.write(self.record)

    def remember(self, backend_state: Mapping[str, Any]) -> None:
        self.change(backend_state=dict(backend_state))

    def know_init(self, pid: int, **values: Any) -> None:
        self.change(pid=pid, pid_start_time=start_time(pid) or 0, **values)

    def runtime_created(self, pid: int) -> None:
        hooks = self.bundle.spec.get("hooks")
        if hooks:  # which may ask for the state
            from pysandbox.oci.hooks import run_hooks

            self.know_init(pid)
            self.hooks_began = True
            document = state_document(self.record, "creating", pid)
            run_hooks(self.bundle.spec, "prestart", document)
            run_hooks(self.bundle.spec, "createRuntime", document)

    def roll_back(self, backend: Backend) -> None:
        """Leave nothing behind. What cannot be removed now keeps its record, for `delete --force`."""
        try:
            backend.destroy(self.record)
        except (SandboxError, OSError) as error:
            self.runtime.warn(f"container {self.record.id} could not be removed: {error}")
            return
        self.directory.remove()
        if self.hooks_began:
            _run_poststop(self.runtime, self.bundle.spec, self.record)


def create(
    runtime: Runtime,
    container_id: str,
    bundle: Bundle,
    *,
    stdio: Stdio | None = None,
    options: Options | None = None,
    deliver: Callable[[Process], None] | None = None,
    directories: Sequence[str] = (),
) -> Container:
    """Make a container whose program waits for `start`.

    `directories` are made in the state directory, for mounts of the spec that come from there.
    `deliver` gets its init when all stands: it writes the pid file and hands the console over. What fails, there too,
    leaves nothing behind. Raises AlreadyExists, InvalidArgument, HookFailed and whatever the backend raises.
    """
    from pysandbox.oci.bundle import no_directory
    from pysandbox.oci.validate import warnings

    check_id(container_id)
    for line in warnings(bundle.spec):
        runtime.warn(line)
    annotations = bundle.spec.get("annotations") or {}
    backend_name = choose(runtime.config, runtime.backend, annotations)
    backend = load_backend(backend_name, runtime.config)
    if bundle.image and not backend.features().root_images:
        raise no_directory(bundle.rootfs)
    if runtime.config.require:
        from pysandbox.audit.gate import check

        check(runtime, bundle, backend_name, _with_settings(options, runtime, backend_name))
    record = _first_record(container_id, bundle, backend_name, runtime.store.path)
    with _take_id(runtime, record, bundle.spec) as directory:
        draft = _Draft(runtime, bundle, directory, record)
        request = CreateRequest(
            id=container_id,
            bundle=bundle.path,
            spec=bundle.spec,
            state_dir=record.state_dir,
            stdio=stdio or Stdio(),
            remember=draft.remember,
            runtime_created=draft.runtime_created,
            state=state_document(record, "creating", 0),
            options=_with_settings(options, runtime, backend_name),
        )
        try:
            for name in directories:
                os.mkdir(name, mode=0o755, dir_fd=directory.descriptor)
            container = backend.create(request)
            if deliver is not None:
                deliver(container.init)
            draft.know_init(container.init.pid, status="created")
        except BaseException:
            draft.roll_back(backend)
            raise
    runtime.tell(draft.record, "created", pid=container.init.pid)
    return container


def _with_settings(options: Options | None, runtime: Runtime, backend: str) -> Options:
    """Return the options with what the settings file says for that backend."""
    settings = settings_of(runtime.config, backend)
    return replace(options or Options(), settings=settings) if settings else options or Options()


def _first_record(container_id: str, bundle: Bundle, backend: str, root: str) -> ContainerRecord:
    return ContainerRecord(
        id=container_id,
        backend=backend,
        bundle=bundle.path,
        rootfs=bundle.rootfs,
        state_dir=f"{root}/{container_id}",
        oci_version=bundle.spec["ociVersion"],
        created=_now(),
        owner=str(os.geteuid()),
        annotations=dict(bundle.spec.get("annotations") or {}),
        status="creating",
    )


def _now() -> str:
    """Return the time as RFC 3339 with nanoseconds, as runc writes it."""
    now = time.time_ns()
    return time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(now // 10**9)) + f".{now % 10**9:09}Z"


def _take_id(runtime: Runtime, record: ContainerRecord, spec: Mapping[str, Any]) -> Directory:
    runtime.store.sweep()
    try:
        return runtime.store.create(record, spec)
    except AlreadyExists:
        with contextlib.suppress(Unavailable, NotFound):
            if _sweep_stale(runtime, record.id):
                return runtime.store.create(record, spec)
        raise


# -- operations --------------------------------------------------------------------------------------------------------


@contextlib.contextmanager
def _locked(
    runtime: Runtime, container_id: str, operation: str
) -> Iterator[tuple[Directory, ContainerRecord, Container]]:
    """Hold a container's lock for an operation that is legal now."""
    with runtime.store.lock(container_id) as directory:
        record = directory.read()
        if record.status != "creating":
            container = _load(runtime, record)
            check_transition(operation, _status(record, container), container_id)
            yield directory, record, container
            return
    # Its maker is dead, or we would not have got the lock.
    _sweep_stale(runtime, container_id)
    raise NotFound("container does not exist")


def start(runtime: Runtime, container_id: str, created: Container | None = None) -> None:
    """Let the user's program of a created container run, then run the poststart hooks.

    `created` is the container as this very process has made it: it may know more than one that is loaded. A poststart
    hook that fails ends the container (runtime-spec 1.3). The lock is let go before the hooks, which may well call us.
    """
    with _locked(runtime, container_id, "start") as (directory, record, loaded):
        container = created or loaded
        container.start()
        directory.write(replace(record, status="running"))
        spec = directory.read_spec()
    runtime.tell(record, "started", pid=record.pid)
    if (spec.get("hooks") or {}).get("poststart"):
        from pysandbox.oci.hooks import run_hooks

        try:
            run_hooks(spec, "poststart", state_document(record, "running", record.pid))
        except SandboxError:
            with contextlib.suppress(SandboxError, OSError):
                container.kill(signal.SIGKILL, everyone=True)
            raise


def exec_(
    runtime: Runtime,
    container_id: str,
    process: ProcessSpec,
    *,
    exec_id: str,
    stdio: Stdio | None = None,
    cgroup: Mapping[str, str] | None = None,
    ignore_paused: bool = False,
    options: Options | None = None,
    deliver: Callable[[Process], None] | None = None,
) -> tuple[Container, Process]:
    """Start one more process in a container. When `deliver` fails it is killed again."""
    with _shared(runtime, container_id, ignore_paused=ignore_paused) as (record, container):
        started = container.exec(
            ExecRequest(
                exec_id=exec_id,
                process=process,
                stdio=stdio or Stdio(),
                cgroup=cgroup,
                state=state_document(record, "running", record.pid),
                options=_with_settings(options, runtime, record.backend),
            )
        )
    try:
        if deliver is not None:
            deliver(started)
    except BaseException:
        with contextlib.suppress(SandboxError, OSError):
            container.kill(signal.SIGKILL, exec_id=exec_id)
        raise
    runtime.tell(record, "exec-started", pid=started.pid, exec_id=exec_id)
    return container, started


@contextlib.contextmanager
def _shared(runtime: Runtime, container_id: str, *, ignore_paused: bool) -> Iterator[tuple[ContainerRecord, Container]]:
    with runtime.store.lock(container_id, shared=True) as directory:
        record = directory.read()
        container = _load(runtime, record)
        status = _status(record, container)
        if status == "paused" and ignore_paused:
            directory.unlock()  # the process waits, frozen, for a `resume`, which needs the lock
        else:
            check_transition("exec", status, container_id)
        yield record, container


def kill(runtime: Runtime, container_id: str, number: int, *, everyone: bool = False) -> None:
    """Signal init, or all processes. Raises FailedPrecondition "container not running".

    For `everyone`, as under runc, a stopped container is no error: there may be processes left without an init. The
    kernel ends all processes of a pid namespace with its init; where the container has none of its own, we do.
    """
    record = _read(runtime, container_id)
    container = _load(runtime, record)
    status = _status(record, container)
    if number == signal.SIGKILL and not everyone and not _has_pid_namespace(runtime, container_id):
        everyone = status != "stopped" or bool(container.pids())
    if not (everyone and status == "stopped"):
        check_transition("kill", status, container_id)
    container.kill(number, everyone=everyone)
    if status == "paused" and number == signal.SIGKILL:
        with contextlib.suppress(SandboxError, OSError):
            container.resume()  # cgroup v1 delivers no signal to the frozen, not even this one
    runtime.tell(record, "killed", pid=record.pid)


def _has_pid_namespace(runtime: Runtime, container_id: str) -> bool:
    """Say whether the container was given a pid namespace of its own."""
    with runtime.store.open(container_id) as directory:
        namespaces = (directory.read_spec().get("linux") or {}).get("namespaces") or ()
    return any(namespace["type"] == "pid" and not namespace.get("path") for namespace in namespaces)


def delete(runtime: Runtime, container_id: str, *, force: bool = False) -> None:
    """Remove a stopped container, or one that was never started; with `force` any, even one that is not there.

    The poststop hooks run when it is gone; one that fails is a warning.
    """
    try:
        with _lock_for_delete(runtime, container_id, force=force) as directory:
            _delete_locked(runtime, directory, force=force)
    except NotFound:
        if not force:
            raise
    except DamagedRecord:
        if not force:
            raise
        _delete_unreadable(runtime, container_id)


def _lock_for_delete(runtime: Runtime, container_id: str, *, force: bool) -> Directory:
    """Wait for the lock. With `force` what holds it up is ended: a container can stop an exec that is under way.

    The executor is a process in the container then, and root there may send it SIGSTOP. `create` is left to end.
    """
    if force:
        try:
            return runtime.store.lock(container_id, limit=FORCE_PATIENCE)
        except DeadlineExceeded:
            with contextlib.suppress(SandboxError, OSError):
                kill(runtime, container_id, signal.SIGKILL, everyone=True)
    return runtime.store.lock(container_id)


def _delete_locked(runtime: Runtime, directory: Directory, *, force: bool) -> None:
    record = directory.read()
    backend = load_backend(record.backend, runtime.config)
    if record.status == "creating":  # its maker is dead, or we would not have got the lock
        backend.destroy(record)
        directory.remove()
        if not force:
            raise NotFound("container does not exist")
        return
    container = _load(runtime, record)
    status = _status(record, container)
    if not force:
        check_transition("delete", status, record.id)
    if status != "stopped":
        _end(record, container)
    container.delete()
    spec = _spec_or_nothing(runtime, directory)
    directory.remove()
    _run_poststop(runtime, spec, record)
    runtime.tell(record, "deleted")


def _end(record: ContainerRecord, container: Container) -> None:
    """Kill everything and wait for init to be gone."""
    with contextlib.suppress(FailedPrecondition, NotFound, ProcessLookupError):
        container.kill(signal.SIGKILL, everyone=True)
    with contextlib.suppress(SandboxError, OSError):
        if container.paused():
            container.resume()
    deadline = time.monotonic() + KILL_LIMIT
    pause = 0.001
    while init_alive(record):
        if time.monotonic() > deadline:
            raise DeadlineExceeded(f"container {record.id}: container init still running")
        time.sleep(pause)
        pause = min(2 * pause, 0.05)


def _spec_or_nothing(runtime: Runtime, directory: Directory) -> Mapping[str, Any]:
    try:
        spec = directory.read_spec()
    except Unavailable as error:
        runtime.warn(f"no poststop hooks: {error}")
        return {}
    return spec if isinstance(spec, dict) else {}


def _delete_unreadable(runtime: Runtime, container_id: str) -> None:
    """Remove a container whose record cannot be read: what its backend can find by the id alone, and the directory."""
    name = choose(runtime.config, runtime.backend, {})
    backend = load_backend(name, runtime.config)
    directory = runtime.store.try_lock(container_id)
    record = ContainerRecord(
        id=container_id,
        backend=name,
        bundle="",
        rootfs="",
        state_dir=f"{runtime.store.path}/{container_id}",
        oci_version="",
        created="",
        owner="",
        annotations={},
        status="running",
    )
    if directory is None:
        runtime.store.remove_entry(container_id)  # not a directory at all
        return
    with directory:
        try:
            backend.destroy(record)
        except (SandboxError, OSError) as error:
            runtime.warn(f"container {container_id}: {error}")
        directory.remove()


def _run_poststop(runtime: Runtime, spec: Mapping[str, Any], record: ContainerRecord) -> None:
    if (spec.get("hooks") or {}).get("poststop"):
        from pysandbox.oci.hooks import run_hooks

        try:
            run_hooks(spec, "poststop", state_document(record, "stopped", 0))
        except SandboxError as error:
            runtime.warn(str(error))


def pause(runtime: Runtime, container_id: str) -> None:
    """Freeze every process of a container."""
    with _locked(runtime, container_id, "pause") as (_, record, container):
        container.pause()
    runtime.tell(record, "paused")


def resume(runtime: Runtime, container_id: str) -> None:
    """Thaw a paused container."""
    with _locked(runtime, container_id, "resume") as (_, record, container):
        container.resume()
    runtime.tell(record, "resumed")


def update(runtime: Runtime, container_id: str, resources: Resources) -> None:
    """Change the limits that are given; the others stay."""
    with _locked(runtime, container_id, "update") as (_, _, container):
        container.update(resources)


def pids(runtime: Runtime, container_id: str) -> Sequence[int]:
    """Return the pids of a container, as the host sees them; of a stopped one, none or those left over."""
    record = _read(runtime, container_id)
    return _load(runtime, record).pids()


def running(runtime: Runtime, container_id: str) -> Container:
    """Return a container for `events`: it must have an init. Raises FailedPrecondition."""
    record = _read(runtime, container_id)
    container = _load(runtime, record)
    check_transition("events", _status(record, container), container_id)
    return container
