"""Make a container in a machine of its own: its cgroup, its sandbox process, and the talk with it up to `ready`.

This is the front end's side; `sandbox.py` says what the other does.
"""

from __future__ import annotations

import _socket
import contextlib
import os
import sys
import time

from pysandbox.backend import Process
from pysandbox.caller import current
from pysandbox.cgroup.cgroup import open_entrances
from pysandbox.cgroup.placement import open_cgroup
from pysandbox.errors import DeadlineExceeded, FailedPrecondition, Unavailable, Unimplemented, Unknown
from pysandbox.executor import ExecutorError
from pysandbox.failure import in_runcs_words
from pysandbox.filtercache import compile_filter
from pysandbox.linux import start_time
from pysandbox.warm.wire import Closed, receive, send
from pysandbox_microvm import service
from pysandbox_microvm.block import device_rules, find_place
from pysandbox_microvm.container import MicrovmContainer
from pysandbox_microvm.netns import forget_network
from pysandbox_microvm.planning import check_spec, host_resources, plan_init
from pysandbox_microvm.settings import check_settings, overhead
from pysandbox_microvm.terminal import open_terminal

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

    from pysandbox.backend import CreateRequest, Options
    from pysandbox.cgroup.cgroup import Cgroup
    from pysandbox.oci.types import Spec
    from pysandbox_microvm.place import Place
    from pysandbox_microvm.planning import GuestPlan

#: Seconds for a sandbox process to get from one of its messages to the next: it boots a machine, under emulation.
PATIENCE = 240.0
#: Seconds for hooks in the guest, where they have no limits of their own, as on the host.
HOOK_TIMEOUT = 24 * 3600
DEFAULT_TIMEOUT = 60
#: Seconds for a sandbox process to be gone once it has been killed.
END_TIMEOUT = 10.0
#: What the sandbox process says on its own behalf, in the state directory.
LOG = "sandbox.log"
#: The launcher's name for it, and the environment variable that names the server's directory.
PROGRAM, _SERVER = "pysandbox-sandbox", ("PYSANDBOX_WARM",)
_PROGRAM = "import sys; sys.path[:] = {path!r}; from pysandbox_microvm.sandbox import run; run()"


def create(request: CreateRequest) -> MicrovmContainer:
    """Make a container whose init waits for `start`. On failure nothing is left."""
    check_settings(request.options.settings)
    if request.stdio.preserved:
        raise Unimplemented("--preserve-fds: a descriptor of the host cannot be handed into a virtual machine")
    check_spec(request.spec)
    place = find_place(request.spec, request.bundle)
    cgroup = open_spec_cgroup(request.spec, request.id, request.options)
    memory: dict[str, Any] = {
        "cgroup": cgroup.saved(),
        "place": place.saved(),
        "overhead": overhead(request.options.settings),
        "network": _network_path(request.spec),
    }
    request.remember(memory)
    with contextlib.ExitStack() as undo:
        make_cgroup(request, cgroup)
        undo.callback(cgroup.remove)
        undo.callback(forget_network, memory["network"])
        begun = _Begun(request, cgroup)
        undo.callback(begun.abort)
        # Meanwhile it imports what it is made of.
        plan = plan_init(
            request.bundle, request.spec, request.id, request.options, request.state, place, compile_filter
        )
        try:
            init = begun.talk(order(request, plan, place))
        except ExecutorError as error:
            raise in_runcs_words(error, request.spec["process"]["args"][0], request.spec) from error
        cgroup.apply(host_resources(resources_of(request.spec), memory["overhead"]))
        undo.pop_all()
    started = start_time(init.pid) or 0
    return MicrovmContainer(
        request.id, request.state_dir, request.bundle, init, started, cgroup, memory, request.options.warn
    )


def open_spec_cgroup(spec: Spec, container_id: str, options: Options) -> Cgroup:
    """Decide where the cgroup of the whole machine is, without making it."""
    path = (spec.get("linux") or {}).get("cgroupsPath") or ""
    return open_cgroup(path, container_id, systemd=options.systemd_cgroup)


def resources_of(spec: Spec) -> Any:
    """Return `linux.resources` of a spec."""
    return (spec.get("linux") or {}).get("resources") or {}


def make_cgroup(request: CreateRequest, cgroup: Cgroup) -> None:
    """Make the cgroup, with the machine's devices and no limit yet: it would hold up the boot. See `namespaces`."""
    try:
        disks: Any = device_rules(request.spec, request.bundle)
        cgroup.create({"devices": [*host_resources({}, 0)["devices"], *disks]})
    except FailedPrecondition:
        request.remember({})  # it is somebody else's: nobody is to remove it in our name
        raise


def order(request: CreateRequest, plan: GuestPlan, place: Place) -> dict[str, Any]:
    """Return what the sandbox process is asked for."""
    process = request.spec["process"]
    size = process.get("consoleSize") or {"width": 0, "height": 0}
    return {
        "id": request.id,
        "bundle": request.bundle,
        "state_dir": request.state_dir,
        "spec": request.spec,
        "state": request.state,
        "settings": request.options.settings,
        "network": _network_path(request.spec),
        "storage": place.storage,
        "terminal": request.stdio.terminal,
        "trace": request.options.trace is not None,
        "timeout": _timeout(request.spec),
        "plan": {**plan.document(), "size": [size["width"], size["height"]]},
    }


def _network_path(spec: Spec) -> str:
    namespaces = (spec.get("linux") or {}).get("namespaces") or ()
    return next((namespace.get("path") or "" for namespace in namespaces if namespace["type"] == "network"), "")


def _timeout(spec: Spec) -> int:
    hooks = (spec.get("hooks") or {}).get("startContainer") or ()
    if any(not hook.get("timeout") for hook in hooks):
        return HOOK_TIMEOUT
    return DEFAULT_TIMEOUT + sum(hook["timeout"] for hook in hooks)


class _Begun:
    """A sandbox process that has been started and has not said `ready`."""

    def __init__(self, request: CreateRequest, cgroup: Cgroup) -> None:
        self._request, self._cgroup = request, cgroup
        self._ours, theirs = _socket.socketpair(_socket.AF_UNIX, _socket.SOCK_STREAM)
        try:
            self.pid = _spawn(request.state_dir, theirs.fileno(), alone=bool(cgroup.entrances()))
        except BaseException:
            self._ours.close()
            raise
        finally:
            theirs.close()
        try:
            self._lead_into_cgroup()
        except BaseException:
            self.abort()
            raise

    def _lead_into_cgroup(self) -> None:
        """Have it enter the cgroup first of all: what it imports is to count there."""
        paths = self._cgroup.entrances()
        opened = open_entrances(paths)
        try:
            with contextlib.suppress(Closed):  # `talk` finds out
                send(self._ours, {"enter": list(opened)}, list(opened.values()))
        finally:
            for descriptor in opened.values():
                os.close(descriptor)
        if not paths:
            self._cgroup.add(self.pid)

    def talk(self, order: dict[str, Any]) -> Process:
        """Ask for the sandbox, answer what it asks, and return init when it is ready."""
        stdio = self._request.stdio
        console, slave = None, None
        streams = [stdio.stdin, stdio.stdout, stdio.stderr]
        if stdio.terminal:
            console, slave = open_terminal(*order["plan"]["size"])
            streams = [slave] * 3
        try:
            send(self._ours, {"sandbox": order}, streams)
            while not self._take(receive(self._ours, PATIENCE)[0]):
                pass
        except BaseException as error:
            if console is not None:
                os.close(console)
            if isinstance(error, Closed):
                words = self._last_words(error)
                raise Unavailable(f"the sandbox process has ended before its machine ran: {words}") from None
            raise
        finally:
            self._ours.close()
            if slave is not None:
                os.close(slave)
        return Process(pid=self.pid, console=console)

    def _take(self, message: dict[str, Any]) -> bool:
        """Do what a message asks for; say whether it was the last."""
        trace = self._request.options.trace
        match message:
            case {"ready": dict()}:
                return True
            case {"runtime": True}:
                self._request.runtime_created(self.pid)
                send(self._ours, {"go": True})
            case {"step": [str(name), int(when)]}:
                if trace is not None:
                    trace(name, when)
            case {"warn": str(text)}:
                if self._request.options.warn is not None:
                    self._request.options.warn(text)
            case {"error": dict(document)}:
                raise service.error_of(document)
            case _:
                raise Unknown(f"the sandbox process says {str(message)[:200]}")
        return False

    def _last_words(self, error: Closed) -> str:
        with contextlib.suppress(OSError), open(f"{self._request.state_dir}/{LOG}", errors="replace") as file:
            lines = file.read(65536).splitlines()
            if lines:
                return lines[-1][:500]
        return str(error) or "it has said nothing"

    def abort(self) -> None:
        """End it, and everything that it has made."""
        self._ours.close()
        self._cgroup.kill()
        with contextlib.suppress(ProcessLookupError):
            if current().is_child(self.pid):
                os.kill(self.pid, 9)
        reap(self.pid)


def _spawn(state_dir: str, control: int, *, alone: bool) -> int:
    """Start a sandbox process, or what stands for it where a server is to fork it; return its pid.

    `alone`: it enters its cgroup by itself. Who stands for it could be moved, but nobody knows the fork's pid.
    """
    program, arguments, environment = _program(current().installed(PROGRAM) if alone else None)
    null = os.open("/dev/null", os.O_RDONLY | os.O_CLOEXEC)
    log = os.open(f"{state_dir}/{LOG}", os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600)
    try:
        return current().spawn(program, arguments, environment, [null, log, log, control])
    finally:
        os.close(null)
        os.close(log)


def _program(launcher: str | None) -> tuple[str, list[str], dict[str, str]]:
    """Return what is to be executed: the launcher, which is to find our server; else this interpreter.

    That is started as `pysandbox-cold` starts it, with the modules that we have.
    """
    if launcher is not None:
        return launcher, [PROGRAM], {name: os.environ[name] for name in _SERVER if name in os.environ}
    program = _PROGRAM.format(path=[path for path in sys.path if path.startswith("/")])
    return sys.executable, [sys.executable, "-ISXutf8", "-c", program], {}


def reap(pid: int) -> None:
    """Reap a killed child; what is no child is let be."""
    deadline = time.monotonic() + END_TIMEOUT
    with contextlib.suppress(ChildProcessError):
        while current().reap(pid) is None:
            if time.monotonic() > deadline:
                raise DeadlineExceeded(f"sandbox process {pid} has not ended after {END_TIMEOUT:g} s")
            time.sleep(0.005)
