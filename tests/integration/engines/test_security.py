"""What keeps a container in."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from precondition import requires

if TYPE_CHECKING:
    from daemon.engine import Engine

CAP_SYS_ADMIN, CAP_CHOWN = 21, 0


def _status(engine: Engine, field: str, *options: str) -> str:
    return engine.shell(f"awk '/^{field}:/ {{print $2}}' /proc/self/status", *options)


def test_read_only_root(engine: Engine) -> None:
    assert "Read-only file system" in engine.run(["touch", "/no"], "--read-only").stderr


def test_capabilities_are_dropped_and_added(engine: Engine) -> None:
    assert _status(engine, "CapEff", "--cap-drop", "ALL") == f"{0:016x}"
    assert int(_status(engine, "CapEff", "--cap-drop", "ALL", "--cap-add", "SYS_ADMIN"), 16) == 1 << CAP_SYS_ADMIN
    assert "Operation not permitted" in engine.run(["chown", "1", "/etc/passwd"], "--cap-drop", "CHOWN").stderr


def test_privileged_gets_what_the_host_can_give(engine: Engine) -> None:
    if engine.name == "docker":  # which asks for all that the kernel knows; podman for what it has itself
        requires("capability 24")
    bounding = next(line for line in Path("/proc/self/status").read_text().splitlines() if line.startswith("CapBnd"))

    assert int(_status(engine, "CapEff", "--privileged"), 16) == int(bounding.split()[1], 16)
    assert engine.shell("grep -c '/proc/sys proc' /proc/mounts || true", "--privileged") == "0"


def test_no_new_privileges(engine: Engine) -> None:
    assert _status(engine, "NoNewPrivs") == "0"
    assert _status(engine, "NoNewPrivs", "--security-opt", "no-new-privileges") == "1"


def test_the_default_seccomp_profile_is_a_filter_and_unconfined_is_none(engine: Engine) -> None:
    assert _status(engine, "Seccomp") == "2"
    assert _status(engine, "Seccomp", "--security-opt", "seccomp=unconfined") == "0"
    assert "Operation not permitted" in engine.run(["unshare", "-m", "true"]).stderr


def test_a_seccomp_profile_of_one_s_own(engine: Engine, tmp_path: Path) -> None:
    profile = tmp_path / "profile.json"
    rule = {"names": ["mkdir", "mkdirat", "no_such_call"], "action": "SCMP_ACT_ERRNO", "errnoRet": 95}
    profile.write_text(json.dumps({"defaultAction": "SCMP_ACT_ALLOW", "syscalls": [rule]}))

    done = engine.run(["mkdir", "/tmp/no"], "--security-opt", f"seccomp={profile}")

    assert "Operation not supported" in done.stderr  # EOPNOTSUPP is 95


@pytest.mark.parametrize("path", ["/proc/keys", "/proc/timer_list", "/sys/firmware", "/proc/acpi"])
def test_paths_are_masked(engine: Engine, path: str) -> None:
    # A masked file is empty, a masked directory is an empty tmpfs; a kernel without it has nothing to mask.
    assert engine.shell(f"if [ -d {path} ]; then ls -A {path}; elif [ -e {path} ]; then cat {path}; fi") == ""


def test_paths_are_read_only(engine: Engine) -> None:
    done = engine.run(["sh", "-c", "echo 1 > /proc/sys/vm/drop_caches"])

    assert "Read-only file system" in done.stderr


def test_a_user_namespace_maps_ids(engine: Engine) -> None:
    if engine.name == "docker":
        pytest.skip("dockerd maps ids for the whole daemon only (--userns-remap)")

    answer = engine.shell("id -u; cat /proc/self/uid_map", "--uidmap", "0:100000:1000", "--gidmap", "0:100000:1000")

    assert answer.split() == ["0", "0", "100000", "1000"]


def test_nothing_of_the_runtime_is_open_inside(engine: Engine) -> None:
    # 3 is the directory that ls reads.
    assert engine.shell("ls /proc/self/fd").split() == ["0", "1", "2", "3"]
