"""What is mirrored of a namespace, what is refused, and that nothing of it stays."""

from __future__ import annotations

import fcntl
import os
import signal
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from networks import Namespace, guest, join
from runtime import eventually

from pysandbox.errors import FailedPrecondition, InvalidArgument, SandboxError, Unimplemented
from pysandbox_microvm.addressing import Route
from pysandbox_microvm.netns import is_host, open_namespace
from pysandbox_microvm.network import Network, remove_leftovers

if TYPE_CHECKING:
    from collections.abc import Callable

    Mirror = Callable[[Namespace], Network]

REPOSITORY = Path(__file__).parents[3]
POD4, POD6, HOST4, HOST6 = "10.9.0.2", "fd00:9::2", "10.9.0.1", "fd00:9::1"


def _left(namespace: Namespace) -> list[str]:
    """Return the taps and ingress qdiscs in a namespace."""
    taps = [line for line in namespace.ip("-br link show").splitlines() if line.startswith("psb")]
    return taps + [line for line in namespace("tc", "qdisc", "show").splitlines() if "ingress" in line]


# -- what a guest is told ----------------------------------------------------------------------------------------------


def test_a_namespace_with_only_lo_is_looked_at_and_left_alone(
    pair: tuple[Namespace, Namespace], mirror: Mirror
) -> None:
    pod, _ = pair

    network = mirror(pod)

    assert network.interfaces == network.routes == network.neighbours == network.remarks == ()
    assert network.parts() == ([], [], [])
    assert not _left(pod)


def test_an_interface_is_mirrored_with_its_address_mtu_and_mac(pod: Namespace, mirror: Mirror) -> None:
    pod.ip("link set eth0 mtu 1400 address 02:00:00:00:09:02")

    (interface,) = mirror(pod).interfaces

    assert (interface.name, interface.mac, interface.mtu) == ("eth0", "02:00:00:00:09:02", 1400)
    assert {f"{POD4}/24", f"{POD6}/64"} <= set(interface.addresses)
    assert os.get_inheritable(interface.tap) is False
    assert "psb0: " in pod.ip("-o link show psb0 mtu 1400".replace(" mtu 1400", ""))
    assert "mtu 1400" in pod.ip("link show psb0")


def test_every_part_reaches_the_agents_request(pod: Namespace, mirror: Mirror) -> None:
    pod.ip("neigh add 10.9.0.77 lladdr 02:00:00:00:00:77 dev eth0 nud permanent")

    interfaces, routes, neighbours = mirror(pod).parts()

    assert [(each.name, each.mtu) for each in interfaces] == [("eth0", 1500)]
    assert {(each.gateway, each.device, each.ipv6) for each in routes} == {
        (HOST4, "eth0", False),
        (HOST6, "eth0", True),
    }
    assert [(each.address, each.mac, each.device) for each in neighbours] == [
        ("10.9.0.77", "02:00:00:00:00:77", "eth0")
    ]


def test_routes_are_taken_over_as_they_are(pod: Namespace, mirror: Mirror) -> None:
    pod.ip("route add 198.51.100.0/24 dev eth0 scope link src 10.9.0.2 metric 7")
    pod.ip("route add 203.0.113.0/24 via 10.200.0.1 dev eth0 onlink")
    pod.ip("-6 route add 2001:db8:5::/48 via fe80::1 dev eth0 metric 42")
    pod.ip("route add 192.0.2.0/24 dev eth0 table 100")

    routes = mirror(pod).routes

    assert set(routes) == {
        Route(destination="198.51.100.0/24", device="eth0", scope=253, source="10.9.0.2", metric=7),
        Route(destination="", device="eth0", gateway=HOST4),
        Route(destination="203.0.113.0/24", device="eth0", gateway="10.200.0.1", onlink=True),
        Route(destination="", device="eth0", gateway=HOST6, metric=1024, ipv6=True),
        Route(destination="2001:db8:5::/48", device="eth0", gateway="fe80::1", metric=42, ipv6=True),
    }
    gateways = [bool(route.gateway) for route in routes]
    assert gateways == sorted(gateways), "what leads to a gateway comes before what goes through it"


def test_an_address_with_a_peer_keeps_the_route_to_it(pair: tuple[Namespace, Namespace], mirror: Mirror) -> None:
    pod, host = pair
    join(pod, "eth0", host, "veth0")
    pod.ip("addr add 10.8.0.2 peer 10.8.0.1/32 dev eth0")
    pod.ip("addr add fd00:8::2 peer fd00:8::1/128 dev eth0 nodad")

    network = mirror(pod)

    assert {"10.8.0.2/32", "fd00:8::2/128"} <= set(network.interfaces[0].addresses)
    assert {(route.destination, route.gateway) for route in network.routes} == {
        ("10.8.0.1/32", ""),
        ("fd00:8::1/128", ""),
    }


def test_an_address_without_a_route_of_its_own_gets_none_in_the_guest(
    pair: tuple[Namespace, Namespace], mirror: Mirror
) -> None:
    # With /24 the guest's kernel would send to the neighbours directly what has to pass the gateway.
    pod, host = pair
    join(pod, "eth0", host, "veth0")
    pod.ip("addr add 10.9.0.2/24 dev eth0 noprefixroute")

    network = mirror(pod)

    assert "10.9.0.2/32" in network.interfaces[0].addresses
    assert network.routes == ()


def test_what_the_network_gives_is_left_to_the_guest(pod: Namespace, mirror: Mirror) -> None:
    pod.ip("addr add fd00:77::1/64 dev eth0 valid_lft 1000 preferred_lft 1000 nodad")
    pod.ip("-6 route add 2001:db8:9::/48 via fd00:9::1 dev eth0 proto ra")
    pod.ip("neigh add 10.9.0.78 lladdr 02:00:00:00:00:78 dev eth0 nud reachable")

    network = mirror(pod)

    assert not any(address.startswith("fd00:77") for address in network.interfaces[0].addresses)
    assert not any(route.destination.startswith("2001:db8:9") for route in network.routes)
    assert network.neighbours == ()


def test_a_guest_that_took_everything_over_looks_like_the_host(pod: Namespace, mirror: Mirror) -> None:
    pod.ip("route add 198.51.100.0/24 dev eth0 scope link src 10.9.0.2 metric 7")
    pod.ip("neigh add 10.9.0.77 lladdr 02:00:00:00:00:77 dev eth0 nud permanent")
    looks = ("-o -4 addr show dev eth0 scope global", "route show", "-6 route show default", "neigh show nud permanent")

    def look(namespace: Namespace) -> list[set[str]]:
        lines = [namespace.ip(each).splitlines() for each in looks]
        return [{" ".join(line.split(": ")[-1].split()) for line in each} for each in lines]

    expected = look(pod)

    with guest(mirror(pod)) as vm:
        assert look(vm.namespace) == expected


def test_several_interfaces_are_mirrored_each_by_its_own_tap(pair: tuple[Namespace, Namespace], mirror: Mirror) -> None:
    pod, host = pair
    for number in range(3):
        join(pod, f"net{number}", host, f"veth{number}")
        pod.ip(f"addr add 10.{number}.0.2/24 dev net{number}")
        host.ip(f"addr add 10.{number}.0.1/24 dev veth{number}")

    network = mirror(pod)

    assert [each.name for each in network.interfaces] == ["net0", "net1", "net2"]
    assert len({each.tap for each in network.interfaces}) == 3
    with guest(network):
        assert all(host.can_ping(f"10.{number}.0.2") for number in range(3))


def test_an_interface_that_is_down_is_left_out_with_a_remark(pod: Namespace, mirror: Mirror) -> None:
    pod.ip("link add idle type veth peer name idle1")

    network = mirror(pod)

    assert [each.name for each in network.interfaces] == ["eth0"]
    assert network.remarks == (
        "interface idle1 is down: the guest does without it",
        "interface idle is down: the guest does without it",
    )


def test_a_routes_own_mtu_is_remarked_on(pod: Namespace, mirror: Mirror) -> None:
    pod.ip("route add 198.51.100.0/24 via 10.9.0.1 mtu 1300")

    assert mirror(pod).remarks == ("route 198.51.100.0/24: its MTU of 1300 is not the guest's: eth0's counts",)


# -- what is refused ---------------------------------------------------------------------------------------------------

REFUSED: dict[str, tuple[list[str], type[SandboxError], str]] = {
    "a bridge": (["link add br0 type bridge", "link set br0 up"], Unimplemented, "interface br0: of kind bridge"),
    "a port of a bridge": (
        ["link add br0 type bridge", "link set eth0 master br0"],
        Unimplemented,
        "interface eth0: it belongs to a bridge",
    ),
    "no Ethernet": (
        ["tuntap add mode tun name tun0", "link set tun0 up"],
        Unimplemented,
        "interface tun0: tun carries no Ethernet frames",
    ),
    "the same MAC address twice": (
        [
            "link add eth1 type veth peer name peer1",
            "link set eth0 address 02:00:00:00:00:01",
            "link set eth1 address 02:00:00:00:00:01",
            "link set peer1 up",
            "link set eth1 up",
        ],
        InvalidArgument,
        "interfaces eth0 and eth1 have the same MAC address 02:00:00:00:00:01",
    ),
    "several next hops": (
        ["route add 192.0.2.0/24 nexthop via 10.9.0.1 dev eth0 nexthop via 10.9.0.3 dev eth0"],
        Unimplemented,
        "route 192.0.2.0/24: several next hops",
    ),
    "a route that rejects": (
        ["route add blackhole 192.0.2.0/24"],
        Unimplemented,
        "route 192.0.2.0/24: blackhole",
    ),
    "a gateway of another family": (
        ["route add 192.0.2.0/24 via inet6 fe80::1 dev eth0"],
        Unimplemented,
        "route 192.0.2.0/24: a gateway of another family",
    ),
}


@pytest.mark.parametrize("case", REFUSED)
def test_what_a_guest_cannot_have_is_refused_by_name_and_nothing_is_touched(
    pod: Namespace, host: Namespace, case: str
) -> None:
    lines, error, text = REFUSED[case]
    for line in lines:
        pod.ip(line)

    with pytest.raises(error, match=text):
        Network.mirror(pod.descriptor)

    assert not _left(pod)


def test_more_interfaces_than_a_guest_has_room_for_are_refused(pair: tuple[Namespace, Namespace]) -> None:
    pod, host = pair
    for number in range(9):
        join(pod, f"net{number}", host, f"veth{number}")

    with pytest.raises(
        InvalidArgument, match="9 interfaces in the container's network namespace: a guest has at most 8"
    ):
        Network.mirror(pod.descriptor)

    assert not _left(pod)


@pytest.mark.parametrize(
    ("kind", "lines"),
    [
        ("routes", [f"route add 172.16.{high}.{low}/32 dev eth0" for high in range(4) for low in range(250)]),
        ("addresses", [f"addr add 10.7.{high}.{low}/32 dev eth0" for high in range(4) for low in range(1, 251)]),
        ("neighbours", [f"neigh add 10.9.{high}.{low} lladdr 02:00:00:00:00:01 dev eth0" for high in range(4) for low in range(250)]),
    ],
)  # fmt: skip
def test_a_thousand_of_anything_is_refused_in_one_line(
    pod: Namespace, tmp_path: Path, kind: str, lines: list[str]
) -> None:
    batch = tmp_path / "batch"
    batch.write_text("\n".join(lines))
    pod("ip", "-batch", str(batch))

    with pytest.raises(InvalidArgument, match=rf"^network: .*{kind}.*(more than|at most) \d+") as refused:
        Network.mirror(pod.descriptor)

    assert "\n" not in str(refused.value)
    assert not _left(pod)


def test_somebody_elses_ingress_qdisc_is_left_alone(pod: Namespace) -> None:
    pod("tc", "qdisc", "add", "dev", "eth0", "clsact")

    with pytest.raises(FailedPrecondition, match="interface eth0: something else has an ingress or clsact qdisc there"):
        Network.mirror(pod.descriptor)

    assert "clsact" in pod("tc", "qdisc", "show", "dev", "eth0")
    assert not [line for line in _left(pod) if "psb" in line]


def test_two_sandboxes_cannot_have_one_interface(pod: Namespace, host: Namespace, mirror: Mirror) -> None:
    network = mirror(pod)

    with pytest.raises(FailedPrecondition, match="another sandbox has this network namespace"):
        Network.mirror(pod.descriptor)

    with guest(network):
        assert host.can_ping(POD4), "the first one's traffic still goes to it"


def test_nor_can_they_share_a_namespace_that_has_only_lo(pair: tuple[Namespace, Namespace]) -> None:
    # Each guest has a loopback device of its own: neither would hear the other.
    pod, _ = pair
    network = Network.mirror(pod.descriptor)

    with pytest.raises(FailedPrecondition, match="shares its network only with containers in the same machine"):
        Network.mirror(pod.descriptor)

    network.close()
    Network.mirror(pod.descriptor).close()


# -- the host's network ------------------------------------------------------------------------------------------------


def test_the_hosts_own_namespace_is_refused_by_whatever_path(tmp_path: Path) -> None:
    link = tmp_path / "net"
    link.symlink_to("/proc/self/ns/net")

    for path in (f"/proc/{os.getpid()}/ns/net", "/proc/thread-self/ns/net", str(link)):
        with pytest.raises(InvalidArgument, match="the host's network cannot be a guest's"):
            open_namespace(path)


def test_a_file_that_is_no_network_namespace_is_refused(tmp_path: Path) -> None:
    for path in ("/proc/self/ns/mnt", "/dev/null", str(tmp_path)):
        with pytest.raises(InvalidArgument, match="not a network namespace"):
            open_namespace(path)
    with pytest.raises(InvalidArgument, match="No such file"):
        open_namespace(str(tmp_path / "missing"))


def test_a_new_namespace_is_nobody_elses(pair: tuple[Namespace, Namespace]) -> None:
    first, second = pair
    inodes = {os.fstat(each.descriptor).st_ino for each in (first, second)} | {os.stat("/proc/self/ns/net").st_ino}

    assert len(inodes) == 3
    assert not is_host(first.descriptor)


# -- undoing -----------------------------------------------------------------------------------------------------------


def test_a_closed_network_leaves_the_interface_as_it_was(pod: Namespace, host: Namespace, mirror: Mirror) -> None:
    before = pod.ip("-d addr show"), pod("tc", "qdisc", "show")
    network = mirror(pod)
    assert len(_left(pod)) == 3, "a tap and two qdiscs"

    network.close()

    eventually(lambda: not _left(pod), "nothing is left in the namespace")
    assert (pod.ip("-d addr show"), pod("tc", "qdisc", "show")) == before
    network.close()  # once more is nothing


def test_a_refusal_halfway_undoes_the_first_half(pair: tuple[Namespace, Namespace]) -> None:
    pod, host = pair
    for number in range(2):
        join(pod, f"net{number}", host, f"veth{number}")
    pod("tc", "qdisc", "add", "dev", "net1", "ingress")

    with pytest.raises(FailedPrecondition, match="interface net1"):
        Network.mirror(pod.descriptor)

    assert "ingress" not in pod("tc", "qdisc", "show", "dev", "net0")
    eventually(lambda: "psb" not in pod.ip("-br link show"), "the taps are gone")


def test_closing_leaves_alone_what_somebody_put_in_our_place(pod: Namespace, mirror: Mirror) -> None:
    network = mirror(pod)
    pod("tc", "qdisc", "del", "dev", "eth0", "ingress")
    pod("tc", "qdisc", "add", "dev", "eth0", "ingress")

    network.close()

    assert "ingress" in pod("tc", "qdisc", "show", "dev", "eth0")


def test_an_interface_that_vanished_meanwhile_is_no_error_on_closing(pod: Namespace, mirror: Mirror) -> None:
    network = mirror(pod)
    pod.ip("link del eth0")

    network.close()


@pytest.fixture
def dead_sandbox(pod: Namespace) -> None:
    """A process that mirrored the pod was killed."""
    program = (
        "import sys, time\n"
        f"sys.path[:0] = {[str(REPOSITORY / 'runtime_api'), str(REPOSITORY / 'backends')]}\n"
        "from pysandbox_microvm.network import Network\n"
        f"network = Network.mirror({pod.descriptor})\n"
        "print('mirrored', flush=True)\n"
        "time.sleep(60)\n"
    )
    command = [sys.executable, "-I", "-c", program]
    with subprocess.Popen(command, pass_fds=[pod.descriptor], stdout=subprocess.PIPE) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == b"mirrored\n"
        process.send_signal(signal.SIGKILL)
        process.wait()
    eventually(lambda: "psb" not in pod.ip("-br link show"), "its tap went with it")


def test_what_a_killed_sandbox_left_is_removed(dead_sandbox: None, pod: Namespace, host: Namespace) -> None:
    assert not host.can_ping(POD4), "the redirection outlives the tap and swallows what arrives"

    assert remove_leftovers(pod.descriptor) == 1

    assert host.can_ping(POD4)
    assert not _left(pod)
    assert remove_leftovers(pod.descriptor) == 0


def test_the_next_sandbox_takes_the_place_of_a_killed_one(
    dead_sandbox: None, pod: Namespace, host: Namespace, mirror: Mirror
) -> None:
    with guest(mirror(pod)):
        assert host.can_ping(POD4)


def test_a_sandbox_that_runs_is_no_leftover(pod: Namespace, host: Namespace, mirror: Mirror) -> None:
    network = mirror(pod)

    assert remove_leftovers(pod.descriptor) == 0

    with guest(network):
        assert host.can_ping(POD4)


# -- later, and elsewhere ----------------------------------------------------------------------------------------------


def test_an_interface_that_appears_later_is_found_by_the_next_look(
    pod: Namespace, host: Namespace, mirror: Mirror
) -> None:
    network = mirror(pod)
    assert network.rescan(pod.descriptor) == ()
    join(pod, "eth1", host, "veth1")
    pod.ip("addr add 10.5.0.2/24 dev eth1")
    host.ip("addr add 10.5.0.1/24 dev veth1")

    (new,) = network.rescan(pod.descriptor)

    assert (new.name, new.addresses[0]) == ("eth1", "10.5.0.2/24")
    assert [each.name for each in network.interfaces] == ["eth0", "eth1"]
    with guest(network):
        assert host.can_ping(POD4)
        assert host.can_ping("10.5.0.2")


def test_a_refused_look_leaves_what_was_mirrored_before(pod: Namespace, host: Namespace, mirror: Mirror) -> None:
    network = mirror(pod)
    join(pod, "eth1", host, "veth1")
    pod("tc", "qdisc", "add", "dev", "eth1", "ingress")

    with pytest.raises(FailedPrecondition, match="interface eth1"):
        network.rescan(pod.descriptor)

    assert [each.name for each in network.interfaces] == ["eth0"]
    with guest(network):
        assert host.can_ping(POD4)


def test_mirroring_begins_on_a_thread_and_leaves_this_one_where_it_is(pod: Namespace) -> None:
    here = os.stat("/proc/thread-self/ns/net").st_ino

    network = Network.begin(pod.descriptor).result()

    assert os.stat("/proc/thread-self/ns/net").st_ino == here
    assert [each.name for each in network.interfaces] == ["eth0"]
    network.close()


def test_a_failure_on_the_thread_is_raised_where_it_is_waited_for(pod: Namespace) -> None:
    pod.ip("route add blackhole 192.0.2.0/24")

    begun = Network.begin(pod.descriptor)

    with pytest.raises(Unimplemented, match="blackhole"):
        begun.result()


def test_a_tap_passes_large_segments_only_to_who_asked_for_them(pod: Namespace, mirror: Mirror) -> None:
    tap = mirror(pod).interfaces[0].tap

    flags = int.from_bytes(fcntl.ioctl(tap, 0x800454D2, bytes(40))[16:18], "little")  # TUNGETIFF

    assert flags & 0x4000, "IFF_VNET_HDR"
    assert flags & 0x0002, "IFF_TAP"
    assert not flags & 0x0800, "IFF_PERSIST: gone with its descriptor"
    assert not flags & 0x0100, "IFF_MULTI_QUEUE: one queue"


def test_a_mirror_loads_no_library(pod: Namespace) -> None:
    # pyroute2 alone would cost more than the rest of a start (netlink.py).
    program = (
        "import sys\n"
        f"sys.path[:0] = {[str(REPOSITORY / 'runtime_api'), str(REPOSITORY / 'backends')]}\n"
        "from pysandbox_microvm.network import Network\n"
        f"Network.mirror({pod.descriptor}).close()\n"
        "print(*sys.modules)\n"
    )
    command = [sys.executable, "-I", "-S", "-c", program]

    done = subprocess.run(command, pass_fds=[pod.descriptor], capture_output=True, text=True, check=True, timeout=30)

    heavy = {"pyroute2", "asyncio", "socket", "threading", "typing", "dataclasses", "logging", "subprocess", "re"}
    assert "pysandbox_microvm.mirror" in done.stdout.split()
    assert not heavy & set(done.stdout.split())
