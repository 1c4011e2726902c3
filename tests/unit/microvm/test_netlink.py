"""rtnetlink messages: ours against pyroute2's, in both directions, and against bytes that are none."""

from __future__ import annotations

import _socket
import struct

import pytest
from pyroute2.netlink.rtnl.ifaddrmsg import ifaddrmsg
from pyroute2.netlink.rtnl.ndmsg import ndmsg
from pyroute2.netlink.rtnl.rtmsg import rtmsg
from pyroute2.netlink.rtnl.tcmsg import tcmsg

from pysandbox.errors import Unavailable
from pysandbox_microvm import mirror
from pysandbox_microvm.addressing import Address, Neighbour, Route, read_address, read_neighbour, read_route
from pysandbox_microvm.netlink import attribute, attributes, number, read_number, read_text, text

HEADER = 16  # struct nlmsghdr


def _decoded(body: bytes) -> tcmsg:
    message = tcmsg(struct.pack("=IHHII", HEADER + len(body), mirror.RTM_NEWTFILTER, 0, 1, 0) + body)
    message.decode()
    return message


def _encoded(message: ifaddrmsg | rtmsg | ndmsg, **fields: object) -> bytes:
    attributes = fields.pop("attrs")
    for name, value in fields.items():
        message[name] = value
    message["attrs"] = attributes
    message.encode()
    return bytes(message.data[HEADER:])


@pytest.mark.parametrize("options", [mirror.u32, mirror.matchall])
def test_pyroute2_reads_a_filter_as_a_redirection_of_everything(options: object) -> None:
    kind = options.__name__  # type: ignore[attr-defined]
    head = struct.pack("=BxxxiIII", 0, 5, 0, mirror.INGRESS_HANDLE, 1 << 16 | 0x0300)

    message = _decoded(head + options(77))  # type: ignore[operator]

    assert message.get_attr("TCA_KIND") == kind
    assert message["index"] == 5
    actions = message.get_attr("TCA_OPTIONS").get_attr({"u32": "TCA_U32_ACT", "matchall": "TCA_MATCHALL_ACT"}[kind])
    action = actions.get_attr("TCA_ACT_PRIO_1")
    assert action.get_attr("TCA_ACT_KIND") == "mirred"
    parameters = action.get_attr("TCA_ACT_OPTIONS").get_attr("TCA_MIRRED_PARMS")
    assert (parameters["ifindex"], parameters["eaction"], parameters["action"]) == (77, 1, 4)


def test_we_read_our_own_filters_too() -> None:
    head = struct.pack("=BxxxiIII", 0, 5, 0, mirror.INGRESS_HANDLE, 1 << 16 | 0x0300)

    for options in (mirror.u32(77), mirror.matchall(77)):
        assert mirror.read_redirect(head + options) == mirror.Redirect(77, ours=True)
        assert mirror.read_redirect(head + options.replace(mirror.COOKIE, b"someoneof")) == mirror.Redirect(
            77, ours=False
        )
    assert mirror.read_redirect(head + text(mirror.TCA_KIND, "u32")) is None


def test_we_read_an_address_as_pyroute2_writes_it() -> None:
    body = _encoded(
        ifaddrmsg(), family=_socket.AF_INET, prefixlen=24, index=2, flags=0x80,
        attrs=[("IFA_LOCAL", "10.9.0.2"), ("IFA_ADDRESS", "10.9.0.2"), ("IFA_FLAGS", 0x80)],
    )  # fmt: skip

    assert read_address(body) == Address(2, _socket.AF_INET, "10.9.0.2", 24)


def test_the_network_of_a_peer_is_that_of_its_address() -> None:
    body = _encoded(
        ifaddrmsg(), family=_socket.AF_INET, prefixlen=20, index=2, flags=0x80,
        attrs=[("IFA_LOCAL", "10.8.0.2"), ("IFA_ADDRESS", "10.77.31.5"), ("IFA_FLAGS", 0x80)],
    )  # fmt: skip

    assert read_address(body) == Address(2, _socket.AF_INET, "10.8.0.2", 32, "10.77.16.0/20")


@pytest.mark.parametrize("flags", [0x00, 0x88], ids=["expires", "a duplicate"])
def test_an_address_of_ipv6_that_a_guest_cannot_use_is_left_out(flags: int) -> None:
    body = _encoded(
        ifaddrmsg(), family=_socket.AF_INET6, prefixlen=64, index=2,
        attrs=[("IFA_ADDRESS", "fd00::2"), ("IFA_FLAGS", flags)],
    )  # fmt: skip

    assert read_address(body) is None


def test_we_read_a_route_as_pyroute2_writes_it() -> None:
    body = _encoded(
        rtmsg(), family=_socket.AF_INET6, dst_len=48, table=254, proto=4, type=1, scope=0, flags=4,
        attrs=[
            ("RTA_TABLE", 254), ("RTA_DST", "2001:db8::"), ("RTA_GATEWAY", "fe80::1"), ("RTA_OIF", 2),
            ("RTA_PRIORITY", 42), ("RTA_PREFSRC", "fd00::2"), ("RTA_METRICS", {"attrs": [("RTAX_MTU", 1450)]}),
        ],
    )  # fmt: skip

    assert read_route(body, _socket.AF_INET6, {2: "eth0"}) == Route(
        destination="2001:db8::/48", device="eth0", gateway="fe80::1", source="fd00::2", metric=42, onlink=True,
        ipv6=True, mtu=1450,
    )  # fmt: skip
    assert read_route(body, _socket.AF_INET6, {3: "eth1"}) is None, "of an interface that the guest has not"
    assert read_route(body, _socket.AF_INET, {2: "eth0"}) is None, "of a family that was not asked for"


def test_we_read_a_neighbour_as_pyroute2_writes_it() -> None:
    body = _encoded(
        ndmsg(), family=_socket.AF_INET, ifindex=2, state=0x80, flags=0, ndm_type=0,
        attrs=[("NDA_DST", "10.9.0.77"), ("NDA_LLADDR", "02:00:00:00:00:77")],
    )  # fmt: skip

    assert read_neighbour(body, _socket.AF_INET, {2: "eth0"}) == Neighbour("10.9.0.77", "02:00:00:00:00:77", "eth0")
    assert read_neighbour(body, _socket.AF_INET, {}) is None


def test_attributes_are_padded_and_found_again() -> None:
    data = text(3, "eth0") + number(4, 1500) + attribute(0x8000 | 18, attribute(1, b"veth\0"))

    assert len(data) % 4 == 0
    found = attributes(data)
    assert read_text(found[3]) == "eth0"
    assert read_number(found[4]) == 1500
    assert read_text(attributes(found[18])[1]) == "veth"
    assert read_number(None, 7) == read_number(b"\1", 7) == 7


@pytest.mark.parametrize("data", [b"\0\0\0\0", b"\3\0\1\0", b"\xff\0\1\0data", b"\x08\0\1\0"])
def test_an_attribute_that_lies_about_its_length_ends_the_reading(data: bytes) -> None:
    with pytest.raises(Unavailable, match="longer than its message"):
        attributes(data)
