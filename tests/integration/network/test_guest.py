"""Real guests: what they see of their network, and what passes between them, across a bridge, and the host."""

from __future__ import annotations

import hashlib
import os
import signal
import socket
import subprocess
import textwrap
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from networks import Namespace, join, namespaces
from runtime import Runtime, eventually

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping

    from runtime import MakeBundle

POD4, POD6, HOST4, HOST6 = "10.9.0.2", "fd00:9::2", "10.9.0.1", "fd00:9::1"
MEBIBYTE = 1 << 20
#: Make random bytes in a guest and say their digest.
RANDOM = "dd if=/dev/urandom of=/dev/shm/data bs=1M count=4 2>/dev/null; sha256sum /dev/shm/data"


@pytest.fixture
def pysandbox(pysandbox: Runtime, microvm_settings: Mapping[str, Any], tmp_path: Path) -> Runtime:
    """The runtime, every container of it a virtual machine."""
    settings = tmp_path / "settings.toml"
    lines = [f"{name} = {value!r}" for name, value in microvm_settings.items()]
    settings.write_text("\n".join(['backend = "microvm"', "[backends.microvm]", *lines]))
    pysandbox.command += ["--config", str(settings)]
    return pysandbox


def _in(namespace: Namespace) -> Callable[[dict[str, Any]], None]:
    """Put a spec's container into a network namespace."""

    def change(spec: dict[str, Any]) -> None:
        for each in spec["linux"]["namespaces"]:
            if each["type"] == "network":
                each["path"] = namespace.path
        # ping of BusyBox has raw sockets.
        for kind in ("bounding", "effective", "permitted"):
            spec["process"]["capabilities"][kind].append("CAP_NET_RAW")

    return change


@pytest.fixture
def start(pysandbox: Runtime, make_bundle: MakeBundle) -> Iterator[Callable[..., str]]:
    """Start a virtual machine in a namespace; return its id."""
    ids = []

    def start(namespace: Namespace, script: str = "sleep 600") -> str:
        container = pysandbox.new_id()
        bundle = make_bundle(["sh", "-c", script], _in(namespace))
        output = (bundle / "output").open("wb")
        with output:
            pysandbox.ok("run", "--detach", "--bundle", bundle, container, stdout=output, stderr=output)
        ids.append(container)
        return container

    yield start
    for container in ids:
        pysandbox("delete", "--force", container)


def _run(pysandbox: Runtime, make_bundle: MakeBundle, namespace: Namespace, script: str) -> str:
    """Run a script in a virtual machine of its own to its end, and return what it printed."""
    bundle = make_bundle(["sh", "-e", "-c", textwrap.dedent(script)], _in(namespace))
    return pysandbox.ok("run", "--bundle", bundle, pysandbox.new_id(), timeout=120)


def test_a_guest_sees_the_network_of_its_namespace(pysandbox: Runtime, make_bundle: MakeBundle, pod: Namespace) -> None:
    pod.ip("link set eth0 mtu 1400")
    pod.ip("route add 198.51.100.0/24 dev eth0 scope link src 10.9.0.2 metric 7")
    pod.ip("route add 203.0.113.0/24 via 10.200.0.1 dev eth0 onlink")
    pod.ip("neigh add 10.9.0.77 lladdr 02:00:00:00:00:77 dev eth0 nud permanent")
    (mac,) = (words[1] for words in map(str.split, pod.ip("link show eth0").splitlines()) if words[0] == "link/ether")

    said = _run(
        pysandbox,
        make_bundle,
        pod,
        "ls /sys/class/net; cat /sys/class/net/eth0/address /sys/class/net/eth0/mtu;"
        "ip -o addr show eth0; ip route; ip -6 route; cat /proc/net/arp",
    )

    words = " ".join(said.split())
    assert said.splitlines()[:4] == ["eth0", "lo", mac, "1400"]
    for expected in (
        f"inet {POD4}/24",
        f"inet6 {POD6}/64",
        f"default via {HOST4} dev eth0",
        "198.51.100.0/24 dev eth0 scope link src 10.9.0.2 metric 7",
        "203.0.113.0/24 via 10.200.0.1 dev eth0 onlink",
        f"default via {HOST6} dev eth0",
        "10.9.0.77 0x1 0x6 02:00:00:00:00:77",
    ):
        assert expected in words
    assert "tentative" not in said, "addresses can be used at once"
    assert said.count("inet6 fe80") == 1, "its link-local address is the host's"


def test_a_guest_without_interfaces_has_its_loopback_device(pysandbox: Runtime, make_bundle: MakeBundle) -> None:
    with namespaces(1) as (empty,):
        said = _run(pysandbox, make_bundle, empty, "ls /sys/class/net; ping -c 1 -W 5 127.0.0.1; ping -6 -c 1 -W 5 ::1")

    assert said.splitlines()[0] == "lo"
    assert said.count("1 packets received") == 2


def test_a_guest_has_as_many_interfaces_as_its_namespace(
    pysandbox: Runtime, make_bundle: MakeBundle, pair: tuple[Namespace, Namespace]
) -> None:
    pod, host = pair
    for number in range(8):
        join(pod, f"net{number}", host, f"veth{number}")
        pod.ip(f"addr add 10.{number}.0.2/24 dev net{number}")
        host.ip(f"addr add 10.{number}.0.1/24 dev veth{number}")

    said = _run(
        pysandbox,
        make_bundle,
        pod,
        "ls /sys/class/net; for each in 0 1 2 3 4 5 6 7; do ping -c 1 -W 5 10.$each.0.1; done",
    )

    assert said.split()[:9] == ["lo", *(f"net{number}" for number in range(8))]
    assert said.count("1 packets received") == 8


@pytest.mark.parametrize("mtu", [1400, 9000])
def test_host_and_guest_exchange_data(
    pysandbox: Runtime, start: Callable[..., str], pod: Namespace, host: Namespace, mtu: int
) -> None:
    for namespace, name in ((pod, "eth0"), (host, "veth0")):
        namespace.ip(f"link set {name} mtu {mtu}")
    container = start(pod)

    assert host.can_ping(POD4)
    assert host.can_ping(POD6)
    largest = mtu - 28  # of IPv4 and ICMP
    pysandbox.ok("exec", container, "ping", "-c", "1", "-W", "5", "-s", str(largest), HOST4)
    pysandbox.ok("exec", container, "ping", "-6", "-c", "1", "-W", "5", "-s", str(mtu - 48), HOST6)
    for number, address in enumerate((POD4, POD6)):
        _upload(pysandbox, container, host, (address, 7000 + number))
        _download(pysandbox, container, host, (address, 7100 + number))


def _upload(pysandbox: Runtime, container: str, host: Namespace, address: tuple[str, int]) -> None:
    """Send random bytes from the host into the guest, and compare their digests."""
    data = os.urandom(4 * MEBIBYTE)
    digest = f"/dev/shm/digest{address[1]}"
    _begin(pysandbox, container, f"nc -l -p {address[1]} | sha256sum >{digest}.part; mv {digest}.part {digest}")
    with _connected(host, *address) as client:
        client.sendall(data)
        client.shutdown(socket.SHUT_WR)
        client.recv(1)  # the guest has seen the end
    wait = f"while ! [ -e {digest} ]; do sleep 0.1; done; cat {digest}"
    assert pysandbox.ok("exec", container, "sh", "-c", wait).split()[0] == hashlib.sha256(data).hexdigest()


def _download(pysandbox: Runtime, container: str, host: Namespace, address: tuple[str, int]) -> None:
    """Fetch random bytes from the guest, and compare their digests."""
    digest = pysandbox.ok("exec", container, "sh", "-c", RANDOM).split()[0]
    _begin(pysandbox, container, f"nc -l -p {address[1]} -e cat /dev/shm/data")
    received = hashlib.sha256()
    with _connected(host, *address) as client:
        while data := client.recv(1 << 18):
            received.update(data)
    assert received.hexdigest() == digest


def _begin(pysandbox: Runtime, container: str, script: str) -> None:
    """Run a script in a container, in the background."""
    silent = {"stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL}
    pysandbox.ok("exec", "--detach", container, "sh", "-c", script, **silent)


def _connected(host: Namespace, address: str, port: int) -> socket.socket:
    family = socket.AF_INET6 if ":" in address else socket.AF_INET
    found: list[socket.socket] = []

    def connect() -> bool:
        client = host.socket(family, socket.SOCK_STREAM)
        client.settimeout(20)
        if client.connect_ex((address, port)):
            client.close()
            return False
        found.append(client)
        return True

    eventually(connect, f"something listens at {address} {port}", seconds=20)
    return found[0]


@pytest.fixture
def bridge() -> Iterator[tuple[Namespace, Namespace, Namespace]]:
    """Two pods whose interfaces are ports of the host's bridge, as CNI's `bridge` makes it."""
    with namespaces(3) as (host, first, second):
        host.ip("link add br0 type bridge")
        host.ip(f"addr add {HOST4}/24 dev br0")
        host.ip(f"addr add {HOST6}/64 dev br0 nodad")
        for number, pod in enumerate((first, second), 2):
            join(pod, "eth0", host, f"veth{number}")
            host.ip(f"link set veth{number} master br0")
            pod.ip(f"addr add 10.9.0.{number}/24 dev eth0")
            pod.ip(f"addr add fd00:9::{number}/64 dev eth0 nodad")
            pod.ip(f"route add default via {HOST4}")
        host.ip("link set br0 up")
        yield host, first, second


def test_two_machines_on_one_bridge_reach_each_other_and_the_host(
    pysandbox: Runtime, start: Callable[..., str], bridge: tuple[Namespace, Namespace, Namespace]
) -> None:
    host, first, second = bridge
    one, two = start(first), start(second)

    for address in ("10.9.0.2", "10.9.0.3", "fd00:9::2", "fd00:9::3"):
        assert host.can_ping(address), address
    for container, others in ((one, ("10.9.0.3", "fd00:9::3")), (two, ("10.9.0.2", "fd00:9::2"))):
        for address in (*others, HOST4, HOST6):
            pysandbox.ok("exec", container, "ping", "-c", "1", "-W", "5", address)

    sent = pysandbox.ok("exec", one, "sh", "-c", RANDOM)
    _begin(pysandbox, one, "nc -l -p 7000 -e cat /dev/shm/data")
    eventually(lambda: ":7000 " in pysandbox.ok("exec", one, "netstat", "-ltn"), "the first listens", seconds=20)
    assert pysandbox.ok("exec", two, "sh", "-c", "nc 10.9.0.2 7000 | sha256sum").split()[0] == sent.split()[0]
    own = ("cat", "/sys/class/net/eth0/address")
    assert pysandbox.ok("exec", one, *own) != pysandbox.ok("exec", two, *own)


def test_what_a_hook_moves_into_the_namespace_is_the_guests(
    pysandbox: Runtime, make_bundle: MakeBundle, pair: tuple[Namespace, Namespace], tmp_path: Path
) -> None:
    # As docker and nerdctl do: the namespace is new and empty until the hooks have run.
    outside, host = pair
    join(outside, "spare", host, "veth0")
    host.ip(f"addr add {HOST4}/24 dev veth0")
    hook = tmp_path / "hook"
    hook.write_text(
        "#!/bin/sh\n"
        """pid=$(sed -n 's/.*"pid": *\\([0-9]*\\).*/\\1/p')\n"""
        f"nsenter --net={outside.path} ip link set spare netns $pid name eth0\n"
        f"nsenter --net=/proc/$pid/ns/net ip addr add {POD4}/24 dev eth0\n"
        "nsenter --net=/proc/$pid/ns/net ip link set eth0 up\n"
    )
    hook.chmod(0o755)

    def change(spec: dict[str, Any]) -> None:
        spec["hooks"] = {"createRuntime": [{"path": str(hook)}]}
        for kind in ("bounding", "effective", "permitted"):
            spec["process"]["capabilities"][kind].append("CAP_NET_RAW")

    bundle = make_bundle(["sh", "-c", f"ip -o -4 addr show eth0; ping -c 1 -W 5 {HOST4}"], change)

    said = pysandbox.ok("run", "--bundle", bundle, pysandbox.new_id())

    assert f"inet {POD4}/24" in said
    assert "1 packets received" in said


def test_a_device_of_the_spec_is_the_guests(
    pysandbox: Runtime, make_bundle: MakeBundle, pair: tuple[Namespace, Namespace]
) -> None:
    runtime, host = pair
    join(runtime, "spare", host, "veth0")
    runtime.ip(f"addr add {POD4}/24 dev spare")
    host.ip(f"addr add {HOST4}/24 dev veth0")

    def change(spec: dict[str, Any]) -> None:
        spec["linux"]["netDevices"] = {"spare": {"name": "data0"}}
        for kind in ("bounding", "effective", "permitted"):
            spec["process"]["capabilities"][kind].append("CAP_NET_RAW")

    bundle = make_bundle(["sh", "-c", f"ip -o -4 addr show data0; ping -c 1 -W 5 {HOST4}"], change)
    command = pysandbox.argv("run", "--bundle", bundle, pysandbox.new_id())

    said = runtime(*command, timeout=120)

    assert f"inet {POD4}/24" in said
    assert "1 packets received" in said


def test_network_parameters_are_set_in_the_guest(pysandbox: Runtime, make_bundle: MakeBundle, pod: Namespace) -> None:
    def change(spec: dict[str, Any]) -> None:
        _in(pod)(spec)
        spec["linux"]["sysctl"] = {"net.ipv4.ip_default_ttl": "77", "net.ipv4.conf.eth0.arp_ignore": "2"}

    files = "/proc/sys/net/ipv4/ip_default_ttl /proc/sys/net/ipv4/conf/eth0/arp_ignore"
    bundle = make_bundle(["sh", "-c", f"cat {files}"], change)

    assert pysandbox.ok("run", "--bundle", bundle, pysandbox.new_id()).split() == ["77", "2"]
    assert pod("cat", *files.split()).split() == ["64", "0"], "and nowhere else"


def test_the_interface_is_the_hosts_again_when_the_machine_has_ended(
    pysandbox: Runtime, make_bundle: MakeBundle, pod: Namespace, host: Namespace
) -> None:
    _run(pysandbox, make_bundle, pod, "true")

    assert "ingress" not in pod("tc", "qdisc", "show")
    assert "psb" not in pod.ip("-br link show")
    assert host.can_ping(POD4)


def test_so_it_is_when_the_sandbox_process_was_killed(
    pysandbox: Runtime, start: Callable[..., str], pod: Namespace, host: Namespace
) -> None:
    container = start(pod)
    os.kill(pysandbox.state(container)["pid"], signal.SIGKILL)
    eventually(lambda: pysandbox.state(container)["status"] == "stopped", "it has ended")

    pysandbox.ok("delete", container)

    assert "ingress" not in pod("tc", "qdisc", "show", "dev", "eth0")
    eventually(lambda: "psb" not in pod.ip("-br link show"), "its tap is gone")
    assert host.can_ping(POD4)


def test_a_refused_interface_is_named_and_nothing_is_left(
    pysandbox: Runtime, make_bundle: MakeBundle, pod: Namespace
) -> None:
    pod.ip("link add br0 type bridge")
    pod.ip("link set br0 up")
    bundle = make_bundle(["true"], _in(pod))

    refused = pysandbox("run", "--bundle", bundle, pysandbox.new_id())

    assert refused.returncode == 1
    assert "interface br0: of kind bridge: a guest can have veth" in refused.stderr
    assert "Traceback" not in refused.stderr
    assert "ingress" not in pod("tc", "qdisc", "show")
    assert pysandbox.ok("list", "--quiet") == ""


def test_the_hosts_network_is_refused(pysandbox: Runtime, make_bundle: MakeBundle) -> None:
    def without(spec: dict[str, Any]) -> None:
        kinds = spec["linux"]["namespaces"]
        kinds[:] = [each for each in kinds if each["type"] != "network"]

    def by_path(spec: dict[str, Any]) -> None:
        without(spec)
        spec["linux"]["namespaces"].append({"type": "network", "path": f"/proc/{os.getpid()}/ns/net"})

    for change in (without, by_path):
        refused = pysandbox("run", "--bundle", make_bundle(["true"], change), pysandbox.new_id())

        assert refused.returncode == 1
        assert "host's network" in refused.stderr
        assert "Traceback" not in refused.stderr
