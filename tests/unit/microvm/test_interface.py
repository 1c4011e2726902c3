"""Which interfaces a guest gets: decided from what the kernel says of them, without a kernel."""

from __future__ import annotations

import pytest

from pysandbox.errors import InvalidArgument, SandboxError, Unimplemented
from pysandbox.record import replace
from pysandbox_microvm.interface import ARPHRD_ETHER, IFF_LOOPBACK, IFF_UP, Link, choose

LO = Link(1, "lo", "", 772, IFF_UP | IFF_LOOPBACK, 65536, bytes(6))
ETH0 = Link(2, "eth0", "veth", ARPHRD_ETHER, IFF_UP, 1500, bytes.fromhex("020000000002"))


def _another(index: int) -> Link:
    return replace(ETH0, index=index, name=f"eth{index}", mac=bytes.fromhex("0200000000") + bytes([index]))


def test_the_loopback_device_is_the_guests_own() -> None:
    assert choose([LO]) == ([], [])


@pytest.mark.parametrize("kind", ["", "veth", "macvlan", "vlan", "tun"])
def test_interfaces_with_ethernet_frames_are_mirrored(kind: str) -> None:
    link = replace(ETH0, kind=kind)

    assert choose([LO, link]) == ([link], [])


def test_what_is_down_is_left_out_whatever_it_is() -> None:
    # Tunnel modules put a device into every new namespace: down, and of kinds that are refused when they are up.
    tunnel = Link(3, "sit0", "sit", 776, 0, 1480, bytes(4))

    assert choose([LO, tunnel, ETH0]) == ([ETH0], ["interface sit0 is down: the guest does without it"])


REFUSED: dict[str, tuple[dict[str, object], type[SandboxError], str]] = {
    "wireguard": ({"kind": "wireguard", "type": 65534, "mac": b""}, Unimplemented, "wireguard carries no Ethernet frames"),
    "ipvlan": ({"kind": "ipvlan"}, Unimplemented, "interface eth0: of kind ipvlan"),
    "macvtap": ({"kind": "macvtap"}, Unimplemented, "interface eth0: of kind macvtap"),
    "hardware": ({"type": 32, "mac": bytes(20), "kind": ""}, Unimplemented, "hardware type 32 carries no Ethernet frames"),
    "port": ({"master": 7}, Unimplemented, "belongs to a bridge, bond or VRF"),
    "multicast address": ({"mac": bytes.fromhex("010000000000")}, Unimplemented, "01:00:00:00:00:00"),
    "no address": ({"mac": bytes(6)}, Unimplemented, "00:00:00:00:00:00"),
    "control character": ({"name": "eth\x1b[0m"}, InvalidArgument, r"interface 'eth\\x1b\[0m': a guest takes printable ASCII"),
    "no UTF-8": ({"name": "eth\udcff"}, InvalidArgument, r"interface 'eth\\udcff': a guest takes printable ASCII"),
    "a percent sign": ({"name": "eth%d"}, InvalidArgument, "interface 'eth%d': a guest takes printable ASCII"),
    "huge MTU": ({"mtu": 65535}, InvalidArgument, "an MTU of 65535: a guest's is 68 to 65521"),
}  # fmt: skip


@pytest.mark.parametrize("case", REFUSED)
def test_what_cannot_be_mirrored_is_refused_by_name(case: str) -> None:
    changes, error, text = REFUSED[case]

    with pytest.raises(error, match=text):
        choose([LO, replace(ETH0, **changes)])


def test_what_is_mirrored_already_is_not_chosen_again() -> None:
    assert choose([LO, ETH0, _another(3), _another(4)], mirrored=[ETH0], taps=[4]) == ([_another(3)], [])


def test_those_mirrored_already_count() -> None:
    eight = [_another(index) for index in range(2, 10)]
    assert len(choose(eight)[0]) == 8

    with pytest.raises(
        InvalidArgument, match="9 interfaces in the container's network namespace: a guest has at most 8"
    ):
        choose([*eight, _another(10)], mirrored=eight)
    with pytest.raises(InvalidArgument, match="eth2 and eth9 have the same MAC address 02:00:00:00:00:02"):
        choose([_another(2), replace(_another(9), mac=_another(2).mac)], mirrored=[_another(2)])
