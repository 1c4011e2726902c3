"""`linux.netDevices`: a device of the host becomes the guest's."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest
from networks import Namespace, guest, join, namespaces

from pysandbox.errors import AlreadyExists, InvalidArgument
from pysandbox_microvm.netdevice import move_devices
from pysandbox_microvm.netns import within

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from pysandbox_microvm.network import Network

    Mirror = Callable[[Namespace], Network]


@pytest.fixture
def runtime_side(pair: tuple[Namespace, Namespace]) -> Namespace:
    """What stands for the runtime's namespace: it has `spare`, with addresses, joined to the host's veth0."""
    runtime, host = pair
    join(runtime, "spare", host, "veth0")
    runtime.ip("addr add 10.6.0.2/24 dev spare")
    runtime.ip("addr add fd00:6::2/64 dev spare nodad")
    host.ip("addr add 10.6.0.1/24 dev veth0")
    return runtime


@pytest.fixture
def container() -> Iterator[Namespace]:
    with namespaces(1) as (container,):
        yield container


def test_a_device_moves_with_its_addresses_under_a_new_name_and_is_mirrored(
    runtime_side: Namespace, container: Namespace, host: Namespace, mirror: Mirror
) -> None:
    within(runtime_side.descriptor, lambda: move_devices({"spare": {"name": "data0"}}, container.descriptor))

    assert "spare" not in runtime_side.ip("-br link show")
    network = mirror(container)
    (interface,) = network.interfaces
    assert interface.name == "data0"
    assert {"10.6.0.2/24", "fd00:6::2/64"} <= set(interface.addresses)
    with guest(network):
        assert host.can_ping("10.6.0.2")


def test_a_device_keeps_its_name_without_another(runtime_side: Namespace, container: Namespace) -> None:
    within(runtime_side.descriptor, lambda: move_devices({"spare": {}}, container.descriptor))

    assert "spare" in container.ip("-br link show up")


def test_no_devices_are_nothing_to_do(container: Namespace) -> None:
    move_devices({}, container.descriptor)


def test_a_device_that_is_not_there_is_named(container: Namespace) -> None:
    with pytest.raises(InvalidArgument, match=r"linux.netDevices\[nosuch0\]: no such device"):
        move_devices({"nosuch0": {}}, container.descriptor)


def test_a_name_that_is_taken_is_named(runtime_side: Namespace, container: Namespace) -> None:
    container.ip("link add data0 type veth peer name data1")

    with pytest.raises(AlreadyExists, match=r"linux.netDevices\[spare\]: .*has a data0 already"):
        within(runtime_side.descriptor, lambda: move_devices({"spare": {"name": "data0"}}, container.descriptor))

    assert "spare" in runtime_side.ip("-br link show")
