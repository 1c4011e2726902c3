"""A spec as `runc spec` writes it, and planners with everything filled in that a test does not care about."""

from __future__ import annotations

import copy
from typing import TYPE_CHECKING, Any

import pytest

from pysandbox.backend import Options
from pysandbox.plan.container import init_plan
from pysandbox.plan.host import Host
from pysandbox.plan.process import exec_plan

if TYPE_CHECKING:
    from collections.abc import Callable

    from pysandbox.plan.plan import Plan

SPEC: dict[str, Any] = {
    "ociVersion": "1.2.0",
    "process": {
        "terminal": True,
        "user": {"uid": 0, "gid": 0},
        "args": ["sh"],
        "env": ["PATH=/usr/bin:/bin", "TERM=xterm"],
        "cwd": "/",
        "capabilities": {
            name: ["CAP_AUDIT_WRITE", "CAP_KILL", "CAP_NET_BIND_SERVICE"]
            for name in ("bounding", "effective", "permitted")
        },
        "rlimits": [{"type": "RLIMIT_NOFILE", "hard": 1024, "soft": 512}],
        "noNewPrivileges": True,
    },
    "root": {"path": "rootfs", "readonly": True},
    "hostname": "box",
    "mounts": [
        {"destination": "/proc", "type": "proc", "source": "proc"},
        {
            "destination": "/dev",
            "type": "tmpfs",
            "source": "tmpfs",
            "options": ["nosuid", "strictatime", "mode=755", "size=65536k"],
        },
        {
            "destination": "/dev/pts",
            "type": "devpts",
            "source": "devpts",
            "options": ["nosuid", "noexec", "newinstance", "ptmxmode=0666", "mode=0620", "gid=5"],
        },
        {"destination": "/sys", "type": "sysfs", "source": "sysfs", "options": ["nosuid", "noexec", "nodev", "ro"]},
    ],
    "linux": {
        "namespaces": [{"type": kind} for kind in ("pid", "network", "ipc", "uts", "mount")],
        "maskedPaths": ["/proc/kcore"],
        "readonlyPaths": ["/proc/sys"],
    },
}


@pytest.fixture
def spec() -> dict[str, Any]:
    return copy.deepcopy(SPEC)


@pytest.fixture
def plan(spec: dict[str, Any]) -> Callable[..., Plan]:
    """Plan the fixture's `spec`, as a test has changed it."""

    def make(**changes: Any) -> Plan:
        arguments = {
            "bundle": "/bundle",
            "container_id": "box1",
            "host": Host(),
            "options": Options(),
            "state": {"id": "box1", "ociVersion": "1.2.0"},
        }
        return init_plan(spec, **{**arguments, **changes})  # type: ignore[arg-type]

    return make


@pytest.fixture
def plan_exec(spec: dict[str, Any]) -> Callable[..., Plan]:
    def make(**changes: Any) -> Plan:
        arguments = {
            "host": Host(),
            "options": Options(),
            "container_id": "box1",
            "namespaces": [namespace["type"] for namespace in spec["linux"]["namespaces"]],
        }
        process = changes.pop("process", spec["process"])
        return exec_plan(process, spec, **{**arguments, **changes})  # type: ignore[arg-type]

    return make


@pytest.fixture
def add_user_namespace(spec: dict[str, Any]) -> Callable[[], None]:
    """Give the spec a user namespace with ids 0 to 999, at 100000 on the host."""

    def add() -> None:
        spec["linux"]["namespaces"].append({"type": "user"})
        for key in ("uidMappings", "gidMappings"):
            spec["linux"][key] = [{"containerID": 0, "hostID": 100000, "size": 1000}]

    return add
