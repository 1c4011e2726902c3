"""Whom a v2 cgroup is given to."""

from __future__ import annotations

from typing import Any

import pytest

from pysandbox_namespaces.planning import delegated_to


@pytest.fixture
def spec() -> dict[str, Any]:
    """A container whose root is 100000 of the host, with a cgroup namespace and a writable cgroup mount."""
    return {
        "mounts": [{"destination": "/sys/fs/cgroup", "type": "cgroup", "options": ["nosuid"]}],
        "linux": {
            "namespaces": [{"type": "user"}, {"type": "cgroup"}],
            "uidMappings": [{"containerID": 0, "hostID": 100000, "size": 65536}],
        },
    }


def test_the_containers_root_gets_it(spec: Any) -> None:
    assert delegated_to(spec) == 100000


def test_nobody_does_where_the_mount_is_read_only(spec: Any) -> None:
    spec["mounts"][0]["options"].append("ro")
    assert delegated_to(spec) is None


def test_nobody_does_where_the_namespace_is_the_hosts_or_anothers(spec: Any) -> None:
    spec["linux"]["namespaces"][1]["path"] = "/proc/1/ns/cgroup"
    assert delegated_to(spec) is None
    del spec["linux"]["namespaces"][1]
    assert delegated_to(spec) is None


def test_the_hosts_root_has_it_anyway(spec: Any) -> None:
    del spec["linux"]["uidMappings"]
    assert delegated_to(spec) is None
