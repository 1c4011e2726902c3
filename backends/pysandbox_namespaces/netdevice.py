"""Move network devices of the host into a container: `linux.netDevices` of runtime-spec 1.3."""

from __future__ import annotations

from pysandbox.errors import InvalidArgument, SandboxError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping
    from typing import Any

    from pysandbox.oci.types import NetDevice

#: rtnetlink(7): addresses of this scope (RT_SCOPE_UNIVERSE) that do not expire (IFA_F_PERMANENT) move along.
RT_SCOPE_UNIVERSE = 0
IFA_F_PERMANENT = 0x80


def move_devices(devices: Mapping[str, NetDevice], pid: int) -> None:
    """Move each device into the network namespace of `pid`, renamed if asked, with its permanent global addresses.

    pyroute2 is imported here: it costs 300 ms, and few containers ask for devices.
    """
    from pyroute2 import IPRoute, NetNS
    from pyroute2.netlink.exceptions import NetlinkError

    with IPRoute() as host:
        found = {name: _find(host, name) for name in devices}
        try:
            with NetNS(f"/proc/{pid}/ns/net") as container:
                for name, device in devices.items():
                    _move(host, container, found[name], device.get("name") or name, pid)
        except NetlinkError as error:
            raise SandboxError(f"linux.netDevices: cannot move {name}: {error}") from None


def _find(host: Any, name: str) -> int:
    indexes = host.link_lookup(ifname=name)
    if not indexes:
        raise InvalidArgument(f"linux.netDevices[{name}]: no such device in the runtime's network namespace")
    return int(indexes[0])


def _permanent_addresses(host: Any, index: int) -> Iterable[Any]:
    for message in host.get_addr(index=index):
        if message["scope"] == RT_SCOPE_UNIVERSE and message.get_attr("IFA_FLAGS", 0) & IFA_F_PERMANENT:
            yield message


def _move(host: Any, container: Any, index: int, new_name: str, pid: int) -> None:
    addresses = list(_permanent_addresses(host, index))
    host.link("set", index=index, state="down")
    host.link("set", index=index, net_ns_pid=pid, ifname=new_name)
    moved = container.link_lookup(ifname=new_name)[0]
    for address in addresses:
        container.addr(
            "add",
            index=moved,
            address=address.get_attr("IFA_ADDRESS"),
            prefixlen=address["prefixlen"],
            family=address["family"],
        )
    container.link("set", index=moved, state="up")
