"""`exec`: more processes in a running container."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest
from precondition import requires

if TYPE_CHECKING:
    from collections.abc import Iterator

    from daemon.engine import Engine


@pytest.fixture
def container(engine: Engine) -> Iterator[str]:
    return engine.start(["sleep", "1000"], "--hostname", "box", "--env", "WORD=given")


def test_exit_code_and_streams(engine: Engine, container: str) -> None:
    done = engine("exec", container, "sh", "-c", "echo out; echo error >&2; exit 7")

    assert (done.returncode, done.stdout, done.stderr) == (7, "out\n", "error\n")


def test_stdin_is_piped_to_its_end(engine: Engine, container: str) -> None:
    text = "line\n" * 20_000

    assert engine("exec", "--interactive", container, "cat", stdin=text).stdout == text


def test_it_sees_the_container_s_namespaces_and_environment(engine: Engine, container: str) -> None:
    answer = engine.ok("exec", container, "sh", "-c", 'hostname; echo "$WORD"; pidof sleep').splitlines()

    assert answer[:2] == ["box", "given"]
    assert "1" in answer[2].split()


def test_user_directory_and_environment_of_its_own(engine: Engine, container: str) -> None:
    answer = engine.ok(
        "exec", "--user", "1000:1001", "--workdir", "/tmp", "--env", "WORD=own", container,
        "sh", "-c", 'id -u; id -g; pwd; echo "$WORD"',
    )  # fmt: skip

    assert answer.split() == ["1000", "1001", "/tmp", "own"]


def test_it_joins_the_container_s_cgroups(engine: Engine, container: str) -> None:
    of_init = engine.ok("exec", container, "cat", "/proc/1/cgroup")

    assert engine.ok("exec", container, "cat", "/proc/self/cgroup") == of_init


def test_it_has_the_container_s_capabilities_and_seccomp_filter(engine: Engine) -> None:
    container = engine.start(["sleep", "1000"], "--cap-drop", "ALL", "--cap-add", "CHOWN")

    status = engine.ok("exec", container, "grep", "-E", "^(CapEff|Seccomp):", "/proc/self/status")

    assert dict(line.split() for line in status.splitlines()) == {"CapEff:": f"{1:016x}", "Seccomp:": "2"}


def test_privileged_gives_all_capabilities_the_caller_has(engine: Engine, container: str) -> None:
    if engine.name == "docker":  # which asks for all that the kernel knows, CAP_SYS_RESOURCE with them
        requires("capability 24")
    effective = "awk '/^CapEff/ {print $2}' /proc/self/status"

    assert int(engine.ok("exec", container, "sh", "-c", effective), 16) >> 21 & 1 == 0
    assert int(engine.ok("exec", "--privileged", container, "sh", "-c", effective), 16) >> 21 & 1 == 1


def test_a_missing_program_gives_its_code_and_the_container_lives_on(engine: Engine, container: str) -> None:
    done = engine("exec", container, "no-such-program")

    assert done.returncode == {"docker": 126, "podman": 127}[engine.name]
    assert "executable file not found in $PATH" in done.stdout + done.stderr
    assert engine.inspect(container, "State.Running") == "true"


def test_detached(engine: Engine, container: str) -> None:
    engine.ok("exec", "--detach", container, "sh", "-c", "echo done > /tmp/flag; exec sleep 1000")

    engine.ok("exec", container, "sh", "-c", "until [ -s /tmp/flag ]; do sleep 0.05; done")
    assert len(engine.ok("exec", container, "pidof", "sleep").split()) == 2


def test_many_at_once(engine: Engine, container: str) -> None:
    terminals = [engine.terminal("exec", container, "sh", "-c", f"exit {code}") for code in range(8)]

    assert [terminal.wait() for terminal in terminals] == list(range(8))
    for terminal in terminals:
        terminal.__exit__()


def test_not_in_a_stopped_container(engine: Engine, container: str) -> None:
    engine.ok("kill", container)
    engine.wait(container)

    assert engine("exec", container, "true").returncode != 0
