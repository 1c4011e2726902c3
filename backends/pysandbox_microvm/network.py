"""A sandbox's network: each interface of its network namespace mirrored by a tap, and what its guest is told of them.

```python
network = Network.mirror(namespace)  # or Network.begin(namespace), and .result() when the machine runs
for interface in network.interfaces:
    machine.plug_network(interface.tap, interface.mac, interface.mtu)
agent.connect(*network.parts())
...
network.close()
```

A namespace with nothing but its loopback device costs one look. `docs/network.md` tells what is mirrored.
"""

from __future__ import annotations

import os

from pysandbox.record import dataclass
from pysandbox_microvm.addressing import read_addresses, read_neighbours, read_routes
from pysandbox_microvm.interface import choose, mac_text, read_links
from pysandbox_microvm.mirror import end_redirect, redirect, remove_stale
from pysandbox_microvm.netlink import Netlink
from pysandbox_microvm.netns import begin_thread, claim, is_network, within
from pysandbox_microvm.tap import open_tap, set_up

TYPE_CHECKING = False
if TYPE_CHECKING:
    from _socket import socket
    from collections.abc import Sequence

    from pysandbox_microvm import addressing
    from pysandbox_microvm.interface import Link
    from pysandbox_microvm.messages import agent as messages
    from pysandbox_microvm.tap import Tap


@dataclass(frozen=True, slots=True)
class Interface:
    """An interface that the guest has in the host's place: `tap` is the descriptor that QEMU gets a copy of."""

    name: str
    mac: str
    mtu: int
    addresses: tuple[str, ...]
    tap: int


class Network:
    """What is mirrored of one network namespace. `remarks` are lines for the log."""

    def __init__(self) -> None:
        self.interfaces: tuple[Interface, ...] = ()
        self.routes: tuple[addressing.Route, ...] = ()
        self.neighbours: tuple[addressing.Neighbour, ...] = ()
        self.remarks: tuple[str, ...] = ()
        self._mirrored: list[tuple[Link, Tap]] = []
        self._netlink: Netlink | None = None
        self._claim: socket | None = None

    @classmethod
    def mirror(cls, namespace: int) -> Network:
        """Mirror the interfaces of a network namespace (its descriptor). Where it fails, nothing of it is left.

        Raises Unimplemented and InvalidArgument for an interface that a guest cannot have, FailedPrecondition for one
        that is redirected already or a namespace that another sandbox has, Unavailable for what the kernel lacks,
        OSError.
        """
        network = cls()
        try:
            network.rescan(namespace)
        except BaseException:
            network.close()
            raise
        return network

    @classmethod
    def begin(cls, namespace: int) -> Mirroring:
        """Begin to mirror on a thread of its own, while something else takes its time."""
        return Mirroring(namespace)

    def rescan(self, namespace: int) -> tuple[Interface, ...]:
        """Mirror what has appeared in the namespace since the last look, and return that.

        Addresses, routes and neighbours are read anew, those of known interfaces too.
        """
        return within(namespace, self._scan)

    def parts(self) -> tuple[list[messages.Interface], list[messages.Route], list[messages.Neighbour]]:
        """Return what the agent's Connect takes."""
        from pysandbox_microvm.messages import agent as messages

        interfaces = [
            messages.Interface(mac=each.mac, name=each.name, mtu=each.mtu, addresses=list(each.addresses))
            for each in self.interfaces
        ]
        routes = [_route_message(route) for route in self.routes]
        neighbours = [
            messages.Neighbour(address=each.address, mac=each.mac, device=each.device) for each in self.neighbours
        ]
        return interfaces, routes, neighbours

    def close(self) -> None:
        """Give the interfaces back to the host's stack and drop the taps. Every step is tried. Raises OSError."""
        self.interfaces = ()
        try:
            self._drop_from(0)
        finally:
            for held in (self._netlink, self._claim):
                if held is not None:
                    held.close()
            self._netlink = self._claim = None

    def _scan(self) -> tuple[Interface, ...]:
        self._claim = self._claim or claim()
        netlink = self._netlink = self._netlink or Netlink()
        mirrored = [link for link, _ in self._mirrored]
        chosen, remarks = choose(read_links(netlink), mirrored, [tap.index for _, tap in self._mirrored])
        if mirrored or chosen:
            self._take_over(netlink, chosen)
        remarks += [_own_mtu(route) for route in self.routes if route.mtu]
        self.remarks += tuple(remark for remark in remarks if remark not in self.remarks)
        return self.interfaces[len(mirrored) :]

    def _take_over(self, netlink: Netlink, chosen: Sequence[Link]) -> None:
        before = len(self._mirrored)
        names = {link.index: link.name for link in (*(link for link, _ in self._mirrored), *chosen)}
        addresses = read_addresses(netlink)
        routes, neighbours = read_routes(netlink, names, addresses), read_neighbours(netlink, names)
        try:
            for link in chosen:
                self._mirrored.append((link, _mirror(netlink, link)))
        except BaseException:
            self._drop_from(before)
            raise
        self.interfaces = tuple(_interface(link, tap, addresses) for link, tap in self._mirrored)
        self.routes, self.neighbours = tuple(routes), tuple(neighbours)

    def _drop_from(self, first: int) -> None:
        failure: OSError | None = None
        while len(self._mirrored) > first:
            link, tap = self._mirrored.pop()
            try:
                if self._netlink is not None:
                    end_redirect(self._netlink, link.index, tap.index, link.name)
            except OSError as error:
                failure = failure or error
            finally:
                os.close(tap.descriptor)
        if failure is not None:
            raise failure


class Mirroring:
    """A namespace that is being mirrored on a thread of its own."""

    def __init__(self, namespace: int) -> None:
        self._namespace = namespace
        self._outcome = begin_thread(lambda: Network.mirror(namespace))

    def result(self) -> Network:
        """Wait for the network, or raise what mirroring it raised. The kernel's answers have a limit (`netlink`)."""
        return self._outcome()


def remove_leftovers(namespace: int) -> int:
    """Remove the redirections of sandboxes that died without closing, whose taps are gone; return how many there were.

    Until then their interfaces swallow what arrives. A next sandbox in the namespace does this by itself.
    """
    return within(namespace, _remove_leftovers)


def remove_leftovers_at(path: str) -> None:
    """Do so in the network namespace at a path, where there still is one. Raises OSError."""
    try:
        namespace = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
    except OSError:
        return
    try:
        if is_network(namespace):
            remove_leftovers(namespace)
    finally:
        os.close(namespace)


def _remove_leftovers() -> int:
    netlink = Netlink()
    try:
        return sum(remove_stale(netlink, link.index, link.name) for link in read_links(netlink))
    finally:
        netlink.close()


def _mirror(netlink: Netlink, link: Link) -> Tap:
    """Return a tap that gets what arrives at an interface, and whose frames leave through it."""
    tap = open_tap()
    try:
        redirect(netlink, tap.index, link.index, tap.name)
        set_up(netlink, tap, link.mtu)
        redirect(netlink, link.index, tap.index, link.name)
    except BaseException:
        os.close(tap.descriptor)
        raise
    return tap


def _interface(link: Link, tap: Tap, addresses: Sequence[addressing.Address]) -> Interface:
    own = tuple(str(address) for address in addresses if address.interface == link.index)
    return Interface(link.name, mac_text(link.mac), link.mtu, own, tap.descriptor)


def _own_mtu(route: addressing.Route) -> str:
    return f"route {route.destination or 'default'}: its MTU of {route.mtu} is not the guest's: {route.device}'s counts"


def _route_message(route: addressing.Route) -> messages.Route:
    from pysandbox_microvm.messages import agent as messages

    return messages.Route(
        destination=route.destination,
        gateway=route.gateway,
        source=route.source,
        device=route.device,
        scope=route.scope,
        metric=route.metric,
        onlink=route.onlink,
        ipv6=route.ipv6,
    )
