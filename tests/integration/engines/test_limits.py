"""Limits, told by the engine, read back from the cgroup that the container sees, and felt."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from precondition import requires

if TYPE_CHECKING:
    from daemon.engine import Engine

MEMORY = ("memory/memory.limit_in_bytes", "memory.max")
PIDS = ("pids/pids.max", "pids.max")
SHARES = ("cpu/cpu.shares", "cpu.weight")
V2 = Path("/sys/fs/cgroup/cgroup.controllers").exists()


def _limit(engine: Engine, container: str, files: tuple[str, str]) -> str:
    """Read a limit inside the container: the cgroup v1 file or the v2 one."""
    return engine.ok("exec", container, "cat", f"/sys/fs/cgroup/{files[V2]}")


def test_memory_pids_and_cpu(engine: Engine) -> None:
    container = engine.start(
        ["sleep", "1000"], "--memory", "32m", "--memory-swap", "32m", "--pids-limit", "20", "--cpus", "0.5"
    )  # fmt: skip

    assert _limit(engine, container, MEMORY) == str(32 << 20)
    assert _limit(engine, container, PIDS) == "20"
    if V2:
        assert _limit(engine, container, ("", "cpu.max")) == "50000 100000"
    else:
        assert _limit(engine, container, ("cpu/cpu.cfs_quota_us", "")) == "50000"
        assert _limit(engine, container, ("cpu/cpu.cfs_period_us", "")) == "100000"


def test_shares_and_cpus(engine: Engine) -> None:
    container = engine.start(["sleep", "1000"], "--cpu-shares", "512", "--cpuset-cpus", "0")

    assert _limit(engine, container, ("cpuset/cpuset.cpus", "cpuset.cpus")) == "0"
    assert _limit(engine, container, SHARES) == ("20" if V2 else "512")
    allowed = engine.ok("exec", container, "grep", "Cpus_allowed_list", "/proc/self/status")
    assert allowed.split()[-1] == "0"


def test_more_processes_than_allowed_are_refused(engine: Engine) -> None:
    script = "for i in 1 2 3 4 5 6 7 8 9; do sleep 2 & done; wait"

    assert "can't fork" in engine.run(["sh", "-c", script], "--pids-limit", "5").stderr


def test_more_memory_than_allowed_is_reported_as_oom(engine: Engine) -> None:
    # The shell outlives its child for a moment: whoever watches has to see the event, not the end of the container.
    container = engine.start(
        ["sh", "-c", "tail /dev/zero; code=$?; sleep 1; exit $code"], "--memory", "16m", "--memory-swap", "16m"
    )

    assert engine.wait(container) == 137
    if engine.name == "podman" and not V2:
        # Debian 12's conmon sees the event and notes it, but not where podman looks for it: under runc neither.
        assert (engine.directory / "oom").exists()
    else:
        assert engine.inspect(container, "State.OOMKilled") == "true"


def test_update_changes_a_running_container(engine: Engine) -> None:
    container = engine.start(["sleep", "1000"], "--memory", "32m", "--memory-swap", "32m", "--pids-limit", "20")

    engine.ok("update", "--memory", "64m", "--memory-swap", "64m", "--cpu-shares", "512", container)

    assert _limit(engine, container, MEMORY) == str(64 << 20)
    assert _limit(engine, container, SHARES) == ("20" if V2 else "512")
    assert _limit(engine, container, PIDS) == "20"  # what was not named stays


def test_ulimits_can_be_lowered(engine: Engine) -> None:
    # nproc as well: podman would otherwise raise it, which needs CAP_SYS_RESOURCE.
    answer = engine.shell("ulimit -n; ulimit -H -n", "--ulimit", "nofile=100:200", "--ulimit", "nproc=1000:1000")

    assert answer.split() == ["100", "200"]


def test_oom_score_can_be_raised(engine: Engine) -> None:
    assert engine.shell("cat /proc/self/oom_score_adj", "--oom-score-adj", "300") == "300"


def test_sysctl_of_the_container_s_own_namespace(engine: Engine) -> None:
    assert engine.shell("cat /proc/sys/net/ipv4/ip_forward", "--sysctl", "net.ipv4.ip_forward=1") == "1"


def test_stats_and_top_show_what_runs(engine: Engine) -> None:
    container = engine.start(["sleep", "1234"], "--memory", "32m")

    assert "1" in engine.ok("stats", "--no-stream", "--format", "{{.PIDs}}", container).split()
    assert "sleep 1234" in engine.ok("top", container)


def test_block_io_weight(engine: Engine) -> None:
    requires("file /sys/fs/cgroup/blkio/blkio.weight")
    container = engine.start(["sleep", "1000"], "--blkio-weight", "300")

    assert _limit(engine, container, ("blkio/blkio.weight", "")) == "300"
