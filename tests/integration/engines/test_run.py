"""`run`: what a container's program gets, and what its caller gets back."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest
from daemon.process import parent_of
from runtime import eventually

if TYPE_CHECKING:
    from pathlib import Path

    from daemon.engine import Engine


def test_exit_code_is_the_program_s(engine: Engine) -> None:
    assert engine.run(["sh", "-c", "exit 42"]).returncode == 42


def test_a_program_that_a_signal_ended_gives_128_and_the_signal(engine: Engine) -> None:
    assert engine.run(["sh", "-c", "kill -KILL $$"], "--init").returncode == 137


def test_stdout_and_stderr_arrive_apart(engine: Engine) -> None:
    done = engine.run(["sh", "-c", "echo out; echo error >&2"])

    assert (done.stdout, done.stderr) == ("out\n", "error\n")


def test_stdin_is_piped_to_its_end(engine: Engine) -> None:
    text = "line\n" * 20_000

    assert engine.run(["cat"], "--interactive", stdin=text).stdout == text


def test_a_missing_program_gives_127(engine: Engine) -> None:
    done = engine.run(["no-such-program"])

    assert done.returncode == 127
    assert "executable file not found in $PATH" in done.stderr


def test_a_program_that_may_not_be_executed_gives_126(engine: Engine) -> None:
    done = engine.run(["/etc/passwd"])

    assert done.returncode == 126
    assert "permission denied" in done.stderr.lower()


def test_environment_hostname_and_working_directory(engine: Engine) -> None:
    answer = engine.shell(
        'echo "$WORD"; hostname; pwd', "--env", "WORD=two words", "--hostname", "box", "--workdir", "/usr/bin"
    )

    assert answer.splitlines() == ["two words", "box", "/usr/bin"]


def test_user_group_and_additional_groups(engine: Engine) -> None:
    assert engine.shell("id -u; id -g", "--user", "1000:1001").split() == ["1000", "1001"]
    assert "2000" in engine.shell("id -G", "--user", "user", "--group-add", "2000").split()


def test_init_runs_as_pid_1_and_the_program_below_it(engine: Engine) -> None:
    # busybox's shell reports its own pid; without --init it is 1.
    assert engine.shell("echo $$") == "1"
    assert int(engine.shell("echo $$", "--init")) > 1


def test_a_volume_is_shared_and_a_read_only_one_is_not_writable(engine: Engine, tmp_path: Path) -> None:
    (tmp_path / "given").write_text("from the host")

    answer = engine.shell("cat /data/given; echo from inside > /data/made", "--volume", f"{tmp_path}:/data")

    assert answer == "from the host"
    assert (tmp_path / "made").read_text() == "from inside\n"
    refused = engine.run(["touch", "/data/no"], "--volume", f"{tmp_path}:/data:ro")
    assert "Read-only file system" in refused.stderr


def test_a_tmpfs_has_its_size_and_flags(engine: Engine) -> None:
    line = engine.shell("grep ' /scratch ' /proc/mounts", "--tmpfs", "/scratch:rw,noexec,size=1024k")

    assert line.split()[2] == "tmpfs"
    assert {"noexec", "size=1024k"} <= set(line.split()[3].split(","))


def test_a_device_is_given_and_others_are_closed(engine: Engine) -> None:
    # 1:3 is /dev/null, given under another name; 1:11 is /dev/kmsg, made by hand and refused by the device cgroup.
    assert engine.shell("echo x > /dev/hole; stat -c %t:%T /dev/hole", "--device", "/dev/null:/dev/hole") == "1:3"
    script = "mknod /tmp/kmsg c 1 11 && head -c 1 /tmp/kmsg"
    done = engine.run(["sh", "-c", script], "--cap-add", "MKNOD")
    assert "Operation not permitted" in done.stderr


def test_the_container_s_init_is_a_child_of_the_one_who_reaps_it(engine: Engine) -> None:
    container = engine.start(["sleep", "1000"])

    _, parent = parent_of(engine.pid(container))

    assert parent == {"docker": "containerd-shim", "podman": "conmon"}[engine.name]


def test_logs_hold_both_streams_after_the_end(engine: Engine) -> None:
    container = engine.start(["sh", "-c", "echo out; echo error >&2; exit 3"])

    assert engine.wait(container) == 3
    logged = engine("logs", container)
    assert (logged.stdout, logged.stderr) == ("out\n", "error\n")


def test_a_health_check_runs_inside(engine: Engine) -> None:
    container = engine.start(
        ["sleep", "1000"], "--health-cmd", "test -e /tmp/healthy", "--health-interval", "1s", "--health-retries", "1"
    )
    if engine.name == "podman":  # its timers are systemd's; by hand it works without
        assert engine("healthcheck", "run", container).returncode == 1
        engine.ok("exec", container, "touch", "/tmp/healthy")
        engine.ok("healthcheck", "run", container)
        return
    engine.ok("exec", container, "touch", "/tmp/healthy")

    eventually(
        lambda: engine.inspect(container, "State.Health.Status") == "healthy", "the container is healthy", seconds=15
    )


@pytest.mark.parametrize("times", [1, 2])
def test_create_then_start_then_start_again(engine: Engine, times: int) -> None:
    arguments = engine.run_arguments(verb="create")
    engine.ok(*arguments, "sh", "-c", "echo run >> /tmp/runs; cat /tmp/runs")

    for _ in range(times):
        answer = engine.ok("start", "--attach", arguments[2])

    assert answer.split() == ["run"] * times
