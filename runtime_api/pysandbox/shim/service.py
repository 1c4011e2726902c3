"""containerd's Task service, over `lifecycle`: what each call means, in which order events are told.

An exit is told by a thread of its own that needs the task's lock: a process that ends before `Start` has returned is
told of after it has started. Init's exit is the last of its task. `Wait` holds no thread.

Not there, and so UNIMPLEMENTED by name: Checkpoint.
"""

from __future__ import annotations

import contextlib
import os
import signal
from threading import Event, Lock

from pysandbox import lifecycle
from pysandbox.backend import Options
from pysandbox.caller import current
from pysandbox.errors import (
    STATUS_CODES,
    AlreadyExists,
    FailedPrecondition,
    NotFound,
    PermissionDenied,
    SandboxError,
    Unimplemented,
)
from pysandbox.oci.bundle import load_bundle
from pysandbox.shim import cgroup, rootfs
from pysandbox.shim.directory import working_in
from pysandbox.shim.logger import Logger
from pysandbox.shim.messages import events
from pysandbox.shim.messages import task as messages
from pysandbox.shim.messages.process import ProcessInfo, Status
from pysandbox.shim.messages.runc import ProcessDetails
from pysandbox.shim.options import chosen
from pysandbox.shim.publisher import packed, timestamp
from pysandbox.shim.reaper import end
from pysandbox.shim.stdio import Names, Streams
from pysandbox.shim.task import CREATED, RUNNING, STOPPED, Process, Task
from pysandbox.ttrpc.errors import Code, RpcError
from pysandbox.ttrpc.messages.wellknown import Empty
from pysandbox.ttrpc.pool import Pool

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable

    from pysandbox.cgroup.oom import OomWatch
    from pysandbox.oci.types import Process as ProcessSpec
    from pysandbox.oci.types import Spec
    from pysandbox.shim.publisher import Publisher
    from pysandbox.shim.reaper import Reaper
    from pysandbox.state import Store
    from pysandbox.ttrpc.messages.wellknown import Timestamp
    from pysandbox.ttrpc.server import Call

VERSION = "2"
#: Seconds for a terminal's last words to be copied before `Delete` closes it, as containerd's runc shim has it.
DRAIN_LIMIT = 10.0
#: Seconds that an exit is told later for a client that has not opened its end of an output yet: what it reads of it
#: when it has been told of the exit is its own affair (`ctr` gives up opening).
READER_LIMIT = 1.0
#: Seconds for a created init to end when it is deleted.
END_LIMIT = 10.0
#: Threads that tell of exits: as many as containers can end in the same moment without waiting for each other.
EXIT_THREADS = 16


def translate(error: Exception) -> RpcError:
    """Return what containerd is told: the code for our own errors, the text for all."""
    if isinstance(error, RpcError):
        return error
    for kind, code in STATUS_CODES.items():
        if isinstance(error, kind):
            return RpcError(code, str(error))
    if isinstance(error, FileNotFoundError):
        return RpcError(Code.NOT_FOUND, str(error))
    if isinstance(error, OSError | SandboxError):
        return RpcError(Code.UNKNOWN, str(error))
    return RpcError(Code.UNKNOWN, f"internal error: {type(error).__name__}: {error}")


class TaskService:
    """Serves containerd.task.v2.Task and v3.

    `warn` takes one line for the log; `backend` is that of containers whose options name none. `stopping` is set when
    the shim is to end.
    """

    def __init__(
        self,
        store: Store,
        publisher: Publisher,
        reaper: Reaper,
        warn: Callable[[str], None],
        backend: str | None = None,
    ) -> None:
        self._backend = backend
        self._store, self._publisher, self._reaper, self._warn = store, publisher, reaper, warn
        self._lock = Lock()
        self._tasks: dict[str, Task] = {}
        self._creating: set[str] = set()
        self._exits = Pool(EXIT_THREADS, 100_000)
        self.stopping = Event()

    def _task(self, task_id: str) -> Task:
        task = self._tasks.get(task_id)
        if task is None:
            raise NotFound(f"container {task_id}: not found")
        return task

    # -- create and start ----------------------------------------------------------------------------------------------

    def Create(self, request: messages.CreateTaskRequest, call: Call) -> messages.CreateTaskResponse:
        """Mount the root file system and make the container. What fails leaves nothing behind."""
        if request.checkpoint or request.parent_checkpoint:
            raise Unimplemented(f"container {request.id}: restoring a checkpoint")
        self._reserve(request.id)
        try:
            rootfs.mount_all(request.rootfs, request.bundle)
            try:
                with working_in(request.bundle), self._reaper.starting():
                    task = self._create(request)
            except BaseException:
                rootfs.unmount_all(request.bundle)
                raise
        finally:
            with self._lock:
                self._creating.discard(request.id)
        return messages.CreateTaskResponse(pid=task.init.pid)

    def _reserve(self, task_id: str) -> None:
        with self._lock:
            if task_id in self._tasks or task_id in self._creating:
                raise AlreadyExists(f"container {task_id}: exists already")
            self._creating.add(task_id)

    def _create(self, request: messages.CreateTaskRequest) -> Task:
        asked = chosen(request.options, self._warn, self._backend)
        if asked.shim_cgroup:
            cgroup.enter(asked.shim_cgroup)
        runtime = lifecycle.Runtime(store=self._store, warn=self._warn, config=asked.config)
        init = Process("", _names(request, asked.owner))
        streams = init.streams = Streams(init.names, self._logger(runtime, request.id))
        try:
            bundle = load_bundle(request.bundle)
            container = lifecycle.create(runtime, request.id, bundle, stdio=streams.stdio, options=asked.options)
        except BaseException:
            streams.close()
            raise
        shares_pids = _shares_pids(bundle.spec)
        task = Task(request.id, bundle.path, runtime, init, shares_pids=shares_pids, container=container)
        with task.changed:
            try:
                self._began(task, init, container.init.pid, container.init.console)
            except BaseException:
                lifecycle.delete(runtime, task.id, force=True)
                raise
            self._tasks[task.id] = task
            if task.shares_pids:
                self._reaper.adopt()
            self._publisher.publish("create", _created(request, init.pid))
        self._watch_memory(task)
        return task

    def _logger(self, runtime: lifecycle.Runtime, container: str) -> Callable[[str], Logger]:
        """Return what starts a program that takes output. Raises PermissionDenied where the settings forbid it."""
        namespace = os.path.basename(self._store.path)

        def start(where: str) -> Logger:
            if not runtime.config.binary_stdio:
                raise PermissionDenied(f"{where}: {runtime.config.path} has binary_stdio = false")
            return Logger(where, container, namespace, self._reaper.watch)

        return start

    def _began(self, task: Task, process: Process, pid: int, console: int | None) -> None:
        """Follow a new process. If that cannot be, for want of descriptors, end it."""
        streams = process.streams
        assert streams is not None
        try:
            process.began(pid)
            streams.started(console)
            streams.follow_input(self._reaper.when_readable)
            # Whoever tells of the end needs the task's lock, which we hold.
            self._follow(task, process)
        except BaseException:
            end(pid)
            streams.close()
            process.close()
            raise

    def _follow(self, task: Task, process: Process) -> None:
        self._reaper.watch(process.pid, lambda code, now: self._end_soon(task, process, code, now))

    def Start(self, request: messages.StartRequest, call: Call) -> messages.StartResponse:
        """Let init's program run, or start an exec."""
        task = self._task(request.id)
        with task.changed, working_in(task.bundle), self._reaper.starting():
            process = task.process(request.exec_id)
            if process.status != CREATED:
                raise FailedPrecondition(f"process {request.exec_id or request.id}: has been started already")
            if request.exec_id:
                self._start_exec(task, process)
            else:
                lifecycle.start(task.runtime, task.id, task.container)
                process.status = RUNNING
                self._publisher.publish("start", events.TaskStart(container_id=task.id, pid=process.pid))
            return messages.StartResponse(pid=process.pid)

    def _start_exec(self, task: Task, process: Process) -> None:
        task.check_running()
        assert process.spec is not None
        streams = process.streams = Streams(process.names, self._logger(task.runtime, task.id), of_exec=True)
        try:
            _, started = lifecycle.exec_(
                task.runtime,
                task.id,
                process.spec,
                exec_id=process.exec_id,
                stdio=streams.stdio,
                options=Options(warn=self._warn),
            )
        except BaseException:
            streams.close()
            raise
        self._began(task, process, started.pid, started.console)
        process.status = RUNNING
        self._publisher.publish(
            "exec-started", events.TaskExecStarted(container_id=task.id, exec_id=process.exec_id, pid=process.pid)
        )

    def Exec(self, request: messages.ExecProcessRequest, call: Call) -> Empty:
        """Remember one more process, which `Start` starts."""
        task = self._task(request.id)
        names = _names(request, task.init.names.owner)
        with task.changed:
            task.add_exec(Process(request.exec_id, names, _process_spec(request)))
            self._publisher.publish("exec-added", events.TaskExecAdded(container_id=task.id, exec_id=request.exec_id))
        return Empty()

    # -- ends ----------------------------------------------------------------------------------------------------------

    def _end_soon(self, task: Task, process: Process, code: int, now: float) -> None:
        def tell() -> None:
            if process.streams is not None:
                process.streams.let_go(READER_LIMIT)
            self._ended(task, process, code, now)

        if not self._exits.submit(tell):
            tell()  # the kernel gives no thread: late is better than never

    def _ended(self, task: Task, process: Process, code: int, now: float) -> None:
        """Tell of a process's end; of init's when all others have been told of."""
        with task.changed:
            if process is task.init:
                task.init_end = (code, now)
                self._end_others(task)
            else:
                self._tell_end(task, process, code, now)
            if task.init_end is not None and task.init.status != STOPPED and not task.execs_run():
                self._tell_end(task, task.init, *task.init_end)

    def _tell_end(self, task: Task, process: Process, code: int, now: float) -> None:
        process.status, process.code, process.exited_at = STOPPED, code, now
        self._publisher.publish("exit", _exited(task, process))
        task.changed.notify_all()
        waiters, process.waiters = process.waiters, []
        for call in waiters:
            call.answer(_waited(process))

    def _end_others(self, task: Task) -> None:
        """End what the kernel does not end with init."""
        if task.shares_pids:
            with contextlib.suppress(SandboxError, OSError):
                lifecycle.kill(task.runtime, task.id, signal.SIGKILL, everyone=True)

    def Wait(self, request: messages.WaitRequest, call: Call) -> messages.WaitResponse | None:
        """Answer when the process has ended, at once if it has."""
        task = self._task(request.id)
        with task.changed:
            process = task.process(request.exec_id)
            if process.status == STOPPED:
                return _waited(process)
            call.defer()
            process.waiters.append(call)
        call.on_cancel(lambda: _forget(process, call))
        return None

    def Kill(self, request: messages.KillRequest, call: Call) -> Empty:
        """Signal a process, or all. Without the task's lock: it must work while a hook of `Start` hangs."""
        task = self._task(request.id)
        process = task.process(request.exec_id)
        if process.status == STOPPED and not request.all:
            raise NotFound("process already finished")
        if request.exec_id and process.status == CREATED:
            raise FailedPrecondition(f"process {request.exec_id} of container {task.id}: has not been started")
        if request.exec_id:
            process.send_signal(request.signal)
        else:
            self._kill_init(task, request)
        return Empty()

    def _kill_init(self, task: Task, request: messages.KillRequest) -> None:
        try:
            lifecycle.kill(task.runtime, task.id, request.signal, everyone=request.all)
        except FailedPrecondition:
            raise NotFound("process already finished") from None

    def Delete(self, request: messages.DeleteRequest, call: Call) -> messages.DeleteResponse:
        """Forget an ended process; of init, remove the container."""
        task = self._task(request.id)
        with task.changed:
            process = task.process(request.exec_id)
            if process.status == RUNNING:
                raise FailedPrecondition(f"process {request.exec_id or request.id}: is still running")
            if process is task.init:
                self._delete_container(task)
            else:
                task.execs.pop(request.exec_id, None)
        if process.streams is not None:
            process.streams.ended(DRAIN_LIMIT)
            process.streams.finish()
        process.close()
        if process is task.init:
            rootfs.unmount_all(task.bundle)
            self._publisher.publish("delete", _deleted(task, process))
        return messages.DeleteResponse(
            pid=process.pid,
            exit_status=process.code,
            exited_at=_at(process),
        )

    def _delete_container(self, task: Task) -> None:
        if task.init.status == CREATED:
            lifecycle.kill(task.runtime, task.id, signal.SIGKILL)
            if not task.changed.wait_for(lambda: task.init.status == STOPPED, END_LIMIT):
                raise FailedPrecondition(f"container {task.id}: init does not end")
        with working_in(task.bundle):
            lifecycle.delete(task.runtime, task.id)
        with self._lock:
            self._tasks.pop(task.id, None)

    # -- the running container -----------------------------------------------------------------------------------------

    def State(self, request: messages.StateRequest, call: Call) -> messages.StateResponse:
        """Say what is true of a process."""
        task = self._task(request.id)
        process = task.process(request.exec_id)
        stopped, names = process.status == STOPPED, process.names
        status = "PAUSED" if task.paused and process.status == RUNNING else process.status
        return messages.StateResponse(
            id=task.id,
            bundle=task.bundle,
            pid=process.pid,
            status=getattr(Status, status),
            stdin=names.stdin,
            stdout=names.stdout,
            stderr=names.stderr,
            terminal=names.terminal,
            exit_status=process.code if stopped else 0,
            exited_at=_at(process),
            exec_id=request.exec_id,
        )

    def Pids(self, request: messages.PidsRequest, call: Call) -> messages.PidsResponse:
        """Return every process of the container, execs by name. Never none while there is a task.

        A container in a machine knows only what stands for its init on the host: execs are added here.
        """
        task = self._task(request.id)
        execs = {each.pid: each.exec_id for each in task.processes() if each.exec_id and each.status == RUNNING}
        pids = list(lifecycle.pids(task.runtime, task.id)) or [task.init.pid]
        pids += [pid for pid in execs if pid not in pids]
        return messages.PidsResponse(
            processes=[
                ProcessInfo(pid=pid, info=packed(ProcessDetails(exec_id=execs[pid])) if pid in execs else None)
                for pid in pids
            ]
        )

    def Pause(self, request: messages.PauseRequest, call: Call) -> Empty:
        """Freeze it."""
        task = self._task(request.id)
        with task.changed:
            lifecycle.pause(task.runtime, task.id)
            task.paused = True
            self._publisher.publish("paused", events.TaskPaused(container_id=task.id))
        return Empty()

    def Resume(self, request: messages.ResumeRequest, call: Call) -> Empty:
        """Thaw it."""
        task = self._task(request.id)
        with task.changed:
            lifecycle.resume(task.runtime, task.id)
            task.paused = False
            self._publisher.publish("resumed", events.TaskResumed(container_id=task.id))
        return Empty()

    def Update(self, request: messages.UpdateTaskRequest, call: Call) -> Empty:
        """Change limits: the runtime-spec's LinuxResources, as JSON."""
        from pysandbox.oci.document import read_object
        from pysandbox.oci.validate import validate_resources

        task = self._task(request.id)
        resources = read_object(request.resources.value if request.resources else b"", "resources")
        validate_resources(resources, "resources")
        with task.changed:
            lifecycle.update(task.runtime, task.id, resources)  # type: ignore[arg-type] # just checked
        return Empty()

    def Stats(self, request: messages.StatsRequest, call: Call) -> messages.StatsResponse:
        """Return the cgroup's metrics, of the version that it has."""
        from pysandbox.shim.metrics import metrics, unified

        task = self._task(request.id)
        container = lifecycle.running(task.runtime, task.id)
        return messages.StatsResponse(stats=packed(metrics(container.stats(), version=2 if unified() else 1)))

    def ResizePty(self, request: messages.ResizePtyRequest, call: Call) -> Empty:
        """Set a terminal's size; nothing, where there is none."""
        process = self._task(request.id).process(request.exec_id)
        if process.streams is not None:
            process.streams.resize(request.width & 0xFFFF, request.height & 0xFFFF)
        return Empty()

    def CloseIO(self, request: messages.CloseIORequest, call: Call) -> Empty:
        """Let the process see the end of its input, after all that is in it."""
        process = self._task(request.id).process(request.exec_id)
        if request.stdin and process.streams is not None:
            process.streams.close_stdin()
        return Empty()

    def Connect(self, request: messages.ConnectRequest, call: Call) -> messages.ConnectResponse:
        """Say who we are, also to one who asks for a container that is not here."""
        task = self._tasks.get(request.id)
        pid = task.init.pid if task is not None else 0
        return messages.ConnectResponse(shim_pid=current().pid, task_pid=pid, version=VERSION)

    def Shutdown(self, request: messages.ShutdownRequest, call: Call) -> Empty:
        """End the shim, if it has no task any more."""
        with self._lock:
            if not self._tasks and not self._creating:
                self.stopping.set()
        return Empty()

    def _watch_memory(self, task: Task) -> None:
        """Tell when it runs out of memory; from before its program runs."""
        try:
            container = task.container or lifecycle.running(task.runtime, task.id)
            watch = container.watch_oom()
            if watch is not None:
                self._follow_memory(task, watch)
        except (SandboxError, OSError) as error:
            self._warn(f"container {task.id}: no out-of-memory events: {error}")

    def _follow_memory(self, task: Task, watch: OomWatch) -> None:
        def gone() -> None:
            task.memory = None
            watch.close()

        task.memory = watch
        out = events.TaskOOM(container_id=task.id)
        self._reaper.watch_memory(watch, lambda: self._publisher.publish("oom", out), gone)

    # -- for another process to go on ----------------------------------------------------------------------------------

    @property
    def tasks(self) -> list[Task] | None:
        """All tasks, None while one is being made or an exit is being told."""
        return None if self._creating or self._exits.busy else list(self._tasks.values())

    def take_over(self, task: Task, memory: OomWatch | None) -> None:
        """Go on with a task whose init runs, from another process. Raises OSError."""
        assert task.init.streams is not None
        with task.changed:
            self._tasks[task.id] = task
            task.init.streams.follow_input(self._reaper.when_readable)
            self._follow(task, task.init)
        if memory is not None:
            self._follow_memory(task, memory)

    def wait_again(self, task_id: str, call: Call) -> None:
        """Go on with a `Wait` for init."""
        process = self._task(task_id).init
        process.waiters.append(call)
        call.on_cancel(lambda: _forget(process, call))


def _shares_pids(spec: Spec) -> bool:
    namespaces = (spec.get("linux") or {}).get("namespaces") or ()
    return not any(each["type"] == "pid" and not each.get("path") for each in namespaces)


def _names(request: messages.CreateTaskRequest | messages.ExecProcessRequest, owner: tuple[int, int]) -> Names:
    return Names(
        stdin=request.stdin, stdout=request.stdout, stderr=request.stderr, terminal=request.terminal, owner=owner
    )


def _forget(process: Process, call: Call) -> None:
    with contextlib.suppress(ValueError):
        process.waiters.remove(call)


def _process_spec(request: messages.ExecProcessRequest) -> ProcessSpec:
    """Return the process of an exec, complete: JSON, whatever its type is called."""
    from pysandbox.oci.document import read_object
    from pysandbox.oci.validate import validate_process

    process = read_object(request.spec.value if request.spec else b"", "spec")
    process["terminal"] = request.terminal
    validate_process(process, "spec")
    user = process.setdefault("user", {})
    user.setdefault("uid", 0)
    user.setdefault("gid", 0)
    return process  # type: ignore[return-value]


def _at(process: Process) -> Timestamp | None:
    return timestamp(process.exited_at) if process.status == STOPPED else None


def _waited(process: Process) -> messages.WaitResponse:
    return messages.WaitResponse(exit_status=process.code, exited_at=timestamp(process.exited_at))


def _created(request: messages.CreateTaskRequest, pid: int) -> events.TaskCreate:
    io = events.TaskIO(stdin=request.stdin, stdout=request.stdout, stderr=request.stderr, terminal=request.terminal)
    return events.TaskCreate(
        container_id=request.id, bundle=request.bundle, rootfs=request.rootfs, io=io, checkpoint="", pid=pid
    )


def _exited(task: Task, process: Process) -> events.TaskExit:
    return events.TaskExit(
        container_id=task.id,
        id=process.exec_id or task.id,
        pid=process.pid,
        exit_status=process.code,
        exited_at=timestamp(process.exited_at),
    )


def _deleted(task: Task, process: Process) -> events.TaskDelete:
    return events.TaskDelete(
        container_id=task.id, pid=process.pid, exit_status=process.code, exited_at=timestamp(process.exited_at)
    )
