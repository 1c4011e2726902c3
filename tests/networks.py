"""Network namespaces without names, joined by veth pairs, and a kernel in one of them that stands for a guest's.

A namespace lives as long as the test holds its descriptor: a test that is killed leaves nothing behind.
"""

from __future__ import annotations

import contextlib
import fcntl
import hashlib
import os
import select
import socket
import subprocess
import threading
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from pysandbox_microvm import tap as taps
from pysandbox_microvm.netns import open_namespace, within

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from pysandbox_microvm.network import Interface, Network

# linux/if_tun.h: checksums, and segments of TCP over IPv4, IPv6 and with ECN, as QEMU sets them for a Linux guest.
TUNSETOFFLOAD = 0x400454D0
TUN_F_CSUM, TUN_F_TSO4, TUN_F_TSO6, TUN_F_TSO_ECN = 0x01, 0x02, 0x04, 0x08
OFFLOADS = TUN_F_CSUM | TUN_F_TSO4 | TUN_F_TSO6 | TUN_F_TSO_ECN
#: struct virtio_net_hdr, before every frame of a tap.
VNET_HEADER = 10


class Namespace:
    """A new network namespace, its loopback device up."""

    def __init__(self) -> None:
        self.descriptor = open_namespace(None)
        self("ip", "link", "set", "lo", "up")

    def __call__(self, *command: str, check: bool = True, timeout: float = 20) -> str:
        """Run a program in the namespace and return its output; it has to succeed unless `check` is off."""
        done = subprocess.run([*self.enter(), *command], capture_output=True, text=True, timeout=timeout, check=False)
        assert done.returncode == 0 or not check, f"{' '.join(command)}: {done.stderr}"
        return done.stdout

    @property
    def path(self) -> str:
        """Its path, for as long as this process holds it."""
        return f"/proc/{os.getpid()}/fd/{self.descriptor}"

    def enter(self) -> list[str]:
        """Return the command line that runs another one in the namespace."""
        return ["nsenter", f"--net={self.path}"]

    def ip(self, line: str) -> str:
        """Run `ip` with the words of a line."""
        return self("ip", *line.split())

    def sysctl(self, name: str, value: str) -> None:
        """Set a net.* parameter; a / separates its parts."""
        self("sh", "-c", f"echo {value} >/proc/sys/net/{name}")

    def can_ping(self, address: str) -> bool:
        """Say whether an address answers one of two echo requests; BusyBox has ping on every machine."""
        done = self("sh", "-c", f"busybox ping -c 2 -W 1 {address} >/dev/null 2>&1 && echo yes || echo no", check=False)
        return done.strip() == "yes"

    def socket(self, *kind: int) -> socket.socket:
        """Open a socket that stays in the namespace."""
        return within(self.descriptor, lambda: socket.socket(*kind))

    def close(self) -> None:
        """Let the kernel remove the namespace and all in it."""
        os.close(self.descriptor)


@contextlib.contextmanager
def namespaces(count: int) -> Iterator[list[Namespace]]:
    """Make namespaces and remove them at the end."""
    with contextlib.ExitStack() as stack:
        made = []
        for _ in range(count):
            made.append(Namespace())
            stack.callback(made[-1].close)
        yield made


def join(left: Namespace, left_name: str, right: Namespace, right_name: str, mtu: int = 1500) -> None:
    """Join two namespaces by a veth pair that is up."""
    left.ip(f"link add {left_name} mtu {mtu} type veth peer name {right_name} mtu {mtu} netns {right.path}")
    for namespace, name in ((left, left_name), (right, right_name)):
        namespace.ip(f"link set {name} up")


@dataclass
class Traffic:
    """What a guest's network card has seen: numbers of frames, the longest of each direction, of which kinds of segments."""

    received: int = 0
    sent: int = 0
    longest_received: int = 0
    longest_sent: int = 0
    segments_received: set[int] = field(default_factory=set)
    segments_sent: set[int] = field(default_factory=set)


class Guest:
    """This kernel's own stack in a namespace of its own, on the other end of a mirror's tap, as a guest's would be.

    Frames pass between the mirror's tap and a tap in the guest's namespace with their virtio-net headers as they are.
    """

    def __init__(self, network: Network) -> None:
        self.namespace = Namespace()
        self.traffic: dict[str, Traffic] = {}
        self._stop, self._stopper = os.pipe()
        self._pumps: dict[int, tuple[int, Traffic, bool]] = {}
        for interface in network.interfaces:
            self._plug(interface)
        self._thread = threading.Thread(target=self._pump)
        self._thread.start()
        self.connect(network)

    def _plug(self, interface: Interface) -> None:
        card = within(self.namespace.descriptor, taps.open_tap)
        name = interface.name
        self.namespace.ip(f"link set {card.name} name {name} address {interface.mac} mtu {interface.mtu}")
        traffic = self.traffic[name] = Traffic()
        for descriptor in (card.descriptor, interface.tap):
            fcntl.ioctl(descriptor, TUNSETOFFLOAD, OFFLOADS)
        self._pumps[card.descriptor] = (interface.tap, traffic, True)
        self._pumps[interface.tap] = (card.descriptor, traffic, False)

    def connect(self, network: Network) -> None:
        """Do what the agent does for Connect."""
        for interface in network.interfaces:
            self.namespace.ip(f"link set {interface.name} up")
            for address in interface.addresses:
                self.namespace("ip", "addr", "replace", address, "dev", interface.name, *_nodad(address))
        for route in network.routes:
            words = (
                f"-6 route add {route.destination or 'default'}"
                if route.ipv6
                else f"route add {route.destination or 'default'}"
            )
            words += f" via {route.gateway}" if route.gateway else ""
            words += f" dev {route.device} metric {route.metric}"
            words += f" src {route.source}" if route.source else ""
            words += f" scope {route.scope}" if not route.ipv6 else ""
            self.namespace.ip(words + (" onlink" if route.onlink else ""))
        for neighbour in network.neighbours:
            self.namespace.ip(
                f"neigh replace {neighbour.address} lladdr {neighbour.mac} dev {neighbour.device} nud permanent"
            )

    def close(self) -> None:
        """Unplug the cards and remove the namespace."""
        os.close(self._stopper)
        self._thread.join()
        os.close(self._stop)
        for descriptor, (_, _, from_guest) in self._pumps.items():
            if from_guest:
                os.close(descriptor)
        self.namespace.close()

    def _pump(self) -> None:
        poll = select.poll()
        poll.register(self._stop, select.POLLIN)
        for descriptor in self._pumps:
            poll.register(descriptor, select.POLLIN)
        while True:
            for descriptor, _ in poll.poll():
                if descriptor == self._stop:
                    return
                self._pass_on(descriptor)

    def _pass_on(self, descriptor: int) -> None:
        target, traffic, from_guest = self._pumps[descriptor]
        for _ in range(64):
            try:
                frame = os.read(descriptor, 70000)
            except BlockingIOError:
                return
            _count(traffic, frame, from_guest=from_guest)
            with contextlib.suppress(OSError):  # full, or down: a network may lose frames
                os.write(target, frame)


def _count(traffic: Traffic, frame: bytes, *, from_guest: bool) -> None:
    length, segments = len(frame) - VNET_HEADER, frame[1]
    if from_guest:
        traffic.sent += 1
        traffic.longest_sent = max(traffic.longest_sent, length)
        traffic.segments_sent.add(segments)
    else:
        traffic.received += 1
        traffic.longest_received = max(traffic.longest_received, length)
        traffic.segments_received.add(segments)


def _nodad(address: str) -> list[str]:
    return ["nodad"] if ":" in address else []


@contextlib.contextmanager
def guest(network: Network) -> Iterator[Guest]:
    """Plug a guest into a mirror."""
    made = Guest(network)
    try:
        yield made
    finally:
        made.close()


def transfer(sender: Namespace, receiver: Namespace, address: str, size: int) -> None:
    """Send random bytes over TCP to an address of `receiver`; fail unless they arrive whole within 20 s."""
    family = socket.AF_INET6 if ":" in address else socket.AF_INET
    data = os.urandom(1 << 20) * (size >> 20)
    with receiver.socket(family, socket.SOCK_STREAM) as server, sender.socket(family, socket.SOCK_STREAM) as client:
        for each in (server, client):
            each.settimeout(20)
        server.bind((address, 0))
        server.listen(1)
        thread = _in_background(lambda: _send_all(client, server.getsockname()[:2], data))
        connection, _ = server.accept()
        connection.settimeout(20)
        with connection:
            digest, length = _read_all(connection)
        thread()
    assert (length, digest) == (len(data), hashlib.sha256(data).hexdigest())


def _send_all(client: socket.socket, address: tuple[str, int], data: bytes) -> None:
    client.connect(address)
    client.sendall(data)
    client.shutdown(socket.SHUT_WR)


def _read_all(connection: socket.socket) -> tuple[str, int]:
    digest, length = hashlib.sha256(), 0
    while data := connection.recv(1 << 18):
        digest.update(data)
        length += len(data)
    return digest.hexdigest(), length


def _in_background(function: Callable[[], None]) -> Callable[[], None]:
    failures: list[BaseException] = []

    def run() -> None:
        try:
            function()
        except BaseException as error:  # noqa: BLE001 - raised where it is joined
            failures.append(error)

    thread = threading.Thread(target=run)
    thread.start()

    def joined() -> None:
        thread.join()
        if failures:
            raise failures[0]

    return joined
