"""The addresses, routes and neighbours that a guest takes over from the interfaces of a network namespace.

A guest's kernel makes the route to an address's own network itself, as the host's did; all others of the main table are
handed over. What the kernel learned from the network is not: redirects and resolved neighbours the guest learns for
itself, and of router advertisements it hears nothing, as every pod should not (CVE-2020-10749).
"""

from __future__ import annotations

import _socket
import errno
import struct

from pysandbox.errors import InvalidArgument, Unimplemented
from pysandbox.record import dataclass
from pysandbox_microvm.interface import mac_text
from pysandbox_microvm.netlink import attributes, read_number

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Collection, Mapping, Sequence

    from pysandbox_microvm.netlink import Netlink

AF_INET, AF_INET6 = int(_socket.AF_INET), int(_socket.AF_INET6)

# linux/rtnetlink.h, if_addr.h, neighbour.h
RTM_GETADDR, RTM_GETROUTE, RTM_GETNEIGH = 22, 26, 30
IFA_ADDRESS, IFA_LOCAL, IFA_FLAGS = 1, 2, 8
IFA_F_DADFAILED, IFA_F_PERMANENT, IFA_F_NOPREFIXROUTE = 0x08, 0x80, 0x200
RT_TABLE_MAIN = 254
RTPROT_REDIRECT, RTPROT_KERNEL, RTPROT_RA = 1, 2, 9
RT_SCOPE_LINK = 253
RTN_UNICAST, RTN_BLACKHOLE, RTN_UNREACHABLE, RTN_PROHIBIT = 1, 6, 7, 8
RTNH_F_ONLINK, RTM_F_CLONED = 0x4, 0x200
RTA_DST, RTA_SRC, RTA_OIF, RTA_GATEWAY, RTA_PRIORITY, RTA_PREFSRC, RTA_METRICS = 1, 2, 4, 5, 6, 7, 8
RTA_MULTIPATH, RTA_TABLE, RTA_VIA, RTA_ENCAP = 9, 15, 18, 22
RTAX_MTU = 2
NUD_PERMANENT, NTF_PROXY = 0x80, 0x08
NDA_DST, NDA_LLADDR = 1, 2
#: struct ifaddrmsg: family, prefix length, flags, scope, interface.
_IFADDRMSG = struct.Struct("=BBBBI")
#: struct rtmsg: family, lengths of destination and source, TOS, table, protocol, scope, type, flags.
_RTMSG = struct.Struct("=BBBBBBBBI")
#: struct ndmsg: family, interface, state, flags, type.
_NDMSG = struct.Struct("=BxxxiHBB")

MOST_ADDRESSES = 256
MOST_ROUTES = 512
MOST_NEIGHBOURS = 512
#: Of a dump: most of them are no permanent ones.
_MOST_CACHED = 8192

_BITS = {AF_INET: 32, AF_INET6: 128}


@dataclass(frozen=True, slots=True)
class Address:
    """An address of an interface, with the length of the network that is reached through it.

    `peer` is the network at the other end of a point-to-point address, as ADDRESS/PREFIX, else empty.
    """

    interface: int
    family: int
    address: str
    prefix: int
    peer: str = ""

    def __str__(self) -> str:
        return f"{self.address}/{self.prefix}"


@dataclass(frozen=True, slots=True, kw_only=True)
class Route:
    """A route. `destination` is ADDRESS/PREFIX, empty for the default route; `mtu` is 0 for the interface's own."""

    destination: str
    device: str
    gateway: str = ""
    source: str = ""
    scope: int = 0
    metric: int = 0
    onlink: bool = False
    ipv6: bool = False
    mtu: int = 0


@dataclass(frozen=True, slots=True)
class Neighbour:
    """The MAC address of a neighbour that is not to be asked for."""

    address: str
    mac: str
    device: str


def read_addresses(netlink: Netlink) -> list[Address]:
    """Return the addresses of all interfaces, in the kernel's order. Raises InvalidArgument for too many."""
    found = []
    for family in _BITS:
        body = _IFADDRMSG.pack(family, 0, 0, 0, 0)
        messages = netlink.dump(RTM_GETADDR, body, limit=MOST_ADDRESSES, about="addresses")
        found += [address for message in messages if (address := read_address(message)) and address.family == family]
    return found


def read_address(message: bytes) -> Address | None:
    """Read the body of an address: None if a guest has to get it itself, or cannot use it.

    Those of IPv6 that expire came with router advertisements; those of IPv4 were leased by somebody who renews them.
    """
    family, prefix, low_flags, _scope, index = _IFADDRMSG.unpack_from(message)
    found = attributes(message[_IFADDRMSG.size :])
    flags = read_number(found.get(IFA_FLAGS), low_flags)
    local = found.get(IFA_LOCAL) or found.get(IFA_ADDRESS)
    if family not in _BITS or local is None or flags & IFA_F_DADFAILED:
        return None
    if family == AF_INET6 and not flags & IFA_F_PERMANENT:
        return None
    other = found.get(IFA_ADDRESS, local)
    peer = "" if other == local else f"{_text(family, _network(other, prefix))}/{prefix}"
    if peer or flags & IFA_F_NOPREFIXROUTE:
        # No route comes with it: neither does one with an address that is a network of its own.
        prefix = _BITS[family]
    return Address(index, family, _text(family, local), prefix, peer)


def read_routes(netlink: Netlink, names: Mapping[int, str], addresses: Sequence[Address]) -> list[Route]:
    """Return the routes of the main table through the interfaces in `names` (by index).

    Those without a gateway come first, as the kernel refuses a gateway that it cannot reach. Raises InvalidArgument for
    too many, Unimplemented for one that is more than a destination, a gateway and a device.
    """
    peers = {(address.interface, address.peer) for address in addresses if address.peer}
    found = []
    for family in _BITS:
        messages = _main_table(netlink, family)
        found += [route for message in messages if (route := read_route(message, family, names, peers)) is not None]
    return sorted(found, key=lambda route: bool(route.gateway))


def _main_table(netlink: Netlink, family: int) -> list[bytes]:
    body = _RTMSG.pack(family, 0, 0, 0, RT_TABLE_MAIN, 0, 0, 0, 0)
    try:
        return netlink.dump(RTM_GETROUTE, body, limit=MOST_ROUTES, about="routes")
    except OSError as error:
        if error.errno == errno.ENOENT:
            return []  # nobody has made a route in that table yet
        raise


def read_route(
    message: bytes, family: int, names: Mapping[int, str], peers: Collection[tuple[int, str]] = ()
) -> Route | None:
    """Read the body of a route: None if the guest has no part in it, or makes it itself.

    Of those that the kernel made for an address, it does not make one to a point-to-point peer.
    """
    of, length, source_length, tos, table, protocol, scope, kind, flags = _RTMSG.unpack_from(message)
    found = attributes(message[_RTMSG.size :])
    if of != family or read_number(found.get(RTA_TABLE), table) != RT_TABLE_MAIN or flags & RTM_F_CLONED:
        return None
    destination = f"{_text(family, found[RTA_DST])}/{length}" if RTA_DST in found and length else ""
    refused = _refusal(found, kind, source_length, tos)
    if protocol in (RTPROT_REDIRECT, RTPROT_RA) or (refused and protocol == RTPROT_KERNEL):
        return None
    if refused:
        raise Unimplemented(
            f"network: route {destination or 'default'}: {refused}: a guest's routes have one device and at most one"
            " gateway of the same family"
        )
    index = read_number(found.get(RTA_OIF))
    if index not in names or (protocol == RTPROT_KERNEL and (index, destination) not in peers):
        return None
    gateway, source = found.get(RTA_GATEWAY), found.get(RTA_PREFSRC)
    return Route(
        destination=destination,
        device=names[index],
        gateway=_text(family, gateway) if gateway else "",
        source=_text(family, source) if source else "",
        scope=scope,
        metric=read_number(found.get(RTA_PRIORITY)),
        onlink=bool(flags & RTNH_F_ONLINK),
        ipv6=family == AF_INET6,
        mtu=read_number(attributes(found.get(RTA_METRICS, b"")).get(RTAX_MTU)),
    )


def _refusal(found: Mapping[int, bytes], kind: int, source_length: int, tos: int) -> str:
    if kind != RTN_UNICAST:
        return {RTN_BLACKHOLE: "blackhole", RTN_UNREACHABLE: "unreachable", RTN_PROHIBIT: "prohibit"}.get(
            kind, f"type {kind}"
        )
    if RTA_MULTIPATH in found:
        return "several next hops"
    if RTA_VIA in found:
        return "a gateway of another family"
    if RTA_ENCAP in found:
        return "it encapsulates"
    if source_length:
        return "only for some sources"
    return "only for one type of service" if tos else ""


def read_neighbours(netlink: Netlink, names: Mapping[int, str]) -> list[Neighbour]:
    """Return the permanent neighbours at the interfaces in `names`. Raises InvalidArgument for too many."""
    found = []
    for family in _BITS:
        body = _NDMSG.pack(family, 0, 0, 0, 0)
        messages = netlink.dump(RTM_GETNEIGH, body, limit=_MOST_CACHED, about="neighbours")
        found += [each for message in messages if (each := read_neighbour(message, family, names)) is not None]
    if len(found) > MOST_NEIGHBOURS:
        raise InvalidArgument(
            f"network: {len(found)} permanent neighbours: a guest takes over at most {MOST_NEIGHBOURS}"
        )
    return found


def read_neighbour(message: bytes, family: int, names: Mapping[int, str]) -> Neighbour | None:
    """Read the body of a neighbour: None if it is not permanent, or at no interface of the guest's."""
    of, index, state, flags, _type = _NDMSG.unpack_from(message)
    found = attributes(message[_NDMSG.size :])
    address, mac = found.get(NDA_DST), found.get(NDA_LLADDR, b"")
    if of != family or address is None or not state & NUD_PERMANENT or flags & NTF_PROXY or index not in names:
        return None
    return Neighbour(_text(family, address), mac_text(mac), names[index]) if len(mac) == 6 else None


def _network(address: bytes, prefix: int) -> bytes:
    bits = len(address) * 8
    mask = (1 << bits) - (1 << (bits - prefix))
    return (int.from_bytes(address) & mask).to_bytes(len(address))


def _text(family: int, address: bytes) -> str:
    return _socket.inet_ntop(family, address[: _BITS[family] // 8])
