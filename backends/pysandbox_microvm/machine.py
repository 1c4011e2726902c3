"""One virtual machine: QEMU, started with everything by descriptor, and what is plugged into it while it runs.

A machine boots, or goes on from where a template was saved. Who has a `Machine` has a running QEMU, until `close`.
Every wait has a limit, and ends as soon as QEMU does. All methods may be called by any thread.
"""

from __future__ import annotations

import _socket
import contextlib
import fcntl
import os
import stat
import threading
import time

from pysandbox.errors import DeadlineExceeded, FailedPrecondition, InvalidArgument, SandboxError, Unavailable
from pysandbox.record import dataclass
from pysandbox_microvm.arguments import (
    MEMORY_ROOT_PORT,
    PRIVATE,
    SHARED,
    Disk,
    Hardware,
    Place,
    arguments,
)
from pysandbox_microvm.child import Child, launch
from pysandbox_microvm.console import panic, tail
from pysandbox_microvm.inputs import F_SETPIPE_SZ, LONGEST_STATE, maps_template, open_inputs
from pysandbox_microvm.qmp import Client
from pysandbox_microvm.size import MIB, Size

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping
    from typing import Any, Self

    from pysandbox_microvm.agent import Agent
    from pysandbox_microvm.image import Image
    from pysandbox_microvm.jail import Jail
    from pysandbox_microvm.template import Template

#: Seconds for QEMU to take up a template's state.
RESTORE_TIMEOUT = 20.0
#: Seconds for a guest that boots to have an agent. Under emulation, on a machine with much else to do.
BOOT_TIMEOUT = 60.0
#: Seconds for a guest to let go of a device.
UNPLUG_TIMEOUT = 20.0
#: Seconds in which the end of a process is seen after its sockets have been closed.
_LATE = 0.5
#: Of devices that could also be as before virtio 1.0; a file system cannot.
_MODERN = {"disable-legacy": "on"}
_GROWTH = "growth"  # the device that memory grows by


class MachineError(Unavailable):
    """A machine did not start, or has ended. `console` is what its serial console said last."""

    def __init__(self, text: str, console: bytes = b"") -> None:
        super().__init__(text)
        self.console = console


@dataclass(frozen=True, slots=True)
class _Plugged:
    """A device, the root port it is in, and the commands that take away what it was made of."""

    port: str
    undo: tuple[tuple[str, Mapping[str, object]], ...]


class Machine:
    """A running machine. `agent` is the host's end of the agent's port, connected: the owner's to use and to close."""

    agent: _socket.socket
    #: The memory, ours to read and write, as the guest sees it.
    memory: int = -1

    def __init__(self, hardware: Hardware) -> None:
        self.hardware = hardware
        self._lock = threading.RLock()
        self._free = [f"root{number}" for number in reversed(range(hardware.root_ports))]
        self._free.remove(MEMORY_ROOT_PORT)
        self._plugged: dict[str, _Plugged] = {}
        self._growth = 0  # bytes beyond the hardware's
        self._can_grow = False  # whether the device that memory grows by is there
        self._numbered = 0
        self._watchers: list[Callable[[], None]] = []
        self._child: Child | None = None
        self._qmp: Client | None = None
        self._agent: Agent | None = None
        self._is_private = False

    @classmethod
    def start(
        cls,
        image: Image,
        hardware: Hardware,
        command_line: str,
        *,
        qemu: str = "qemu-system-x86_64",
        jail: Jail | None = None,
        template: Template | None = None,
        disk: Disk | None = None,
    ) -> Self:
        """Start a machine, and return when QEMU runs it; the agent of one that boots is not there yet.

        With a template, saved with the same hardware, image and command line, the machine is its clone. `disk` is the
        real root disk, where the hardware has one. Raises MachineError, DeadlineExceeded; ExecutorError for a jail that
        does not come about, OSError for trouble with the kernel. Nothing is left then.
        """
        machine = cls(hardware)
        try:
            with contextlib.ExitStack() as theirs:
                places = machine._open_channels(theirs)
                places |= open_inputs(theirs, image, hardware, template, disk)
                mapping = PRIVATE if maps_template(template, disk) else SHARED
                argv = arguments(
                    hardware, command_line, qemu=qemu, memory=mapping, incoming=template is not None, disk=disk
                )
                machine.memory = fcntl.fcntl(places[Place.MEMORY], fcntl.F_DUPFD_CLOEXEC, 3)
                machine._is_private = mapping == PRIVATE
                machine._spawn(jail, argv, places)
                if template is not None and mapping == SHARED:
                    template.copy_memory(machine.memory)
                elif template is not None:
                    template.offer_memory(machine.memory)
            if template is not None:
                machine._restore()
        except BaseException as error:
            better = machine._explained(error)
            machine.close()
            if better is error:
                raise
            raise better from error
        return machine

    # -- the machine as a whole ----------------------------------------------------------------------------------------

    @property
    def pid(self) -> int:
        """QEMU's pid."""
        return self._process.pid

    @property
    def pidfd(self) -> int:
        """Readable once QEMU has ended; closed by `close`."""
        return self._process.pidfd

    @property
    def alive(self) -> bool:
        """Whether QEMU has not been seen to end."""
        return self._process.alive

    def on_end(self, call: Callable[[], None]) -> None:
        """Have a function called once when QEMU has ended, from another thread; at once if it has."""
        with self._lock:
            if self._process.alive:
                self._watchers.append(call)
                return
        call()

    def console(self) -> bytes:
        """Return what the serial console said last."""
        return self._process.console.read()

    def why(self) -> str:
        """Say in one line why QEMU has ended: the guest's panic, reset or power-off, or what QEMU itself said."""
        for event in self._client.events("SHUTDOWN"):
            if reason := _REASONS.get(str(event.get("data", {}).get("reason"))):
                return self._process.why(panic(self.console()) or reason)
        return self._process.why()

    def hello(self, patience: float = BOOT_TIMEOUT) -> Agent:
        """Return the agent, connected: waits until the guest has one. Raises MachineError, DeadlineExceeded."""
        from pysandbox_microvm.agent import Agent

        if self._agent is not None:
            return self._agent
        try:
            self._agent = Agent(self.agent, patience)
        except SandboxError as error:
            raise self._explained(error) from error
        return self._agent

    def pause(self) -> None:
        """Stop all virtual processors."""
        self._execute("stop")

    def resume(self) -> None:
        """Let the virtual processors go on."""
        self._execute("cont")

    def close(self) -> None:
        """End QEMU, and wait until it is gone. Safe to call twice. Raises DeadlineExceeded."""
        with self._lock:
            self._watchers.clear()
        child, qmp = self._child, self._qmp
        try:
            if child is not None:
                child.kill()
        finally:
            if qmp is not None:
                qmp.close()
            if self._agent is not None:
                self._agent.close()
            if hasattr(self, "agent"):
                self.agent.close()
            with self._lock:
                if self.memory >= 0:
                    os.close(self.memory)
                self.memory = -1

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    # -- devices -------------------------------------------------------------------------------------------------------

    def plug_file_system(self, socket: int, tag: str) -> str:
        """Plug in a file system whose server (vhost-user) is at the other end of `socket`; return its id.

        FailedPrecondition for a machine whose memory a server would not see: a clone with a root disk.
        """
        if self._is_private:
            raise FailedPrecondition("a machine that was cloned with a root disk has no memory to share with a server")
        name = self._name("fs")
        server = {"type": "socket", "data": {"addr": _descriptor(name), "server": False}}
        with self._undone() as undo:
            self._direct("getfd", {"fdname": name}, socket)
            undo.append(("closefd", {"fdname": name}))
            self._direct("chardev-add", {"id": name, "backend": server})
            undo[:] = [("chardev-remove", {"id": name})]
            return self._plug(name, {"driver": "vhost-user-fs-pci", "chardev": name, "tag": tag}, undo)

    def plug_network(self, tap: int, mac: str, mtu: int) -> str:
        """Plug in a network interface that is an open tap device on the host; return its id."""
        name = self._name("net")
        with self._undone() as undo:
            self._direct("getfd", {"fdname": name}, tap)
            undo.append(("closefd", {"fdname": name}))
            self._direct("netdev_add", {"type": "tap", "id": name, "fd": name, "vhost": False})
            undo[:] = [("netdev_del", {"id": name})]
            device = {"driver": "virtio-net-pci", "netdev": name, "mac": mac, "host_mtu": mtu, "romfile": "", **_MODERN}
            return self._plug(name, device, undo)

    def plug_disk(self, descriptor: int, serial: str, *, read_only: bool) -> str:
        """Plug in an open raw image or block device, opened as `read_only` says; return its id.

        The format is named, so that nothing looks into the file for another: a qcow2 header names further files.
        """
        name = self._name("disk")
        driver = "host_device" if stat.S_ISBLK(os.fstat(descriptor).st_mode) else "file"
        with self._undone() as undo:
            set_ = self._direct("add-fd", {}, descriptor)["fdset-id"]
            undo.append(("remove-fd", {"fdset-id": set_}))
            file = {"driver": driver, "filename": f"/dev/fdset/{set_}", "locking": "off", "auto-read-only": False}
            node = {"driver": "raw", "node-name": name, "read-only": read_only, "auto-read-only": False, "file": file}
            self._direct("blockdev-add", node)
            undo.insert(0, ("blockdev-del", {"node-name": name}))
            return self._plug(name, {"driver": "virtio-blk-pci", "drive": name, "serial": serial, **_MODERN}, undo)

    def unplug(self, name: str) -> None:
        """Take a device out again, once the guest has let go of it.

        Raises DeadlineExceeded where it does not, FailedPrecondition where it refuses, InvalidArgument for no such id.
        """
        with self._lock:
            if name not in self._plugged:
                raise InvalidArgument(f"{name}: no such device in the machine")
            plugged = self._plugged[name]
        self._remove(name)
        with self._lock:
            if self._plugged.pop(name, None) is None:
                return  # another thread has done the rest
        for command, arguments_ in plugged.undo:
            self._execute(command, arguments_)
        with self._lock:
            self._free.append(plugged.port)

    # -- growing -------------------------------------------------------------------------------------------------------

    @property
    def size(self) -> Size:
        """What the machine has been given; how much of it the guest uses is the guest's."""
        with self._lock:
            return Size(len(self._processors(plugged=True)), self.hardware.memory + self._growth)

    def grow(self, size: Size) -> None:
        """Give the machine so many virtual processors and so much memory, more or less than it has.

        The guest has to bring them into use, and to give them back: what it does not give back stays its own, and
        processors that it keeps are DeadlineExceeded. Not below what the machine started with, nor beyond what it was
        made for: InvalidArgument.
        """
        most = self.hardware
        if not most.vcpus <= size.vcpus <= most.most_vcpus:
            raise InvalidArgument(f"a machine with {most.vcpus} to {most.most_vcpus} vcpus cannot have {size.vcpus}")
        if not most.memory <= size.memory <= most.most_memory:
            raise InvalidArgument(
                f"a machine with {most.memory // MIB} to {most.most_memory // MIB} MiB of memory cannot have "
                f"{size.memory // MIB} MiB"
            )
        with self._lock:
            self._set_processors(size.vcpus)
            self._set_memory(size.memory - most.memory)

    def _set_processors(self, wanted: int) -> None:
        there = self._processors(plugged=True)
        for slot in self._processors(plugged=False)[: max(wanted - len(there), 0)]:
            name = "cpu" + "-".join(str(slot["props"][part]) for part in sorted(slot["props"]))
            self._direct("device_add", {"driver": slot["type"], "id": name, **slot["props"]})
        for slot in reversed(there[wanted:]):
            self._remove(slot["qom-path"].rpartition("/")[2])

    def _processors(self, *, plugged: bool) -> list[dict[str, Any]]:
        slots = self._direct("query-hotpluggable-cpus")
        return sorted(
            (slot for slot in slots if ("qom-path" in slot) is plugged), key=lambda slot: sorted(slot["props"].items())
        )

    def _set_memory(self, growth: int) -> None:
        if growth and not self._can_grow:
            self._add_growth()
        if self._can_grow:
            path = f"/machine/peripheral/{_GROWTH}"
            self._direct("qom-set", {"path": path, "property": "requested-size", "value": growth})
        self._growth = growth

    def _add_growth(self) -> None:
        """Plug in the device, at first without a byte. File servers map its memory too, so it is shared."""
        most = self.hardware.most_memory - self.hardware.memory
        backend = {"qom-type": "memory-backend-memfd", "id": _GROWTH, "size": most, "share": True, "reserve": False}
        with self._undone() as undo:
            self._direct("object-add", backend)
            undo.append(("object-del", {"id": _GROWTH}))
            device = {"driver": "virtio-mem-pci", "id": _GROWTH, "bus": MEMORY_ROOT_PORT, "memdev": _GROWTH}
            self._direct("device_add", {**device, "requested-size": 0})
        self._can_grow = True

    # -- within --------------------------------------------------------------------------------------------------------

    @property
    def _process(self) -> Child:
        assert self._child is not None
        return self._child

    def _open_channels(self, theirs: contextlib.ExitStack) -> dict[int, int]:
        """Make the sockets between us and QEMU; ours are kept, theirs returned by their places."""
        qmp, self._console = _pair(theirs), _pair(theirs)
        agent = _pair(theirs)
        self._qmp = Client(qmp[0])
        self.agent = agent[0]
        self._messages, messages = os.pipe2(os.O_CLOEXEC)
        theirs.callback(os.close, messages)
        return {
            1: messages,
            2: messages,
            Place.QMP: qmp[1].fileno(),
            Place.AGENT: agent[1].fileno(),
            Place.CONSOLE: self._console[1].fileno(),
        }

    def _spawn(self, jail: Jail | None, argv: list[str], places: Mapping[int, int]) -> None:
        console = self._console[0]
        try:
            pid, pidfd = launch(jail, argv, places)
        except BaseException:
            os.close(self._messages)
            console.close()
            raise
        self._child = Child(pid, pidfd, console.detach(), self._messages, self._ended)
        self._child.watch()  # once there is one: QEMU may have ended already

    def _restore(self) -> None:
        """Have QEMU take up a template's state; the guest goes on by itself, as it was saved while it ran."""
        self._client.first("migrate-set-capabilities", capabilities=[{"capability": "x-ignore-shared", "state": True}])
        self._client.first("migrate-incoming", uri=f"fd:{Place.STATE}")
        if self._is_private:
            self.hello(RESTORE_TIMEOUT)  # nothing has to be plugged in: that the agent answers is the sign
        else:
            what = f"qemu has not restored a machine for {RESTORE_TIMEOUT:g} s"
            self._client.wait_event(_named("RESUME"), time.monotonic() + RESTORE_TIMEOUT, what)

    def save(self, seconds: float) -> bytes:
        """Return the machine's state, all but its memory, which is `memory`; it does not run any more then.

        It is saved while it runs, so that a clone goes on by itself. Raises MachineError, DeadlineExceeded.
        """
        capabilities = [{"capability": name, "state": True} for name in ("x-ignore-shared", "events")]
        self._execute("migrate-set-capabilities", {"capabilities": capabilities})
        reader, writer = os.pipe2(os.O_CLOEXEC)
        try:
            fcntl.fcntl(writer, F_SETPIPE_SZ, LONGEST_STATE)  # all of it: nobody has to read meanwhile
            self._execute("getfd", {"fdname": "state"}, writer)
            os.close(writer)
            writer = -1
            self._execute("migrate", {"uri": "fd:state"})
            what = f"qemu has not saved a machine for {seconds:g} s"
            event = self._client.wait_event(_is_migrated, time.monotonic() + seconds, what)
            if event["data"]["status"] != "completed":
                raise MachineError("qemu cannot save this machine", self.console())
            os.set_blocking(reader, False)
            return _read_all(reader)
        finally:
            os.close(reader)
            if writer >= 0:
                os.close(writer)

    @property
    def _client(self) -> Client:
        assert self._qmp is not None
        return self._qmp

    def _direct(
        self, command: str, arguments_: Mapping[str, object] | None = None, descriptor: int | None = None
    ) -> Any:
        """Carry out a command of the kind that starts need."""
        return self._client.direct(command, arguments_, descriptor=descriptor)

    def _execute(
        self, command: str, arguments_: Mapping[str, object] | None = None, descriptor: int | None = None
    ) -> Any:
        return self._client.execute(command, arguments_, descriptor=descriptor)

    def _name(self, kind: str) -> str:
        with self._lock:
            self._numbered += 1
            return f"{kind}{self._numbered}"

    def _plug(self, name: str, device: Mapping[str, object], undo: list[tuple[str, Mapping[str, object]]]) -> str:
        with self._lock:
            if not self._free:
                raise FailedPrecondition(f"the machine has no room for a device beside {len(self._plugged)} others")
            port = self._free.pop()
        try:
            self._direct("device_add", {**device, "id": name, "bus": port})
        except BaseException:
            with self._lock:
                self._free.append(port)
            raise
        with self._lock:
            self._plugged[name] = _Plugged(port, tuple(undo))
        return name

    @contextlib.contextmanager
    def _undone(self) -> Iterator[list[tuple[str, Mapping[str, object]]]]:
        """Carry out the commands in the list that it gives, if what follows fails."""
        undo: list[tuple[str, Mapping[str, object]]] = []
        try:
            yield undo
        except BaseException:
            for command, arguments_ in undo:
                with contextlib.suppress(SandboxError):
                    self._direct(command, arguments_)
            raise

    def _remove(self, name: str) -> None:
        """Have the guest let go of a device, and wait until QEMU has."""
        deadline = time.monotonic() + UNPLUG_TIMEOUT
        self._execute("device_del", {"id": name})
        event = self._client.wait_event(
            lambda event: (
                event.get("event") in ("DEVICE_DELETED", "DEVICE_UNPLUG_GUEST_ERROR")
                and event.get("data", {}).get("device") == name
            ),
            deadline,
            f"the guest has not let go of {name} for {UNPLUG_TIMEOUT:g} s",
        )
        if event["event"] != "DEVICE_DELETED":
            raise FailedPrecondition(f"the guest refuses to let go of {name}")

    def _ended(self) -> None:
        """QEMU has ended: nobody has to wait for it any more. On the child's thread."""
        self._client.interrupt(MachineError(self.why(), self.console()))
        with self._lock:
            watchers, self._watchers = self._watchers, []
        for call in watchers:
            call()

    def _explained(self, error: BaseException) -> BaseException:
        """Return what is to be raised for an error: why QEMU has ended, if it has; else with what the guest said."""
        child = self._child
        if child is None or not isinstance(error, SandboxError) or isinstance(error, MachineError):
            return error
        if child.wait(_LATE):
            return MachineError(self.why(), child.console.read())
        said = tail(child.console.read())
        return type(error)(f"{error}; console: {said}") if said and isinstance(error, DeadlineExceeded) else error


_REASONS = {"guest-shutdown": "the guest powered off", "guest-reset": "the guest reset the machine"}


def _is_migrated(event: Mapping[str, Any]) -> bool:
    return event.get("event") == "MIGRATION" and event.get("data", {}).get("status") in ("completed", "failed")


def _read_all(pipe: int) -> bytes:
    parts = []
    with contextlib.suppress(BlockingIOError):
        while part := os.read(pipe, LONGEST_STATE):
            parts.append(part)
    return b"".join(parts)


def _named(name: str) -> Callable[[Mapping[str, Any]], bool]:
    return lambda event: event.get("event") == name


def _descriptor(name: str) -> dict[str, object]:
    return {"type": "fd", "data": {"str": name}}


def _pair(theirs: contextlib.ExitStack) -> tuple[_socket.socket, _socket.socket]:
    """Return our end and theirs of a connected stream; theirs is closed with the stack."""
    ours, other = _socket.socketpair(_socket.AF_UNIX, _socket.SOCK_STREAM)
    theirs.callback(other.close)
    return ours, other
