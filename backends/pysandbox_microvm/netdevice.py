"""`linux.netDevices` of runtime-spec 1.3: network devices that move into the container's network namespace.

There they are mirrored like any other: the guest has them, under the name that the spec gives them. The kernel gives
network cards back to the host when the namespace ends.
"""

from __future__ import annotations

import _socket
import struct
from functools import partial

from pysandbox.errors import AlreadyExists, InvalidArgument
from pysandbox_microvm.addressing import (
    IFA_ADDRESS,
    IFA_F_PERMANENT,
    IFA_FLAGS,
    IFA_LOCAL,
    MOST_ADDRESSES,
    RTM_GETADDR,
)
from pysandbox_microvm.interface import IFLA_IFNAME
from pysandbox_microvm.netlink import (
    NLM_F_CREATE,
    NLM_F_EXCL,
    Netlink,
    attribute,
    attributes,
    number,
    read_number,
    text,
)
from pysandbox_microvm.netns import within
from pysandbox_microvm.tap import IFF_UP, RTM_NEWLINK

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Mapping

    from pysandbox.oci.types import NetDevice

# linux/rtnetlink.h, if_link.h
RTM_NEWADDR = 20
IFLA_NET_NS_FD = 28
RT_SCOPE_UNIVERSE = 0
_IFADDRMSG = struct.Struct("=BBBBI")
_IFINFOMSG = struct.Struct("=BxHiII")


def move_devices(devices: Mapping[str, NetDevice], namespace: int) -> None:
    """Move devices of this thread's network namespace into another, with the addresses that they were given, and up.

    Raises InvalidArgument where there is no such device, AlreadyExists where its new name is taken, OSError. Those that
    were moved before one that cannot be stay there, as under runc: the namespace ends with the container.
    """
    if not devices:
        return
    host, container = Netlink(), within(namespace, Netlink)
    try:
        indexes = {name: _index(name) for name in devices}
        for name, device in devices.items():
            new_name = device.get("name") or name
            addresses = _addresses(host, indexes[name])
            _require_free(name, new_name, namespace)
            _move(host, indexes[name], name, namespace, new_name)
            _set_up(container, _index_within(namespace, new_name), new_name, addresses)
    finally:
        host.close()
        container.close()


def _index_within(namespace: int, name: str) -> int:
    return within(namespace, partial(_socket.if_nametoindex, name))


def _require_free(name: str, new_name: str, namespace: int) -> None:
    """Look before the move: the kernel moves the device, and then fails to give it a name that is taken."""
    try:
        _index_within(namespace, new_name)
    except OSError:
        return
    raise AlreadyExists(f"linux.netDevices[{name}]: the container's network namespace has a {new_name} already")


def _index(name: str) -> int:
    try:
        return _socket.if_nametoindex(name)
    except OSError:
        raise InvalidArgument(f"linux.netDevices[{name}]: no such device in the runtime's network namespace") from None


def _addresses(host: Netlink, index: int) -> list[bytes]:
    """Return the bodies of a device's permanent global addresses."""
    body = _IFADDRMSG.pack(_socket.AF_UNSPEC, 0, 0, 0, 0)
    messages = host.dump(RTM_GETADDR, body, limit=16 * MOST_ADDRESSES, about="addresses of the host")
    return [message for message in messages if _moves(message, index)]


def _moves(message: bytes, index: int) -> bool:
    _family, _prefix, low_flags, scope, of = _IFADDRMSG.unpack_from(message)
    flags = read_number(attributes(message[_IFADDRMSG.size :]).get(IFA_FLAGS), low_flags)
    return of == index and scope == RT_SCOPE_UNIVERSE and bool(flags & IFA_F_PERMANENT)


def _move(host: Netlink, index: int, name: str, namespace: int, new_name: str) -> None:
    about = f"linux.netDevices[{name}]"
    host.request(RTM_NEWLINK, _IFINFOMSG.pack(0, 0, index, 0, IFF_UP), about=about)  # down: else it keeps its name
    target = number(IFLA_NET_NS_FD, namespace) + text(IFLA_IFNAME, new_name)
    host.request(RTM_NEWLINK, _IFINFOMSG.pack(0, 0, index, 0, 0) + target, about=about)


def _set_up(container: Netlink, index: int, name: str, addresses: list[bytes]) -> None:
    for message in addresses:
        family, prefix, flags, scope, _ = _IFADDRMSG.unpack_from(message)
        found = attributes(message[_IFADDRMSG.size :])
        kept = b"".join(attribute(kind, found[kind]) for kind in (IFA_ADDRESS, IFA_LOCAL, IFA_FLAGS) if kind in found)
        body = _IFADDRMSG.pack(family, prefix, flags, scope, index) + kept
        container.request(RTM_NEWADDR, body, NLM_F_CREATE | NLM_F_EXCL, about=f"address of {name}")
    container.request(RTM_NEWLINK, _IFINFOMSG.pack(0, 0, index, IFF_UP, IFF_UP), about=f"device {name}")
