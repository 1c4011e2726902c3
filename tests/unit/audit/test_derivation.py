"""The audited spec is the user's, but for the program; nothing of the user's root file system is touched."""

from __future__ import annotations

import copy
from typing import Any

import pytest

from pysandbox.audit.derivation import derive
from pysandbox.errors import InvalidArgument
from pysandbox.oci.default import default_spec


def _derived(spec: dict[str, Any]) -> dict[str, Any]:
    derived: dict[str, Any] = dict(derive(spec, "/opt/probe", "/tmp/canary", "-a1").spec)
    return derived


def test_all_but_the_program_is_the_users() -> None:
    spec: dict[str, Any] = dict(default_spec())
    before = copy.deepcopy(spec)

    derived = _derived(spec)

    assert spec == before
    added = derived["mounts"].pop()
    assert added["destination"] == "/dev/.pysandbox-probe"
    assert {"bind", "ro"} <= set(added["options"])
    for of_program in ("args", "terminal"):
        del derived["process"][of_program], before["process"][of_program]
    assert derived == before


def test_its_cgroup_is_not_the_users() -> None:
    spec: dict[str, Any] = dict(default_spec())
    spec["linux"]["cgroupsPath"] = "/pods/one"

    assert _derived(spec)["linux"]["cgroupsPath"] == "/pods/one-a1"


def test_no_network_device_is_moved_away_from_the_host() -> None:
    spec: dict[str, Any] = dict(default_spec())
    spec["linux"]["netDevices"] = {"eth0": {}}

    derivation = derive(spec, "/opt/probe", "/tmp/canary", "-a1")

    assert "netDevices" not in derivation.spec["linux"]
    assert "linux.netDevices is left out: no network device is moved away from the host" in derivation.changes
    assert spec["linux"]["netDevices"] == {"eth0": {}}


@pytest.mark.parametrize(
    "mounts",
    [
        [],
        [{"destination": "/dev", "type": "bind", "source": "/dev"}],
        [{"destination": "/dev", "type": "tmpfs", "options": ["ro"]}],
        [{"destination": "/dev", "type": "tmpfs"}, {"destination": "/dev/../dev", "type": "bind", "source": "/x"}],
        [{"destination": "/run/a", "type": "tmpfs"}, {"destination": "/run", "type": "bind", "source": "/x"}],
    ],
)
def test_without_a_tmpfs_nothing_is_mounted_on_the_users_files(mounts: list[dict[str, Any]]) -> None:
    spec: dict[str, Any] = {**default_spec(), "mounts": mounts}

    with pytest.raises(InvalidArgument, match="no writable tmpfs.*remedy"):
        _derived(spec)


def test_any_tmpfs_will_do() -> None:
    spec: dict[str, Any] = {**default_spec(), "mounts": [{"destination": "/run/", "type": "tmpfs"}]}

    assert _derived(spec)["process"]["args"] == [
        "/run/.pysandbox-probe", "--own", "/run/.pysandbox-probe", "--canary", "/tmp/canary", "--place", "/run"
    ]  # fmt: skip
