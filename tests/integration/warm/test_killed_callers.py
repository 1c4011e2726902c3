"""A caller that gets a signal at an awkward moment ends as it does cold, and leaves what it leaves cold."""

from __future__ import annotations

import os
import signal
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from runtime import children, command_line, eventually, is_server
from side import hierarchies

if TYPE_CHECKING:
    from side import Side, Sides

SIGNALS = [signal.SIGTERM, signal.SIGINT, signal.SIGHUP, signal.SIGQUIT, signal.SIGKILL, signal.SIGUSR1]
#: Says that it runs, and ends when it is told to. It has the caller's environment, with a PATH.
HOOK = "echo up > {0}/up; while [ ! -e {0}/go ]; do sleep 0.02; done; echo over > {0}/over"
CGROUP = f"psb-test-killed-{os.getpid()}"


def _hook(side: Side, kind: str) -> Any:
    def change(spec: dict[str, Any]) -> None:
        spec["hooks"] = {kind: [{"path": "/bin/sh", "args": ["sh", "-c", HOOK.format(side.place), "hook"]}]}
        spec["linux"]["cgroupsPath"] = f"/{CGROUP}"

    return change


def _left(side: Side, before: set[int], when: str) -> None:
    """Note processes, cgroups and files, when what is going to end has had the time to."""
    time.sleep(0.3)
    side.learn()
    new = [pid for pid in children() if pid not in before and not is_server(pid) and not side.is_caller(pid)]
    # What is left of a process that nobody has reaped is this process's to reap; a hook sleeps in children of its own.
    lines = [command_line(pid).partition("] ") for pid in new]
    side.note(
        f"processes {when}",
        sorted(
            {words[:24] for state, _, words in lines if words and state[-1] != "Z" and not words.startswith("sleep 0.")}
        ),
    )
    side.note(f"cgroups {when}", sorted(str(top) for top in hierarchies() if (top / CGROUP).exists()))
    side.note(f"files {when}", side.files())


@pytest.mark.parametrize("number", SIGNALS)
@pytest.mark.parametrize("kind", ["createRuntime", "createContainer"])
def test_create_gets_a_signal_while_a_hook_runs(sides: Sides, kind: str, number: signal.Signals) -> None:
    def scene(side: Side) -> None:
        before = set(children())
        with (side.place / "err").open("wb") as err:
            process = side.start(
                side.argv("create", "--bundle", side.bundle("true", _hook(side, kind)), "c"), stderr=err
            )
        side.wait_for("up")
        process.send_signal(number)
        side.note("ended", process.wait(10))
        _left(side, before, "at once")
        (side.place / "go").touch()
        _left(side, before, "when the hook may end")
        for words in (["state", "c"], ["list"], ["delete", "--force", "c"], ["list"]):
            side(*words)
        _left(side, before, "after delete")

    sides.compare(scene)


@pytest.mark.parametrize("number", SIGNALS)
def test_run_gets_a_signal_while_a_hook_runs(sides: Sides, number: signal.Signals) -> None:
    """It keeps what can be passed on for the program."""

    def scene(side: Side) -> None:
        before = set(children())
        with (side.place / "err").open("wb") as err:
            # A shell would catch SIGINT, if it came late enough; the first process of a pid namespace ignores it.
            bundle = side.bundle(["sleep", "0.3"], _hook(side, "createRuntime"))
            process = side.start(side.argv("run", "--bundle", bundle, "c"), stderr=err)
        side.wait_for("up")
        process.send_signal(number)
        _left(side, before, "at once")
        (side.place / "go").touch()
        side.note("ended", process.wait(10))
        _left(side, before, "when the hook may end")
        for words in (["list"], ["delete", "--force", "c"], ["list"]):
            side(*words)

    sides.compare(scene)


@pytest.mark.parametrize("number", SIGNALS)
@pytest.mark.parametrize("words", [["start", "c"], ["delete", "--force", "c"]])
def test_a_signal_while_another_command_has_the_lock(sides: Sides, words: list[str], number: signal.Signals) -> None:
    def scene(side: Side) -> None:
        before = set(children())
        first = side.start(side.argv("create", "--bundle", side.bundle("exit 3", _hook(side, "createRuntime")), "c"))
        side.wait_for("up")
        holders = _holders(side)
        with (side.place / "err").open("wb") as err:
            second = side.start(side.argv(*words), stderr=err)
        eventually(lambda: len(_holders(side)) > len(holders), "the second one waits")
        second.send_signal(number)
        side.note("ended", second.wait(10))
        _left(side, before, "at once")
        (side.place / "go").touch()
        side.note("the first one ended", first.wait(10))
        for after in (["start", "c"], ["delete", "--force", "c"], ["list"]):
            side(*after)

    sides.compare(scene)


def _holders(side: Side) -> set[int]:
    """Return the processes below us that have the container's directory open, as a lock needs it."""
    found = set()
    for pid in children():
        try:
            links = {os.readlink(entry) for entry in Path(f"/proc/{pid}/fd").iterdir()}
        except OSError:
            continue
        if str(side.root / "c") in links:
            found.add(pid)
    return found
