"""What the host runs for one sandbox: QEMU, a file server, mirrored interfaces; started together, ended together.

It is put together in the order that takes the least time: while QEMU starts, the file server does too, and the
network is looked at; while the guest finds its new devices, it gets its random numbers and the time.
"""

from __future__ import annotations

import contextlib
import os
import select
import threading
import time

from pysandbox.errors import SandboxError, Unavailable
from pysandbox.linux import disable_huge_pages
from pysandbox_microvm.accelerator import TCG
from pysandbox_microvm.block import Disks
from pysandbox_microvm.image import directory_of, find_image
from pysandbox_microvm.provision import find_qemu, plan_machine, provide_machine
from pysandbox_microvm.settings import uids
from pysandbox_microvm.size import Size, size_class, size_of
from pysandbox_microvm.tree import host_tree
from pysandbox_microvm.virtiofsd import DEFAULT_CACHE, FileServer, find_server

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence
    from typing import Any

    from pysandbox.oci.types import Resources, Spec
    from pysandbox_microvm.agent import Agent
    from pysandbox_microvm.identity import Identity
    from pysandbox_microvm.jail import Jail
    from pysandbox_microvm.machine import Machine
    from pysandbox_microvm.network import Mirroring, Network
    from pysandbox_microvm.provision import Provision
    from pysandbox_microvm.tree import Tree

    Warn = Callable[[str], None]

#: Exit code of a container whose machine ended under it.
UNKNOWN_CODE = 255
#: Bytes for the guest's random pool.
_SEED = 256
#: What says of a container that others will join its machine: containerd's annotation, and CRI-O's.
SANDBOX_ANNOTATIONS = ("io.kubernetes.cri.container-type", "io.kubernetes.cri-o.ContainerType")
#: How many may: each has a file system of its own.
MOST_JOINING = 11
#: Seconds in which QEMU's end is seen after its sockets have been closed.
_LATE = 1.0


class Host:
    """One machine and what feeds it. `step` is told what begins, `warn` gets lines for the log."""

    machine: Machine
    agent: Agent

    def __init__(self, spec: Spec, bundle: str, settings: Mapping[str, Any], step: Warn, warn: Warn) -> None:
        self._spec, self._bundle, self._settings = spec, bundle, settings
        self._step, self._warn = step, warn
        self._identity: Identity | None = None
        self._network: Network | None = None
        self._servers: dict[str, FileServer] = {}
        self._disks: list[str] = []  # storages of the guest
        self.numbers: dict[tuple[int, int], tuple[int, int]] = {}  # of block devices, the host's → the guest's
        self._size = Size(0, 0)
        self._plugged: dict[str, str] = {}  # storage → device
        self._members: dict[str, Resources] = {}
        self._undo = contextlib.ExitStack()
        self._closing = False
        self._ended: Callable[[int, str], None] = lambda _code, _reason: None

    # -- beginning -----------------------------------------------------------------------------------------------------

    def start(self, storage: str) -> None:
        """Have a machine whose guest has the first container's files, under the name `storage`, and the network.

        To be called by the process's first thread, which lives as long as QEMU is to.
        """
        from pysandbox_microvm.network import Network

        namespace = os.open("/proc/self/ns/net", os.O_RDONLY | os.O_CLOEXEC)
        self._undo.callback(os.close, namespace)
        mirroring = Network.begin(namespace)
        disks = Disks(self._spec, self._bundle, storage)
        self._undo.callback(disks.close)
        tree = host_tree(self._spec, self._bundle, block_root=disks.root is not None)
        server = _Starting(lambda: self._start_server(storage, tree))
        try:
            self._take_network(mirroring)
            self._step("machine")
            provision = self._plan(disks, shared=bool(tree.parts))
            if provision.accelerator.name == TCG:
                disable_huge_pages()  # QEMU wants them for translated code and for ROMs: 2 MB where a part is used
            self.machine = provide_machine(
                provision, self._jail, disk=disks.root_disk(root_disk=provision.root_disk), warn=self._warn
            )
            self._undo.callback(self.machine.close)
        finally:
            server.wait()
        self._step("file system")
        server.result()
        if storage in self._servers:
            self.machine.plug_file_system(self._servers[storage].socket.fileno(), storage)
        disks.plug(self.machine, root_disk=provision.root_disk)
        self._plug_network()
        self._step("agent")
        self.agent = self.machine.hello()
        self._undo.callback(self.agent.close)
        hostname = str(self._spec.get("hostname") or "")
        self.agent.prepare(os.urandom(_SEED), time.time_ns(), hostname)
        self._step("storage")
        if storage in self._servers:
            self.agent.attach(storage, "virtiofs", storage)
            self._watch(storage, lambda why: self._ended(UNKNOWN_CODE, why))
        self._disks = disks.attach(self.agent, root_disk=provision.root_disk)
        self.numbers = disks.numbers
        self._connect_network()
        self._grow_into(provision)

    def _plan(self, disks: Disks, *, shared: bool) -> Provision:
        from pysandbox_microvm.arguments import kernel_parameters
        from pysandbox_microvm.identity import Identity

        self._identity = Identity.take(uids(self._settings))
        self._undo.callback(self._identity.close)
        image = find_image(self._settings)
        self._size = size_of(self._spec, self._settings)
        directory = directory_of(self._settings)
        parameters = kernel_parameters(self._spec, self._settings)
        assert self._network is not None
        interfaces = len(self._network.interfaces)
        return plan_machine(
            image,
            self._size,
            self._settings,
            directory,
            self._jail,
            devices=interfaces + shared + disks.count + (MOST_JOINING if is_sandbox(self._spec) else 0),
            # A file server needs the machine's memory shared, a template's disk has it private: then it is plugged in.
            root_disk=disks.root is not None and not shared,
            parameters=parameters,
        )

    def _jail(self, kvm: bool) -> Jail:  # noqa: FBT001 (what `provision.Jailer` is)
        from pysandbox_microvm.jail import find_program, qemu_jail

        assert self._identity is not None
        return qemu_jail(find_program(find_qemu(self._settings)), self._identity.uid, kvm=kvm)

    def _start_server(self, storage: str, tree: Tree) -> None:
        if not tree.parts:
            return
        program = find_server(self._settings.get("virtiofsd", ""))
        server = FileServer.start(tree, program, cache=self._settings.get("cache", DEFAULT_CACHE))
        self._servers[storage] = server
        self._undo.callback(server.close)

    def _take_network(self, mirroring: Mirroring) -> None:
        self._network = mirroring.result()
        self._undo.callback(self._network.close)
        for remark in self._network.remarks:
            self._warn(remark)

    def _plug_network(self) -> None:
        assert self._network is not None
        for interface in self._network.interfaces:
            self.machine.plug_network(interface.tap, interface.mac, interface.mtu)

    def _connect_network(self) -> None:
        assert self._network is not None
        if self._network.interfaces:
            self._step("network")
            self.agent.connect(*self._network.parts())

    def _grow_into(self, provision: Provision) -> None:
        """Have the guest bring into use what the machine has beyond its template."""
        if not provision.templates or size_class(provision.size) == provision.size:
            return
        self._step("growth")
        self.agent.grow(provision.size.vcpus, 0)

    @property
    def ends_with_init(self) -> bool:
        """Whether nothing of the first container is left once its init has ended: it has a pid namespace of its own."""
        spaces = (self._spec.get("linux") or {}).get("namespaces") or ()
        return any(space["type"] == "pid" and not space.get("path") for space in spaces)

    # -- while it runs -------------------------------------------------------------------------------------------------

    def make_root_read_only(self, storage: str, spec: Spec) -> None:
        """Make a container's root read-only on the host, once the guest has made its mount points."""
        if spec["root"].get("readonly") and not any(name.endswith("-root") for name in self._disks):
            self._servers[storage].make_root_read_only()

    def add_storage(
        self, storage: str, spec: Spec, bundle: str, entrances: Mapping[str, str], lost: Callable[[str], None]
    ) -> None:
        """Serve the files of one more container, from a file server in the cgroup that the entrances lead to.

        `lost` is called, with the reason, when that ends by itself.
        """
        program = find_server(self._settings.get("virtiofsd", ""))
        cache = self._settings.get("cache", DEFAULT_CACHE)
        server = FileServer.start(host_tree(spec, bundle), program, cache=cache, entrances=entrances)
        try:
            self._plugged[storage] = self.machine.plug_file_system(server.socket.fileno(), storage)
            self._servers[storage] = server
            self.agent.attach(storage, "virtiofs", storage)
        except BaseException:
            self._servers.pop(storage, None)
            server.close()
            raise
        self._undo.callback(server.close)
        self._watch(storage, lost)

    def remove_storage(self, storage: str) -> None:
        """Take the files of a container away again, as far as the guest lets go of them."""
        server = self._servers.pop(storage, None)
        with contextlib.suppress(SandboxError, OSError):
            self.agent.detach(storage)
            self.machine.unplug(self._plugged.pop(storage))
        if server is not None:
            server.close()

    def give_room(self, container: str, resources: Resources | None) -> None:
        """Let the machine grow for one more container's limits; None for one that is gone, and leaves its room."""
        if resources is None:
            self._members.pop(container, None)
            return
        self._members[container] = resources
        own: Any = (self._spec.get("linux") or {}).get("resources") or {}
        self.resize(_sum_of([own, *self._members.values()]))

    def on_end(self, ended: Callable[[int, str], None]) -> None:
        """Have a function called, with exit code and reason, when a part of it ends by itself."""
        self._ended = ended
        self.machine.on_end(self._machine_ended)

    def _machine_ended(self) -> None:
        if not self._closing:
            why = self.machine.why()
            self._ended(_code_of(why), why)

    def _watch(self, storage: str, lost: Callable[[str], None]) -> None:
        threading.Thread(target=self._watch_server, args=(storage, lost), name="file server", daemon=True).start()

    def _watch_server(self, storage: str, lost: Callable[[str], None]) -> None:
        server = self._servers[storage]
        poll = select.poll()
        poll.register(server.pidfd, select.POLLIN)
        poll.poll()
        if not self._closing and self._servers.get(storage) is server:
            lost(f"virtiofsd has ended: {server.last_words() or 'without a word'}")

    def resize(self, resources: Resources) -> None:
        """Give the machine what new limits need, if it has less: it does not shrink."""
        linux: Any = self._spec.get("linux") or {}
        old: Any = linux.get("resources") or {}
        new: Any = resources
        merged = {key: {**(old.get(key) or {}), **(new.get(key) or {})} for key in ("cpu", "memory")}
        changed: Any = {**self._spec, "linux": {**linux, "resources": {**old, **merged}}}
        wanted = size_of(changed, self._settings)
        have = self.machine.size
        size = Size(max(wanted.vcpus, have.vcpus), max(wanted.memory, have.memory))
        if size != have:
            self.machine.grow(size)
            self.agent.grow(size.vcpus, 0)

    def explained(self, error: BaseException) -> BaseException:
        """Return what is to be raised for an error: why the machine has ended, if that is what it comes from."""
        if not hasattr(self, "machine") or not isinstance(error, Unavailable) or not self.has_ended():
            return error
        return Unavailable(f"the machine has ended: {self.machine.why()}")

    def has_ended(self) -> bool:
        """Say whether QEMU has ended, or ends in a moment: its sockets are closed a little sooner."""
        deadline = time.monotonic() + _LATE
        while self.machine.alive and time.monotonic() < deadline:
            time.sleep(0.01)
        return not self.machine.alive

    # -- the end -------------------------------------------------------------------------------------------------------

    def flush(self, timeout: float) -> None:
        """Have the guest write back what it keeps of shared files."""
        for storage in (*self._servers, *self._disks):
            self.agent.detach(storage, timeout)

    def close(self) -> None:
        """End everything. What cannot be ended ends with this process."""
        self._closing = True
        with contextlib.suppress(SandboxError, OSError):
            self._undo.close()


def is_sandbox(spec: Spec) -> bool:
    """Say whether further containers are to join this one's machine."""
    annotations = spec.get("annotations") or {}
    return any(annotations.get(kind) == "sandbox" for kind in SANDBOX_ANNOTATIONS)


def _code_of(why: str) -> int:
    """Return the exit code that a machine's end gives its containers: a signal's, if that is what ended QEMU."""
    words = why.partition(";")[0].rpartition("killed by signal ")
    return 128 + int(words[2]) if words[1] and words[2].isdigit() else UNKNOWN_CODE


def _sum_of(limits: Sequence[Resources]) -> Resources:
    """Return the limits of a machine for containers with these: the sums, as far as they have any."""
    memory = sum(max((each.get("memory") or {}).get("limit") or 0, 0) for each in limits)
    cpus = 0.0
    for each in limits:
        cpu = each.get("cpu") or {}
        cpus += max(cpu.get("quota") or 0, 0) / (cpu.get("period") or 100_000)
    summed: Any = {
        "memory": {"limit": memory} if memory else {},
        "cpu": {"quota": int(cpus * 100_000), "period": 100_000},
    }
    return summed  # type: ignore[no-any-return]


class _Starting:
    """Something that is done on a thread of its own."""

    def __init__(self, action: Callable[[], None]) -> None:
        self._action = action
        self._error: BaseException | None = None
        self._thread = threading.Thread(target=self._run, daemon=True)
        self._thread.start()

    def _run(self) -> None:
        try:
            self._action()
        except BaseException as error:  # noqa: BLE001 (raised where it is waited for)
            self._error = error

    def wait(self) -> None:
        """Wait for its end."""
        self._thread.join()

    def result(self) -> None:
        """Raise what it raised."""
        self._thread.join()
        if self._error is not None:
            raise self._error
