from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest

from pysandbox.errors import InvalidArgument
from pysandbox.plan.host import Host

if TYPE_CHECKING:
    from collections.abc import Callable

    from pysandbox.plan.plan import Plan

    Planner = Callable[..., Plan]


def devices(plan: Plan) -> list[str]:
    return [line for line in plan.describe() if line.startswith(("make_device", "make_link"))]


@pytest.mark.parametrize("destination", ["/dev", "/dev/", "dev", "/x/../dev"])
def test_a_dev_of_the_host_is_left_alone(spec: dict[str, Any], plan: Planner, destination: str) -> None:
    spec["mounts"][1:3] = [{"destination": destination, "source": "/dev", "options": ["rbind"]}]
    spec["linux"]["devices"] = [{"type": "c", "path": "/dev/fuse", "major": 10, "minor": 229}]
    assert devices(plan()) == []


def test_kcore_is_linked_where_the_kernel_has_it(plan: Planner) -> None:
    assert "make_link path=/dev/core target=/proc/kcore" in devices(plan())
    assert "make_link path=/dev/core target=/proc/kcore" not in devices(plan(host=Host(kcore=False)))


def test_devices_of_the_spec_follow_the_default_ones(spec: dict[str, Any], plan: Planner) -> None:
    spec["linux"]["devices"] = [
        {"type": "c", "path": "/dev/fuse", "major": 10, "minor": 229, "fileMode": 0o100600, "uid": 3, "gid": 4},
        {"type": "p", "path": "/run/fifo"},
        {"type": "u", "path": "dev/a", "major": 1, "minor": 2},
    ]
    made = devices(plan())[6:9]
    assert made == [
        "make_device path=/dev/fuse kind=c major=10 minor=229 mode=0600 uid=3 gid=4",
        "make_device path=/run/fifo kind=p major=0 minor=0 mode=0666 uid=0 gid=0",
        "make_device path=/dev/a kind=c major=1 minor=2 mode=0666 uid=0 gid=0",
    ]


def test_a_device_of_the_spec_replaces_a_default_one(spec: dict[str, Any], plan: Planner) -> None:
    spec["linux"]["devices"] = [{"type": "c", "path": "/dev/zero", "major": 1, "minor": 5, "fileMode": 0o400}]
    zeros = [line for line in devices(plan()) if "/dev/zero" in line]
    assert zeros == ["make_device path=/dev/zero kind=c major=1 minor=5 mode=0400 uid=0 gid=0"]


def test_the_same_device_twice_is_one(spec: dict[str, Any], plan: Planner) -> None:
    device = {"type": "c", "path": "/dev/fuse", "major": 10, "minor": 229}
    spec["linux"]["devices"] = [device, device]
    assert sum("/dev/fuse" in line for line in devices(plan())) == 1


def test_two_devices_of_one_path_are_refused(spec: dict[str, Any], plan: Planner) -> None:
    spec["linux"]["devices"] = [
        {"type": "c", "path": "/dev/fuse", "major": 10, "minor": 229},
        {"type": "c", "path": "/dev//fuse", "major": 10, "minor": 230},
    ]
    with pytest.raises(InvalidArgument, match=r"^linux.devices\[1\].path: /dev/fuse is there already"):
        plan()


def test_an_unknown_kind_is_refused(spec: dict[str, Any], plan: Planner) -> None:
    spec["linux"]["devices"] = [{"type": "z", "path": "/dev/z"}]
    with pytest.raises(InvalidArgument, match=r"^linux.devices\[0\].type: invalid device type 'z'"):
        plan()


def test_in_a_user_namespace_nodes_are_binds_of_the_host_s(
    spec: dict[str, Any], plan: Planner, add_user_namespace: Callable[[], None]
) -> None:
    add_user_namespace()
    spec["linux"]["devices"] = [{"type": "p", "path": "/run/fifo"}]
    described = plan().describe()
    opened = described.index("open_device slot=device0 path=/dev/null kind=c major=1 minor=3")
    assert described[opened + 1] == "set_attributes slot=device0 propagation=MS_SLAVE"
    assert opened < described.index('unshare kinds=["user"]')
    assert "mount_bind slot=device0 destination=/dev/null" in described
    assert [line for line in described if line.startswith("make_device")] == [
        "make_device path=/run/fifo kind=p major=0 minor=0 mode=0666 uid=0 gid=0"
    ]
