"""The sandbox process: it owns one machine and all containers in it, until the first one's init has ended.

`create` starts it as a child of its caller and talks to it over a socket, descriptor 3, in the frames of
`pysandbox.warm.wire`:

    → {"enter": [slot, …]}      with the entrances of the cgroup (`Cgroup.entrances`), which it enters at once
    → {"sandbox": {…}}          with init's 0, 1 and 2, or three times its terminal
    ← {"step": [name, ns]}      under --trace: something begins
    ← {"warn": text}            for the log
    ← {"runtime": true}         prestart and createRuntime hooks may run: it waits for {"go": true}
    ← {"ready": {"pid": n}}     of init in the guest; or {"error": {…}}

Served warm, `create` starts a launcher under the name `pysandbox-sandbox`, and the sandbox process is a fork of the
server. The launcher *stands* for it: it is the caller's child and the container's pid on the host, in the same cgroup,
session and network namespace; it passes on its signals, ends as it ends, and neither lives without the other
(docs/warm.md). Else `create` starts an interpreter, which stands for itself.

A caller that is gone before `ready` ends it. From then on `service.py` is how it is talked to. It is in the container's
cgroup and network namespace, is what `state` shows as the container's pid, hands on to init the signals that it gets,
and exits with init's code. QEMU and file servers end with it: the kernel sees to that (PR_SET_PDEATHSIG).
"""

from __future__ import annotations

import _signal
import _socket
import contextlib
import os
import select
import signal
import sys
import threading
import time

from pysandbox.caller import current
from pysandbox.errors import AlreadyExists, NotFound, SandboxError
from pysandbox.warm.wire import Closed, receive, send
from pysandbox_microvm import service
from pysandbox_microvm.heartbeat import Heartbeat
from pysandbox_microvm.settings import silence
from pysandbox_microvm.task import UNKNOWN_CODE, GuestProcess, Task
from pysandbox_microvm.terminal import take_control

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from typing import Any

    from pysandbox.caller import Caller
    from pysandbox_microvm.agent import Agent, GuestError
    from pysandbox_microvm.host import Host

CONTROL = 3
#: Bytes of stack for each thread: they pump, wait and parse.
STACK = 512 * 1024
#: Seconds for the front end's hooks, which have time-outs of their own.
HOOK_TIMEOUT = 24 * 3600.0 + 60
#: Seconds for the guest to write back what its containers wrote to shared files, once init has ended.
FLUSH_TIMEOUT = 5.0
#: Seconds for the ends of execs to be told when init has ended.
TELL_TIMEOUT = 15.0
#: Signals that are about this process, not for init.
_OWN = frozenset(
    {
        signal.SIGCHLD, signal.SIGURG, signal.SIGPIPE, signal.SIGKILL, signal.SIGSTOP, signal.SIGWINCH,
        signal.SIGSEGV, signal.SIGBUS, signal.SIGFPE, signal.SIGILL, signal.SIGTRAP, signal.SIGSYS,
    }
)  # fmt: skip
#: Why the machine ended, in the state directory, where it was not by init's end.
REASON = "reason"


class Signals:
    """Every signal, as bytes of a pipe, from the beginning on."""

    def __init__(self) -> None:
        self.descriptor, writer = os.pipe2(os.O_NONBLOCK | os.O_CLOEXEC)
        signal.set_wakeup_fd(writer, warn_on_full_buffer=False)
        for number in (_signal.valid_signals() - _OWN) | {signal.SIGWINCH}:
            _signal.signal(number, lambda _number, _frame: None)

    def take(self) -> bytes:
        """Return the numbers that have come."""
        with contextlib.suppress(BlockingIOError):
            return os.read(self.descriptor, 4096)
        return b""


class Sandbox:
    """A machine, its agent, and the tasks in it, by container. The first is the one that it lives for.

    `pid` is what everybody on the host knows the first one by.
    """

    def __init__(self, first: str, state_dir: str, host: Host, pid: int) -> None:
        self.first, self.state_dir, self.host, self.pid = first, state_dir, host, pid
        self.agent: Agent = host.agent
        self._tasks: dict[str, Task] = {}
        self._storages: dict[str, str] = {}  # of containers that have joined
        self._lock = threading.Lock()
        self._waker = os.eventfd(0, os.EFD_CLOEXEC | os.EFD_NONBLOCK)
        self._end: tuple[int, str] | None = None
        self._paused = False

    # -- tasks ---------------------------------------------------------------------------------------------------------

    def add(self, container: str) -> Task:
        """Make room for a container."""
        with self._lock:
            if container in self._tasks:
                raise AlreadyExists(f"container {container} is in this machine already")
            task = self._tasks[container] = Task(container, self.agent, self.distrust)
        return task

    def task(self, container: str) -> Task:
        """Return a container's task. Raises NotFound."""
        with self._lock:
            if container not in self._tasks:
                raise NotFound(f"container {container} is not in this machine")
            return self._tasks[container]

    def drop(self, container: str) -> None:
        """Forget a container."""
        with self._lock:
            self._tasks.pop(container, None)

    def tasks(self) -> list[Task]:
        """Return all tasks."""
        with self._lock:
            return list(self._tasks.values())

    def join(self, process: GuestProcess, order: Mapping[str, Any]) -> Task:
        """Make a further container, whose init is `process`: its files, its hooks, its part in the machine's size."""
        container = process.container
        task = self.add(container)
        task.host_pid = order["proxy"]

        def lost(why: str) -> None:
            """End the one container whose files are gone."""
            print(f"container {container}: {why}", file=sys.stderr, flush=True)
            with contextlib.suppress(SandboxError, OSError):
                task.signal(signal.SIGKILL, "", everyone=True)
            task.end(UNKNOWN_CODE)

        try:
            self.host.add_storage(order["storage"], order["spec"], order["bundle"], order["entrances"], lost)
            resources: Any = (order["spec"].get("linux") or {}).get("resources") or {}
            self.host.give_room(container, resources)
            run_inner_hooks(order, self.pid)
            task.create(process, order["plan"], order["timeout"])
            self.host.make_root_read_only(order["storage"], order["spec"])
        except BaseException:
            self.leave(container)
            raise
        self._storages[container] = order["storage"]
        return task

    def leave(self, container: str) -> None:
        """End what is left of a further container, and take its files away. The first one's end is the machine's."""
        if container == self.first:
            return
        task = self.task(container)
        with contextlib.suppress(SandboxError, OSError):
            self.agent.delete(container)
        task.end(128 + signal.SIGKILL)
        self.drop(container)
        self.host.give_room(container, None)
        storage = self._storages.pop(container, None)
        if storage is not None:
            self.host.remove_storage(storage)

    # -- what the guest tells ------------------------------------------------------------------------------------------

    def follow_events(self) -> None:
        """Take exits and out-of-memory kills until the guest is gone; what it cannot mean ends the machine."""
        why = "the guest's agent has hung up"
        try:
            for event in self.agent.events():
                self._take(event)
        except (SandboxError, OSError) as error:
            why = str(error)
        self._lost(why)

    def distrust(self, error: GuestError) -> None:
        """End a machine whose guest says what no agent would: somebody else answers in its place."""
        self.end(UNKNOWN_CODE, str(error))

    def _lost(self, why: str) -> None:
        """End a machine whose agent is lost. Where the machine has ended itself, that is what will be told."""
        if not self.host.has_ended():
            self.end(UNKNOWN_CODE, why)

    def _take(self, event: Any) -> None:
        with contextlib.suppress(NotFound):
            task = self.task(event.container)
            if event.oom:
                task.killed_for_memory()
            else:
                task.exited(event.exec_id, event.code)

    def follow_life(self, silence: float) -> None:
        """End a machine whose agent is stopped: a guest that does not answer has no container to speak of."""
        heartbeat = Heartbeat(self.agent, self.host.machine.pid, silence)
        while True:
            time.sleep(heartbeat.pause)
            if self._paused:
                continue
            try:
                heartbeat.ask()
            except (SandboxError, OSError) as error:
                if not self._paused:
                    self._lost(f"the guest's agent does not answer: {error}")
                    return

    # -- pause ---------------------------------------------------------------------------------------------------------

    def pause(self) -> None:
        """Stop the machine's processors; every command can see that (`container.PAUSED`)."""
        self._paused = True
        self.host.machine.pause()
        os.close(os.open(f"{self.state_dir}/paused", os.O_CREAT | os.O_WRONLY | os.O_CLOEXEC, 0o600))

    def resume(self) -> None:
        """Let them go on."""
        self.host.machine.resume()
        with contextlib.suppress(FileNotFoundError):
            os.unlink(f"{self.state_dir}/paused")
        self._paused = False

    # -- the end -------------------------------------------------------------------------------------------------------

    def end(self, code: int, reason: str = "") -> None:
        """Have the sandbox process end with this code. The first word counts."""
        with self._lock:
            if self._end is None:
                self._end = code, reason
        os.eventfd_write(self._waker, 1)

    def serve(self, signals: Signals) -> int:
        """Hand signals on until it is time to end; return the exit code."""
        poll = select.poll()
        for descriptor in (signals.descriptor, self._waker):
            poll.register(descriptor, select.POLLIN)
        while self._end is None:
            poll.poll()
            for number in signals.take():
                self._forward(number)
        code, reason = self._end
        if reason:
            self._note(reason)
        self._finish(code, gone=bool(reason))
        return code

    def _forward(self, number: int) -> None:
        if number == signal.SIGWINCH:
            threading.Thread(target=self._follow_sizes, daemon=True).start()
        elif number not in _OWN:
            threading.Thread(target=self._signal_init, args=(number,), daemon=True).start()

    def _follow_sizes(self) -> None:
        for task in self.tasks():
            task.follow_sizes()

    def _signal_init(self, number: int) -> None:
        with contextlib.suppress(SandboxError, OSError):
            self.task(self.first).signal(number, "", everyone=False)

    def _note(self, reason: str) -> None:
        """Write down why, for whoever waits."""
        with contextlib.suppress(OSError):
            flags = os.O_CREAT | os.O_WRONLY | os.O_TRUNC | os.O_NOFOLLOW | os.O_CLOEXEC
            descriptor = os.open(f"{self.state_dir}/{REASON}", flags, 0o600)
            with open(descriptor, "w", encoding="utf-8", errors="replace") as file:
                file.write(reason[:8192])

    def _finish(self, code: int, *, gone: bool) -> None:
        """Tell every process's end, have the guest write back what is not on the host yet, and end the machine.

        A machine that is of no use any more is ended first: nothing that it might still say is waited for.
        """
        if gone:
            self.host.close()
        tasks = self.tasks()
        for task in tasks if not gone else ():
            if task.container != self.first:  # while it runs, what it still writes would be waited for
                with contextlib.suppress(SandboxError, OSError):
                    task.signal(signal.SIGKILL, "", everyone=True)
        for task in tasks:
            task.end(code if gone or task.container != self.first else 128 + signal.SIGKILL)
        for task in tasks:
            task.wait_told(TELL_TIMEOUT)
        if not gone:
            with contextlib.suppress(SandboxError, OSError):
                for task in tasks:
                    if task.container != self.first or not self.host.ends_with_init:
                        self.agent.delete(task.container, FLUSH_TIMEOUT)
                self.host.flush(FLUSH_TIMEOUT)
        self.host.close()


# -- beginning ---------------------------------------------------------------------------------------------------------


class Creation:
    """A sandbox on its way to `ready`; `control` is the front end's, `stand` is who the host knows it by."""

    def __init__(
        self, control: _socket.socket, stand: Caller, request: Mapping[str, Any], descriptors: Sequence[int]
    ) -> None:
        self._control, self._stand, self._request = control, stand, request
        self._streams = list(descriptors)

    def carry_out(self) -> Sandbox:
        """Do it all, in this order. What is made ends with this process."""
        request = self._request
        from pysandbox_microvm.host import Host

        self._enter_network()
        self._run_hooks()
        host = Host(request["spec"], request["bundle"], request["settings"], self._step, self._warn)
        try:
            host.start(request["storage"])
            return self._create(Sandbox(request["id"], request["state_dir"], host, self._stand.pid))
        except BaseException as error:
            better = host.explained(error)
            host.close()
            if better is error:
                raise
            raise better from error

    def _create(self, sandbox: Sandbox) -> Sandbox:
        from pysandbox_microvm.block import relocated

        request = self._request
        threading.Thread(target=sandbox.follow_events, name="events", daemon=True).start()
        sandbox.host.on_end(sandbox.end)
        if request["terminal"]:
            take_control(self._streams[0])
        init = GuestProcess(
            request["id"],
            "",
            self._streams,
            terminal=request["terminal"],
            ended=sandbox.end,
        )
        self._step("container")
        plan = relocated(request["plan"], request["spec"], sandbox.host.numbers)
        task = sandbox.add(request["id"])
        task.host_pid = sandbox.pid
        task.create(init, plan, request["timeout"])
        sandbox.host.make_root_read_only(request["storage"], request["spec"])
        self._listen(sandbox)
        self._step("ready")
        send(self._control, {"ready": {"pid": init.pid}})
        return sandbox

    def _listen(self, sandbox: Sandbox) -> None:
        from pysandbox_microvm.server import Server

        listener = service.listen(sandbox.state_dir)
        threading.Thread(target=Server(sandbox, listener).serve, name="service", daemon=True).start()
        limit = silence(self._request["settings"])
        threading.Thread(target=sandbox.follow_life, args=(limit,), name="life", daemon=True).start()

    def _step(self, name: str) -> None:
        if self._request["trace"]:
            send(self._control, {"step": [name, time.monotonic_ns()]})

    def _warn(self, text: str) -> None:
        send(self._control, {"warn": text})

    def _enter_network(self) -> None:
        """Join the network namespace of the spec, or make one. This process has one thread as yet.

        Who stands for it joins, too: engines and hooks look at the namespaces of the container's pid.
        """
        from pysandbox.linux import setns
        from pysandbox_microvm.netns import CLONE_NEWNET, open_namespace

        devices = (self._request["spec"].get("linux") or {}).get("netDevices")
        namespace = open_namespace(self._request["network"] or None)
        try:
            if devices:
                from pysandbox_microvm.netdevice import move_devices

                move_devices(devices, namespace)
            setns(namespace, CLONE_NEWNET)
            self._stand.enter([("network", namespace)])
        finally:
            os.close(namespace)

    def _run_hooks(self) -> None:
        hooks = self._request["spec"].get("hooks") or {}
        if hooks.get("prestart") or hooks.get("createRuntime"):
            send(self._control, {"runtime": True})
            if "go" not in receive(self._control, HOOK_TIMEOUT)[0]:
                raise Closed("no go")
        run_inner_hooks(self._request, self._stand.pid)


def _enter_cgroup(entrances: Mapping[str, int], stand: Caller) -> None:
    """Enter through each entrance: v1's `tasks`, or cgroup2's directory (`Cgroup.entrances`)."""
    stand.enter([(slot.rstrip("0123456789"), descriptor) for slot, descriptor in entrances.items()])
    for slot, descriptor in entrances.items():
        if slot == "cgroup":
            with open(f"/proc/self/fd/{descriptor}/cgroup.procs", "wb", buffering=0) as procs:
                procs.write(b"0")
        else:
            os.write(descriptor, b"0")
        os.close(descriptor)


def run_inner_hooks(request: Mapping[str, Any], pid: int) -> None:
    """Run the createContainer hooks of a container, in this process's namespaces; `pid` is the machine's."""
    if (request["spec"].get("hooks") or {}).get("createContainer"):
        from pysandbox.oci.hooks import run_hooks

        state = {**request["state"], "pid": pid, "status": "creating"}
        run_hooks(request["spec"], "createContainer", state)


def main(stand: Caller) -> int:
    """Be the sandbox process that descriptor 3 asks for. `stand` is the process that its caller has started."""
    threading.stack_size(STACK)
    _allow_descriptors()
    signals = Signals()
    control = _socket.socket(fileno=CONTROL)
    os.set_inheritable(CONTROL, False)
    with contextlib.suppress(PermissionError):  # it leads a process group already
        os.setsid()
    try:
        message, descriptors = receive(control)
        _enter_cgroup(dict(zip(message["enter"], descriptors, strict=True)), stand)
        import pysandbox_microvm.host  # noqa: F401 (while the front end plans)

        message, descriptors = receive(control)
        sandbox = Creation(control, stand, message["sandbox"], descriptors).carry_out()
    except Closed:
        return 1
    except BaseException as error:  # noqa: BLE001 (the front end raises it)
        with contextlib.suppress(Closed, OSError):
            control.settimeout(5.0)
            send(control, {"error": service.error_document(error)})
        if not isinstance(error, SandboxError | OSError):
            import traceback

            traceback.print_exc()
        return 1
    control.close()
    return sandbox.serve(signals)


def _allow_descriptors() -> None:
    """Take all descriptors that may be had: every process in the guest has a few here."""
    import resource

    hard = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
    with contextlib.suppress(OSError, ValueError):
        resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))


def run() -> None:
    """Run `main`, and end without waiting for threads: what they wait for may never come."""
    code = 1
    try:
        code = main(current())
    finally:
        sys.stderr.flush()
        os._exit(code)


def command(_words: Sequence[str], _descriptors: frozenset[int]) -> int:
    """Be the sandbox process as a fork of the warm start's server: a launcher stands for it, and ends with it.

    Killed, it is as if the launcher had been: that is what the kernel does to it when the launcher is.
    """
    code, stand = 1, current()
    try:
        stand.end_with(128 + signal.SIGKILL)
        stand.reside(CONTROL)
        stand.lead_session()
        code = main(stand)
        stand.end_with(code)
    finally:
        sys.stderr.flush()
        os._exit(code)
