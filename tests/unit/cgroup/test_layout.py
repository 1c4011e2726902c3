"""Where a container's cgroup is: the host's mounts, our own cgroup and cgroupsPath decide."""

from __future__ import annotations

import pytest

from pysandbox.cgroup.layout import Hierarchy, Layout, parse_layout
from pysandbox.cgroup.placement import check_path, open_cgroup
from pysandbox.cgroup.v1 import CgroupV1
from pysandbox.cgroup.v2 import CgroupV2
from pysandbox.errors import InvalidArgument

HYBRID = """\
31 23 0:28 / /sys/fs/cgroup rw,relatime - tmpfs tmpfs rw,mode=755
32 31 0:29 / /sys/fs/cgroup/cpu,cpuacct rw,relatime shared:9 - cgroup cgroup rw,cpu,cpuacct
35 31 0:32 / /sys/fs/cgroup/memory rw,relatime - cgroup cgroup rw,memory
36 31 0:33 / /sys/fs/cgroup/devices rw,relatime - cgroup cgroup rw,devices
40 31 0:37 / /sys/fs/cgroup/systemd rw,relatime - cgroup cgroup rw,xattr,name=systemd
41 31 0:38 / /sys/fs/cgroup/unified rw,relatime - cgroup2 cgroup2 rw,nsdelegate
99 31 0:32 /docker/x /var/lib/other/sys/fs/cgroup/memory rw,relatime - cgroup cgroup rw,memory
"""
HYBRID_OWN = "9:name=systemd:/user.slice\n4:memory:/batch/job\n2:cpu,cpuacct:/\n5:devices:/\n0::/user.slice\n"
UNIFIED = "30 23 0:27 / /sys/fs/cgroup rw,nosuid - cgroup2 cgroup2 rw\n"


@pytest.fixture
def hybrid() -> Layout:
    return parse_layout(HYBRID, HYBRID_OWN)


def test_an_absolute_path_starts_at_the_root_of_each_hierarchy(hybrid: Layout) -> None:
    assert hybrid.place("/docker/c1") == {
        "devices": "/sys/fs/cgroup/devices/docker/c1",
        "memory": "/sys/fs/cgroup/memory/docker/c1",
        "cpu": "/sys/fs/cgroup/cpu,cpuacct/docker/c1",
        "cpuacct": "/sys/fs/cgroup/cpu,cpuacct/docker/c1",
        "name=systemd": "/sys/fs/cgroup/systemd/docker/c1",
        "": "/sys/fs/cgroup/unified/docker/c1",
    }


def test_a_relative_path_starts_at_our_own_cgroup(hybrid: Layout) -> None:
    places = hybrid.place("c1")

    assert places["memory"] == "/sys/fs/cgroup/memory/batch/job/c1"
    assert places["cpu"] == "/sys/fs/cgroup/cpu,cpuacct/c1"
    assert places[""] == "/sys/fs/cgroup/unified/user.slice/c1"


def test_without_a_path_the_container_s_id_counts(hybrid: Layout) -> None:
    cgroup = open_cgroup("", "c1", layout=hybrid)

    assert isinstance(cgroup, CgroupV1)
    assert cgroup.paths()["memory"] == "/sys/fs/cgroup/memory/batch/job/c1"


def test_on_v2_a_relative_cgroup_is_beside_ours_which_has_processes_and_so_no_children_with_limits() -> None:
    layout = parse_layout(UNIFIED, "0::/user.slice/session-1.scope\n")

    cgroup = open_cgroup("c1", "c1", layout=layout)

    assert isinstance(cgroup, CgroupV2)
    assert cgroup.paths() == {"": "/sys/fs/cgroup/user.slice/c1"}


def test_in_a_container_without_a_cgroup_namespace_the_host_s_paths_are_cut_to_the_mount() -> None:
    mounts = "35 31 0:32 /docker/x /sys/fs/cgroup/memory rw - cgroup cgroup rw,memory\n"

    assert parse_layout(mounts, "4:memory:/docker/x/inner\n").place("c1") == {
        "memory": "/sys/fs/cgroup/memory/inner/c1"
    }
    assert parse_layout(mounts, "4:memory:/docker/xy\n").place("c1") == {"memory": "/sys/fs/cgroup/memory/c1"}
    assert parse_layout(mounts, "4:memory:/../..\n").place("c1") == {"memory": "/sys/fs/cgroup/memory/c1"}


def test_a_mount_point_with_a_blank_is_unescaped() -> None:
    mounts = "35 31 0:32 / /sys/fs/cgroup/my\\040memory rw - cgroup cgroup rw,memory\n"

    assert parse_layout(mounts, "4:memory:/\n").place("/x") == {"memory": "/sys/fs/cgroup/my memory/x"}


@pytest.mark.parametrize("path", ["/../etc", "a/../../b", "..", "a\0b", "/", "//", "/./", "x" * 4000, "/" + "y" * 256])
def test_a_path_that_leaves_its_place_or_is_all_of_it_is_refused(path: str) -> None:
    with pytest.raises(InvalidArgument, match=r"^linux\.cgroupsPath: "):
        check_path(path)


@pytest.mark.parametrize("path", ["", "a", "/a/b", "..a", "a..b/c"])
def test_a_path_that_stays_is_taken(path: str) -> None:
    check_path(path)


@pytest.mark.parametrize(
    ("root", "first", "whole"), [("/", True, "/cg"), ("/docker/x", True, ""), ("/", False, "")],
    ids=["all of it", "a part of it", "in a container"],
)  # fmt: skip
def test_the_hosts_cgroup2_mount_is_offered_where_a_new_one_would_show_the_same(
    monkeypatch: pytest.MonkeyPatch, root: str, first: bool, whole: str
) -> None:
    monkeypatch.setattr("pysandbox.cgroup.layout.in_first_namespaces", lambda: first)
    cgroup = CgroupV2("/cg/x", "x", Layout((), Hierarchy("/cg", root), {}))
    assert [(mount.source, mount.whole) for mount in cgroup.mounts()] == [("/cg/x", whole)]
