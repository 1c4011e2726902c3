"""What a served command starts is the caller's: its child, in its cgroup and session, and ends with it."""

from __future__ import annotations

import json
import os
import re
import signal
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from precondition import requires
from runtime import children, eventually
from side import enter

if TYPE_CHECKING:
    import subprocess

    from side import Side, Sides

#: A hook that tells that it runs, and ends when it is told to.
WAIT = "echo up > {0}/up; while [ ! -e {0}/go ]; do sleep 0.02; done"


def _status(pid: int) -> dict[str, str]:
    lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    return {name: value.strip() for name, _, value in (line.partition(":") for line in lines)}


# -- the container's init ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("script", "ending"), [("exit 3", 3 << 8), ("kill -9 $$; exit 1", 9), ("exit 0", 0)])
def test_init_comes_to_the_callers_reaper(sides: Sides, script: str, ending: int) -> None:
    """Which is this process: init becomes its child when the launcher ends, and tells it how it has ended."""

    def scene(side: Side) -> None:
        # Init of a pid namespace cannot kill itself.
        bundle = side.bundle(script, _without_pid_namespace)
        side("create", "--bundle", bundle, "--pid-file", "pid", "c")
        init = int((side.place / "pid").read_text())
        assert _status(init)["PPid"] == str(os.getpid())
        side("start", "c")
        side.note("wait status", os.waitpid(init, 0))
        assert side.seen[-1] == ("wait status", (init, ending))
        side.seen[-1] = ("wait status", ending)
        for words in (["state", "c"], ["delete", "c"]):
            side(*words)

    sides.compare(scene)


def _without_pid_namespace(spec: dict[str, Any]) -> None:
    spec["linux"]["namespaces"] = [each for each in spec["linux"]["namespaces"] if each["type"] != "pid"]


@pytest.mark.parametrize("adopts", [True, False])
def test_who_gets_the_orphans_of_a_container(sides: Sides, adopts: bool) -> None:
    """`run` does, and reaps them; with --no-subreaper they are its reaper's, so this process's."""

    def scene(side: Side) -> None:
        script = (
            f"(sh -c 'while [ ! -e {side.place}/go ]; do sleep 0.02; done' &); echo up > {side.place}/up; sleep 1003"
        )

        def share(spec: dict[str, Any]) -> None:
            _without_pid_namespace(spec)
            spec["mounts"].append(
                {"destination": str(side.place), "type": "bind", "source": str(side.place), "options": ["bind"]}
            )
            spec["root"] = {"path": str(side.place / "rootfs"), "readonly": False}

        bundle = side.bundle(script, share)
        side.copy_rootfs()
        words = ["run", *([] if adopts else ["--no-subreaper"]), "--bundle", bundle, "c"]
        process = side.start(side.argv(*words))
        side.wait_for("up")
        parent = process.pid if adopts else os.getpid()
        orphan = eventually(lambda: _child(parent, "while [ ! -e"), f"{parent} has the orphan")
        (side.place / "go").touch()
        if adopts:
            eventually(lambda: not os.path.exists(f"/proc/{orphan}"), "the orphan is reaped")
        else:
            side.note("the orphan has ended", os.waitpid(orphan, 0)[1])
        side.note("the caller", process.poll())
        assert side.start(side.argv("kill", "c", "KILL")).wait(20) == 0
        side.note("ended", process.wait(20))

    sides.compare(scene)


def _child(parent: int, part: str) -> int | None:
    """Return a direct child by a part of its command line."""
    for pid in map(int, Path(f"/proc/{parent}/task/{parent}/children").read_text().split()):
        try:
            if part in Path(f"/proc/{pid}/cmdline").read_text():
                return pid
        except OSError:
            continue
    return None


# -- the caller's cgroup, session, namespaces --------------------------------------------------------------------------


def test_what_is_started_is_where_the_caller_is(sides: Sides, own_cgroup: str) -> None:
    """The executor and hooks: children of the launcher, in its session, cgroup and namespaces."""
    requires("command unshare", "command setsid")

    def scene(side: Side) -> None:
        def wait(spec: dict[str, Any]) -> None:
            script = WAIT.format(side.place)
            spec["hooks"] = {"createRuntime": [{"path": "/bin/sh", "args": ["sh", "-c", script, "hook"]}]}

        argv = ["unshare", "--net", "--uts", "setsid", *side.argv("create", "--bundle", side.bundle("true", wait), "c")]
        process = side.start(argv, preexec_fn=partial(enter, own_cgroup))
        side.wait_for("up")
        session = os.getsid(process.pid)
        assert session != os.getsid(0)
        own = _namespaces(process.pid)
        started = Path(f"/proc/{process.pid}/task/{process.pid}/children").read_text().split()
        seen = [
            [
                # The executor is named after the descriptor that it was executed from.
                re.sub(r"^\d+", "executor", Path(f"/proc/{pid}/comm").read_text().strip()),
                os.getsid(int(pid)) == session,
                sorted(_namespaces(int(pid)).items() & own.items()),
                Path(f"/proc/{pid}/cgroup").read_text(),
            ]
            for pid in started
        ]
        hooks = [each for each in seen if each[0] == "sh"]
        assert len(hooks) == 1, seen
        assert hooks[0][1:3] == [True, sorted(own.items())], seen
        assert own_cgroup in hooks[0][3]
        assert "executor" in [each[0] for each in seen]
        side.note("children of the caller", "\n".join(sorted(map(str, seen))))
        (side.place / "go").touch()
        side.note("ended", process.wait(20))

    sides.compare(scene)


def _namespaces(pid: int) -> dict[str, str]:
    try:
        return {kind: os.readlink(f"/proc/{pid}/ns/{kind}") for kind in ("mnt", "net", "uts", "pid")}
    except FileNotFoundError:
        return {}  # it has ended


@pytest.mark.parametrize("path", [None, "below/it"])
def test_a_memory_limit_of_the_callers_holds_for_its_container(sides: Sides, own_cgroup: str, path: str | None) -> None:
    limit = Path("/sys/fs/cgroup/memory", own_cgroup, "memory.limit_in_bytes")
    if not limit.exists():
        limit = Path("/sys/fs/cgroup", own_cgroup, "memory.max")
    if not limit.exists():
        pytest.skip("requires the memory controller: neither v1 nor v2 has it")
    limit.write_text(str(48 << 20))

    def place(spec: dict[str, Any]) -> None:
        spec["linux"].pop("cgroupsPath")
        if path is not None:
            spec["linux"]["cgroupsPath"] = path

    def scene(side: Side) -> None:
        # dd touches as much as it copies at once.
        script = "dd if=/dev/zero of=/dev/null bs={0}M count=1 2> /dev/null; echo $?"
        for megabytes in (10, 200):
            ended = side("run", "--bundle", side.bundle(script.format(megabytes), place), "c",
                         preexec_fn=partial(enter, own_cgroup))  # fmt: skip
            assert ended.out == ("0\n" if megabytes == 10 else "137\n"), ended.err
        side("create", "--bundle", side.bundle(["sleep", "1000"], place), "d", preexec_fn=partial(enter, own_cgroup))
        side("start", "d")
        side("exec", "d", "sh", "-c", script.format(200))  # from without the cgroup
        side("delete", "--force", "d")

    sides.compare(scene)


# -- the end of one is the end of the other ----------------------------------------------------------------------------


def test_a_launcher_that_is_killed_takes_the_spare_with_it(sides: Sides) -> None:
    def scene(side: Side) -> None:
        with (side.place / "out").open("wb") as out:
            process = side.start(side.argv("run", "--bundle", side.bundle("echo up; exec sleep 1004"), "c"), stdout=out)
        side.wait_for("out")
        spare = _serves(sides, process)
        process.kill()
        process.wait()
        eventually(lambda: not os.path.exists(f"/proc/{spare}"), "the spare is gone", seconds=1)

    sides.play(scene, "warm")


def test_a_spare_that_is_killed_takes_the_launcher_with_it(sides: Sides) -> None:
    def scene(side: Side) -> None:
        with (side.place / "out").open("wb") as out, (side.place / "err").open("wb") as err:
            bundle = side.bundle("echo up; exec sleep 1005")
            process = side.start(side.argv("run", "--bundle", bundle, "c"), stdout=out, stderr=err)
        side.wait_for("out")
        os.kill(_serves(sides, process), signal.SIGKILL)
        assert process.wait(1) == 1
        assert (side.place / "err").read_text() == "pysandbox: the process that served this command has died\n"

    sides.play(scene, "warm")


def _serves(sides: Sides, process: subprocess.Popen[bytes]) -> int:
    """Return the process that serves a command: the only one that does."""
    assert process.poll() is None
    (status,) = sides.servers.status()
    (pid,) = status["serving"]
    assert pid in children(status["pid"]), json.dumps(status)
    return int(pid)
