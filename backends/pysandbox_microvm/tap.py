"""Tap devices: an Ethernet interface of the host whose other end is a descriptor, for QEMU to read and write frames."""

from __future__ import annotations

import _socket
import errno
import fcntl
import os
import struct

from pysandbox.errors import Unavailable
from pysandbox.record import dataclass
from pysandbox_microvm.netlink import attribute, number

TYPE_CHECKING = False
if TYPE_CHECKING:
    from pysandbox_microvm.netlink import Netlink

DEVICE = "/dev/net/tun"

# linux/if_tun.h. IFF_NO_PI: a frame and nothing before it, but with IFF_VNET_HDR a struct virtio_net_hdr: by it large
# segments and checksums that are still to be made pass between the guest and the host's stack as they are.
TUNSETIFF = 0x400454CA
IFF_TAP, IFF_NO_PI, IFF_VNET_HDR = 0x0002, 0x1000, 0x4000
#: The kernel puts the lowest free number in.
_NAME = b"psb%d"
#: struct ifreq: a name and, here, flags.
_IFREQ = struct.Struct("16sH22x")

# linux/rtnetlink.h, if_link.h
RTM_NEWLINK = 16
IFF_UP, IFF_NOARP = 0x1, 0x80
IFLA_MTU, IFLA_AF_SPEC = 4, 26
IFLA_INET6_ADDR_GEN_MODE = 8
IN6_ADDR_GEN_MODE_NONE = 1
_IFINFOMSG = struct.Struct("=BxHiII")


@dataclass(frozen=True, slots=True)
class Tap:
    """A tap: it is gone as soon as nobody holds its descriptor."""

    descriptor: int
    name: str
    index: int


def open_tap() -> Tap:
    """Make a tap in the calling thread's network namespace: down, with one queue. Raises Unavailable, OSError."""
    try:
        descriptor = os.open(DEVICE, os.O_RDWR | os.O_NONBLOCK | os.O_CLOEXEC)
    except OSError as error:
        if error.errno in (errno.ENOENT, errno.ENODEV, errno.ENXIO):
            raise Unavailable(f"network: {DEVICE}: {error.strerror}: load the module tun") from None
        raise
    try:
        answer = fcntl.ioctl(descriptor, TUNSETIFF, _IFREQ.pack(_NAME, IFF_TAP | IFF_NO_PI | IFF_VNET_HDR))
        name = _IFREQ.unpack(answer)[0].rstrip(b"\0").decode()
        return Tap(descriptor, name, _socket.if_nametoindex(name))
    except OSError as error:
        os.close(descriptor)
        raise OSError(error.errno, f"network: cannot make a tap: {error.strerror}") from None


def set_up(netlink: Netlink, tap: Tap, mtu: int) -> None:
    """Bring a tap up. The host's own stack says nothing on it: no address, so no neighbour discovery, no ARP."""
    quiet = attribute(_socket.AF_INET6, attribute(IFLA_INET6_ADDR_GEN_MODE, bytes([IN6_ADDR_GEN_MODE_NONE])))
    link = number(IFLA_MTU, mtu) + attribute(IFLA_AF_SPEC, quiet)
    about = f"tap {tap.name}"
    try:
        netlink.request(RTM_NEWLINK, _IFINFOMSG.pack(0, 0, tap.index, IFF_NOARP, IFF_NOARP) + link, about=about)
    except OSError as error:
        if error.errno not in (errno.EAFNOSUPPORT, errno.EOPNOTSUPP):
            raise
        # A host without IPv6 has nothing to be told of it.
        body = _IFINFOMSG.pack(0, 0, tap.index, IFF_NOARP, IFF_NOARP) + number(IFLA_MTU, mtu)
        netlink.request(RTM_NEWLINK, body, about=about)
    netlink.request(RTM_NEWLINK, _IFINFOMSG.pack(0, 0, tap.index, IFF_UP, IFF_UP), about=about)
