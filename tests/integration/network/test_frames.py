"""Frames between a mirrored interface and the guest that has it: each way, whole, and past the host's stack."""

from __future__ import annotations

import os
import random
import select
import socket
import struct
import time
from typing import TYPE_CHECKING

import pytest
from networks import VNET_HEADER, Namespace, guest, transfer

if TYPE_CHECKING:
    from collections.abc import Callable

    from pysandbox_microvm.network import Network

    Mirror = Callable[[Namespace], Network]

POD4, POD6, HOST4, HOST6 = "10.9.0.2", "fd00:9::2", "10.9.0.1", "fd00:9::1"
MEBIBYTE = 1 << 20
ETH_P_ALL = 0x0003
#: virtio-net's kinds of large segments: none, TCP over IPv4, TCP over IPv6.
GSO_TCPV4, GSO_TCPV6 = 1, 4
#: PACKET_AUXDATA of packet(7), in which the kernel tells the tag that it took off a frame.
SOL_PACKET, PACKET_AUXDATA = 263, 8


def test_nothing_of_the_host_answers_in_the_guests_stead(pod: Namespace, host: Namespace, mirror: Mirror) -> None:
    assert host.can_ping(POD4), "the host's stack has the address until it is mirrored"
    assert host.can_ping(POD6)
    host.ip("neigh flush all")
    pod.ip("neigh flush all")  # whose stack would ask whether the host is still there

    network = mirror(pod)

    assert not host.can_ping(POD4)
    assert not host.can_ping(POD6)
    neighbours = host.ip("neigh show")
    assert "lladdr" not in neighbours, "nobody answered ARP or neighbour discovery"
    network.close()
    assert host.can_ping(POD4), "and the host's stack has it again"
    assert host.can_ping(POD6)


def test_guest_and_host_reach_each_other(pod: Namespace, host: Namespace, mirror: Mirror) -> None:
    network = mirror(pod)

    with guest(network) as vm:
        assert host.can_ping(POD4)
        assert host.can_ping(POD6)
        assert vm.namespace.can_ping(HOST4)
        assert vm.namespace.can_ping(HOST6)
        mac = network.interfaces[0].mac
        assert f"{POD4} dev veth0 lladdr {mac}" in host.ip("neigh show")
        assert f"{POD6} dev veth0 lladdr {mac}" in host.ip("neigh show")


@pytest.mark.parametrize("mtu", [1400, 1500, 9000])
@pytest.mark.parametrize(("pod_address", "host_address"), [(POD4, HOST4), (POD6, HOST6)], ids=["ipv4", "ipv6"])
def test_tcp_passes_whole_and_in_large_segments(
    pod: Namespace, host: Namespace, mirror: Mirror, mtu: int, pod_address: str, host_address: str
) -> None:
    pod.ip(f"link set eth0 mtu {mtu}")
    host.ip(f"link set veth0 mtu {mtu}")
    network = mirror(pod)
    assert network.interfaces[0].mtu == mtu

    with guest(network) as vm:
        transfer(host, vm.namespace, pod_address, 16 * MEBIBYTE)
        transfer(vm.namespace, host, host_address, 16 * MEBIBYTE)
        traffic = vm.traffic["eth0"]

    assert traffic.longest_received > 2 * mtu, "segments reach the guest unsplit"
    assert traffic.longest_sent > 2 * mtu, "and leave it so"
    kind = GSO_TCPV4 if pod_address == POD4 else GSO_TCPV6
    assert kind in traffic.segments_received
    assert kind in traffic.segments_sent


def test_the_default_route_leads_out_of_the_guest(pod: Namespace, host: Namespace, mirror: Mirror) -> None:
    host.ip("addr add 192.0.2.1/32 dev lo")
    host.ip("addr add 2001:db8::1/128 dev lo nodad")
    network = mirror(pod)

    with guest(network) as vm:
        assert vm.namespace.can_ping("192.0.2.1")
        assert vm.namespace.can_ping("2001:db8::1")


def test_the_tap_itself_is_silent(pod: Namespace, host: Namespace, mirror: Mirror) -> None:
    # What the host's stack would say of itself on a new interface: multicast reports, router solicitations, DAD.
    host.ip("link set veth0 down")
    network = mirror(pod)

    deadline = time.monotonic() + 1.5

    assert not _frames(network.interfaces[0].tap, deadline)


def test_a_tagged_frame_keeps_its_tag_both_ways(pod: Namespace, host: Namespace, mirror: Mirror) -> None:
    tap = mirror(pod).interfaces[0].tap
    frame = bytes.fromhex("ffffffffffff 020000000042 8100 0007 88b5") + bytes(range(46))

    with host.socket(socket.AF_PACKET, socket.SOCK_RAW, socket.htons(ETH_P_ALL)) as wire:
        wire.setsockopt(SOL_PACKET, PACKET_AUXDATA, 1)
        wire.bind(("veth0", 0))
        wire.settimeout(5)
        wire.send(frame)
        assert frame in _frames(tap, time.monotonic() + 5, until=frame)

        answer = frame.replace(bytes.fromhex("020000000042"), bytes.fromhex("020000000043"), 1)
        os.write(tap, bytes(VNET_HEADER) + answer)
        received, tag = _receive_from(wire, bytes.fromhex("020000000043"))

    assert received == answer[:12] + answer[16:]
    assert tag == 7


@pytest.mark.parametrize("length", [14, 15, 17, 18, 60])
def test_no_frame_is_too_short_to_be_redirected(pod: Namespace, host: Namespace, mirror: Mirror, length: int) -> None:
    # A filter that looks at a frame's first bytes lets shorter ones pass, to the host's stack.
    tap = mirror(pod).interfaces[0].tap
    source = bytes.fromhex("020000000044")
    frame = (bytes.fromhex("ffffffffffff") + source + bytes.fromhex("88b5") + bytes(64))[:length]

    with host.socket(socket.AF_PACKET, socket.SOCK_RAW, socket.htons(ETH_P_ALL)) as wire:
        wire.bind(("veth0", 0))
        wire.settimeout(5)
        os.write(tap, bytes(VNET_HEADER) + frame)

        assert _receive_from(wire, source)[0][:length] == frame


def test_an_interface_without_a_peer_in_reach_is_mirrored_too(
    pair: tuple[Namespace, Namespace], mirror: Mirror
) -> None:
    pod, host = pair
    host.ip("link add uplink type veth peer name gateway")
    for name in ("uplink", "gateway"):
        host.ip(f"link set {name} up")
    host.ip(f"addr add {HOST4}/24 dev gateway")
    host.ip(f"link add link uplink name eth0 netns {pod.path} type macvlan mode bridge")
    pod.ip("link set eth0 up")
    pod.ip(f"addr add {POD4}/24 dev eth0")

    with guest(mirror(pod)) as vm:
        assert vm.namespace.can_ping(HOST4)
        transfer(vm.namespace, host, HOST4, MEBIBYTE)
        transfer(host, vm.namespace, POD4, MEBIBYTE)


def _datagram(target: str, address: str, port: int) -> bytes:
    """Return an Ethernet frame to the MAC address `target` with an empty UDP datagram for an address and a port."""
    udp = struct.pack(">HHHH", 4000, port, 8, 0)
    source, destination = socket.inet_aton(HOST4), socket.inet_aton(address)
    header = struct.pack(">BBHHHBBH4s4s", 0x45, 0, 28, 0, 0, 64, socket.IPPROTO_UDP, 0, source, destination)
    total = sum(struct.unpack(">10H", header))
    checksum = ~(total + (total >> 16)) & 0xFFFF
    header = header[:10] + struct.pack(">H", checksum) + header[12:]
    return bytes.fromhex(target.replace(":", "")) + bytes.fromhex("020000000045 0800") + header + udp


def test_a_guest_cannot_speak_to_the_hosts_stack_in_its_namespace(
    pod: Namespace, host: Namespace, mirror: Mirror
) -> None:
    with (
        pod.socket(socket.AF_INET, socket.SOCK_DGRAM) as listener,
        host.socket(socket.AF_PACKET, socket.SOCK_RAW, socket.htons(ETH_P_ALL)) as wire,
    ):
        listener.bind((POD4, 4321))
        listener.settimeout(5)
        wire.bind(("veth0", 0))
        wire.settimeout(5)
        pod.ip("link set eth0 address 02:00:00:00:09:02")
        frame = _datagram("02:00:00:00:09:02", POD4, 4321)
        wire.send(frame)
        assert listener.recv(100) == b"", "so it is heard while the interface is the host's"

        tap = mirror(pod).interfaces[0].tap
        listener.settimeout(1)
        wire.send(frame)
        os.write(tap, bytes(VNET_HEADER) + frame)

        with pytest.raises(TimeoutError):
            listener.recv(100)
        assert _receive_from(wire, bytes.fromhex("020000000045"))[0] == frame, "it went out instead"


def test_nonsense_of_a_guest_stops_nobody(pod: Namespace, host: Namespace, mirror: Mirror) -> None:
    # Whatever virtio-net header a guest makes up reaches the host's tap driver through QEMU.
    network = mirror(pod)
    tap = network.interfaces[0].tap
    chance = random.Random(45)
    refused = 0
    for _ in range(3000):
        header = bytes([chance.choice([0, 1, 2, 3, 255]), chance.choice([0, 1, 3, 4, 5, 0x81, 255])])
        header += chance.randbytes(8) if chance.random() < 0.7 else bytes(8)
        try:
            os.write(tap, header + chance.randbytes(chance.randrange(1, 3000)))
        except OSError:
            refused += 1

    assert refused, "the driver looks at what it gets"
    with guest(network):
        assert host.can_ping(POD4)
        assert host.can_ping(POD6)


def _frames(tap: int, deadline: float, until: bytes | None = None) -> list[bytes]:
    """Return the frames that a tap's reader gets until the deadline, or until one of them has come."""
    found: list[bytes] = []
    while until not in found and select.select([tap], [], [], max(0, deadline - time.monotonic()))[0]:
        found.append(os.read(tap, 70000)[VNET_HEADER:])
    return found


def _receive_from(wire: socket.socket, source: bytes) -> tuple[bytes, int]:
    """Return the next frame with this source address and the number of the VLAN that it was tagged with."""
    while True:
        frame, ancillary, _, _ = wire.recvmsg(70000, 256)
        if frame[6:12] == source:
            # struct tpacket_auxdata ends with the tag and its type.
            return frame, int.from_bytes(ancillary[0][2][16:18], "little") if ancillary else 0
