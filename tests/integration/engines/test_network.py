"""docker with a bridge of its own: what a container says to the network, and the network to it."""

from __future__ import annotations

import socket
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from daemon.engine import Engine, backend_arguments, start_docker
from networks import Namespace, namespaces
from precondition import requires
from runtime import eventually

if TYPE_CHECKING:
    from collections.abc import Iterator

#: dockerd's end of the bridge.
BRIDGE = "10.201.0.1"


@pytest.fixture(scope="module")
def network() -> Iterator[Namespace]:
    """The namespace of dockerd: its bridge and its proxies are nobody else's."""
    requires("root", "command ip", "command nsenter")
    with namespaces(1) as (network,):
        yield network


@pytest.fixture(scope="module", params=["namespaces", "microvm"])
def docker(request: pytest.FixtureRequest, network: Namespace, runtime_program: Path, layer: Path) -> Iterator[Engine]:
    requires("command dockerd", "command docker", "command docker-proxy")
    arguments = backend_arguments(request, request.param)
    directory = Path(tempfile.mkdtemp(prefix="psb-"))
    address = request.getfixturevalue("containerd_daemon").address
    started = start_docker(directory, runtime_program, address, arguments=arguments, network=network)
    started.import_image(layer)
    yield started
    started.close()


@pytest.fixture
def engine(docker: Engine) -> Iterator[Engine]:
    yield docker
    docker.remove_containers()


def _address(engine: Engine, container: str) -> str:
    return engine.inspect(container, "NetworkSettings.IPAddress")


def _answer(network: Namespace, address: str, port: int) -> bytes:
    """Connect from the host's side and read to the end."""
    with network.socket(socket.AF_INET, socket.SOCK_STREAM) as client:
        client.settimeout(10)
        client.connect((address, port))
        answer = b""
        while data := client.recv(65536):
            answer += data
        return answer


def _answers(network: Namespace, address: str, port: int, expected: bytes) -> bool:
    try:
        return _answer(network, address, port) == expected
    except OSError:
        return False


def test_a_container_has_the_address_that_docker_gave_it(engine: Engine) -> None:
    script = "ip -o -4 addr show eth0; ip route; cat /sys/class/net/eth0/address"
    container = engine.start(["sh", "-c", f"{script}; sleep 60"])
    eventually(lambda: "\n" in engine.ok("logs", container), "the container has said what it has")

    said = eventually_logged(engine, container, lines=4)

    assert f"inet {_address(engine, container)}/24" in said
    assert f"default via {BRIDGE} dev eth0" in said
    assert engine.inspect(container, "NetworkSettings.MacAddress") in said


def eventually_logged(engine: Engine, container: str, *, lines: int) -> str:
    """Return what a container has written, once it is so many lines."""
    eventually(lambda: len(engine.ok("logs", container).splitlines()) >= lines, f"{lines} lines in the log")
    return engine.ok("logs", container)


def test_the_host_reaches_a_container(engine: Engine, network: Namespace) -> None:
    container = engine.start(["sh", "-c", "while true; do echo here | nc -l -p 80; done"])

    eventually(
        lambda: _answers(network, _address(engine, container), 80, b"here\n"), "the container answers", seconds=20
    )


def test_a_container_reaches_the_host_and_another_container(engine: Engine) -> None:
    other = engine.start(["sleep", "60"])

    engine.shell(f"ping -c 1 -W 5 {BRIDGE} && ping -c 1 -W 5 {_address(engine, other)}")


def test_a_published_port_leads_into_the_container(engine: Engine, network: Namespace) -> None:
    engine.start(["sh", "-c", "while true; do echo published | nc -l -p 80; done"], "--publish", "127.0.0.1:8080:80")

    eventually(lambda: _answers(network, "127.0.0.1", 8080, b"published\n"), "the port answers", seconds=20)


def test_without_a_network_there_is_only_loopback(engine: Engine) -> None:
    assert engine.shell("ls /sys/class/net", "--network", "none").split() == ["lo"]
    engine.shell("ping -c 1 -W 5 127.0.0.1", "--network", "none")


def test_a_network_parameter_is_the_containers_own(engine: Engine) -> None:
    parameter = "net.ipv4.ip_default_ttl"

    assert engine.shell(f"sysctl -n {parameter}", "--sysctl", f"{parameter}=77") == "77"
    assert engine.shell(f"sysctl -n {parameter}") == "64"


def test_a_stopped_container_leaves_no_interface(engine: Engine, network: Namespace) -> None:
    container = engine.start(["sleep", "60"])
    assert "veth" in network.ip("-br link show")

    engine.ok("rm", "--force", container)

    eventually(lambda: "veth" not in network.ip("-br link show"), "its veth pair is gone")


def test_a_restarted_container_has_its_network_again(engine: Engine, network: Namespace) -> None:
    container = engine.start(["sh", "-c", "while true; do echo again | nc -l -p 80; done"])

    engine.ok("restart", "--time", "0", container)

    eventually(
        lambda: _answers(network, _address(engine, container), 80, b"again\n"), "the container answers", seconds=20
    )
