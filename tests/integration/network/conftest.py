"""A pod as a network plug-in leaves it: a namespace with eth0, and its peer, which stands for the host."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest
from descriptors import open_descriptors
from networks import Namespace, join, namespaces
from precondition import requires

from pysandbox_microvm.network import Network

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

POD4, POD6, HOST4, HOST6 = "10.9.0.2", "fd00:9::2", "10.9.0.1", "fd00:9::1"


@pytest.fixture(autouse=True)
def _host() -> None:
    requires("root", "command ip", "command tc", "command nsenter", "command busybox", "file /dev/net/tun")


@pytest.fixture(autouse=True)
def _no_descriptor_left() -> Iterator[None]:
    before = open_descriptors()
    yield
    # Fixtures that this one's test used are torn down before it.
    assert open_descriptors() <= before


@pytest.fixture
def pair() -> Iterator[tuple[Namespace, Namespace]]:
    """Two namespaces with nothing but lo: of a pod and of the host."""
    with namespaces(2) as (pod, host):
        yield pod, host


@pytest.fixture
def pod(pair: tuple[Namespace, Namespace]) -> Namespace:
    """A namespace with eth0, IPv4 and IPv6 addresses and default routes through the host."""
    pod, host = pair
    join(pod, "eth0", host, "veth0")
    host.ip(f"addr add {HOST4}/24 dev veth0")
    host.ip(f"addr add {HOST6}/64 dev veth0 nodad")
    pod.ip(f"addr add {POD4}/24 dev eth0")
    pod.ip(f"addr add {POD6}/64 dev eth0 nodad")
    pod.ip(f"route add default via {HOST4}")
    pod.ip(f"-6 route add default via {HOST6}")
    return pod


@pytest.fixture
def host(pair: tuple[Namespace, Namespace]) -> Namespace:
    """The other end of the pod's eth0."""
    return pair[1]


@pytest.fixture
def mirror() -> Iterator[Callable[[Namespace], Network]]:
    """Mirror a namespace until the test ends."""
    made = []

    def mirror(namespace: Namespace) -> Network:
        made.append(Network.mirror(namespace.descriptor))
        return made[-1]

    yield mirror
    for network in made:
        network.close()
