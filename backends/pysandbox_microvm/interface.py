"""Which interfaces of a network namespace a guest gets, and which it cannot have."""

from __future__ import annotations

import struct

from pysandbox.errors import InvalidArgument, Unimplemented
from pysandbox.record import dataclass
from pysandbox_microvm.netlink import attributes, read_number, read_text

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Collection, Sequence

    from pysandbox_microvm.netlink import Netlink

# linux/rtnetlink.h, if_link.h, if.h, if_arp.h
RTM_GETLINK = 18
IFLA_ADDRESS, IFLA_IFNAME, IFLA_MTU, IFLA_MASTER, IFLA_LINKINFO = 1, 3, 4, 10, 18
IFLA_INFO_KIND = 1
IFF_UP, IFF_LOOPBACK = 0x1, 0x8
ARPHRD_ETHER = 1
IFNAMSIZ = 16
#: struct ifinfomsg: family, type, index, flags, changed flags.
_IFINFOMSG = struct.Struct("=BxHiII")

#: Kinds whose frames pass ingress qdiscs, and that send any frame they are given; "" is a network card.
KINDS = ("", "veth", "macvlan", "vlan", "tun")
#: Each is a network card of the machine, in a root port of its own.
MOST_INTERFACES = 8
_MOST_LINKS = 256
#: IPv4's least (RFC 791), which virtio-net refuses to go below, and a tap's most: MAX_MTU of tun.c.
_LEAST_MTU, _MOST_MTU = 68, 65521


@dataclass(frozen=True, slots=True)
class Link:
    """An interface as the kernel tells it; `master` is the index of the bridge, bond or VRF it is part of, or 0."""

    index: int
    name: str
    kind: str
    type: int
    flags: int
    mtu: int
    mac: bytes
    master: int = 0


def read_links(netlink: Netlink) -> list[Link]:
    """Return all interfaces of a namespace in the order of their indexes."""
    messages = netlink.dump(RTM_GETLINK, _IFINFOMSG.pack(0, 0, 0, 0, 0), limit=_MOST_LINKS, about="interfaces")
    return sorted((_read_link(message) for message in messages), key=lambda link: link.index)


def choose(
    links: Sequence[Link], mirrored: Sequence[Link] = (), taps: Collection[int] = ()
) -> tuple[list[Link], list[str]]:
    """Return the interfaces that a guest gets, and remarks on those that it does without.

    Left out are the loopback device, what is `mirrored` already and by which `taps` (their indexes), and what is down.
    Raises Unimplemented for an interface in use that cannot be mirrored, InvalidArgument for one that is not fit to be.
    """
    chosen, remarks = [], []
    known = {*taps, *(link.index for link in mirrored)}
    for link in links:
        if link.flags & IFF_LOOPBACK or link.index in known:
            continue
        if not link.flags & IFF_UP:
            remarks.append(f"interface {link.name} is down: the guest does without it")
            continue
        _require_mirrorable(link)
        chosen.append(link)
    _require_few([*mirrored, *chosen])
    return chosen, remarks


def mac_text(mac: bytes) -> str:
    """Return a MAC address as it is written."""
    return mac.hex(":")


def _read_link(message: bytes) -> Link:
    _family, kind_of_hardware, index, flags, _ = _IFINFOMSG.unpack_from(message)
    found = attributes(message[_IFINFOMSG.size :])
    return Link(
        index=index,
        name=read_text(found.get(IFLA_IFNAME)),
        kind=read_text(attributes(found.get(IFLA_LINKINFO, b"")).get(IFLA_INFO_KIND)),
        type=kind_of_hardware,
        flags=flags,
        mtu=read_number(found.get(IFLA_MTU)),
        mac=found.get(IFLA_ADDRESS, b""),
        master=read_number(found.get(IFLA_MASTER)),
    )


def _require_mirrorable(link: Link) -> None:
    reason = _obstacle(link)
    if reason:
        raise Unimplemented(
            f"interface {link.name}: {reason}: a guest can have veth, macvlan, vlan and tap interfaces and network"
            " cards; set it down, or use the namespaces backend"
        )
    if not _is_plain(link.name):
        raise InvalidArgument(f"interface {link.name!a}: a guest takes printable ASCII without : and %: rename it")
    if not _LEAST_MTU <= link.mtu <= _MOST_MTU:
        raise InvalidArgument(f"interface {link.name}: an MTU of {link.mtu}: a guest's is {_LEAST_MTU} to {_MOST_MTU}")


def _is_plain(name: str) -> bool:
    graphic = all("!" <= letter <= "~" and letter not in "/:%" for letter in name)
    return graphic and 0 < len(name) < IFNAMSIZ


def _obstacle(link: Link) -> str:
    if link.type != ARPHRD_ETHER or len(link.mac) != 6:
        return f"{link.kind or f'hardware type {link.type}'} carries no Ethernet frames"
    if link.master:
        return "it belongs to a bridge, bond or VRF inside the namespace"
    if link.kind not in KINDS:
        return f"of kind {link.kind}"
    if link.mac[0] & 1 or not any(link.mac):
        return f"{mac_text(link.mac)} is the address of no single interface"
    return ""


def _require_few(links: Sequence[Link]) -> None:
    if len(links) > MOST_INTERFACES:
        raise InvalidArgument(
            f"network: {len(links)} interfaces in the container's network namespace:"
            f" a guest has at most {MOST_INTERFACES}"
        )
    owners: dict[bytes, str] = {}
    for link in links:
        other = owners.setdefault(link.mac, link.name)
        if other != link.name:
            raise InvalidArgument(
                f"interfaces {other} and {link.name} have the same MAC address {mac_text(link.mac)}:"
                " a guest could not tell them apart: give each its own"
            )
