"""Hooks of the runtime's namespaces: what they are given, how long they may take, what is said when they fail."""

from __future__ import annotations

import json
import os
import time
from pathlib import Path
from typing import Any

import pytest
from descriptors import open_descriptors

from pysandbox.linux import close_inherited_on_exec
from pysandbox.oci.hooks import OUTPUT_LIMIT, HookFailed, run_hooks

STATE = {"ociVersion": "1.2.0", "id": "c", "status": "creating", "pid": 1, "bundle": "/b"}


def shell(script: str, **members: Any) -> dict[str, Any]:
    return {"path": "/bin/sh", "args": ["sh", "-c", script], **members}


def run(*hooks: dict[str, Any], state: dict[str, Any] | None = None) -> None:
    run_hooks({"hooks": {"prestart": list(hooks)}}, "prestart", state or STATE)


def test_a_hook_reads_the_state_to_its_end(tmp_path: Path) -> None:
    state = STATE | {"annotations": {"long": "x" * 200_000}}  # more than a pipe holds

    run(shell(f"cat > {tmp_path}/state"), state=state)

    assert json.loads((tmp_path / "state").read_text()) == state


@pytest.mark.parametrize("entries", [["A=1", "B=2=3"], []])
def test_the_environment_is_the_hooks_and_nothing_more(entries: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OURS", "secret")

    with pytest.raises(HookFailed) as raised:
        run({"path": "/bin/sh", "args": ["sh", "-c", "/usr/bin/env; exit 1"], "env": entries})

    said = str(raised.value)
    assert [entry in said for entry in ("A=1", "B=2=3")] == [bool(entries)] * 2
    assert "OURS" not in said


def test_a_hook_that_says_nothing_of_its_environment_inherits_the_callers(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("OURS", "inherited")

    run(shell(f"echo $OURS > {tmp_path}/seen"))

    assert (tmp_path / "seen").read_text() == "inherited\n"


def test_args_zero_is_the_programs_name(tmp_path: Path) -> None:
    run({"path": "/bin/sh", "args": ["other", "-c", f"echo $0 > {tmp_path}/name"]})

    assert (tmp_path / "name").read_text() == "other\n"


def test_signals_are_as_a_program_expects_them(tmp_path: Path) -> None:
    run(shell(f"grep -E 'Sig(Blk|Ign)' /proc/self/status > {tmp_path}/signals"))

    masks = [int(line.split()[1], 16) for line in (tmp_path / "signals").read_text().splitlines()]
    assert [mask & ~0x1_8000_0000 for mask in masks] == [0, 0]  # 32 and 33 are the C library's own


def test_only_the_three_streams_are_open(tmp_path: Path) -> None:
    close_inherited_on_exec(3)  # as every command does when it begins
    with pytest.raises(HookFailed) as raised:
        run(shell("ls /proc/self/fd; exit 1"))

    listed = str(raised.value).partition("stdout: ")[2].partition(",")[0].split()
    assert listed == ["0", "1", "2", "3"]  # 3 is ls's own


def test_a_failure_names_kind_number_path_code_and_output() -> None:
    with pytest.raises(HookFailed) as raised:
        run(shell("true"), shell("echo out; echo err >&2; exit 3"))

    assert str(raised.value) == "error running prestart hook #1: /bin/sh: exit status 3, stdout: out, stderr: err"


def test_death_by_signal_is_named() -> None:
    with pytest.raises(HookFailed, match="signal: killed"):
        run(shell("kill -9 $$"))


def test_the_first_failure_is_the_last_hook(tmp_path: Path) -> None:
    with pytest.raises(HookFailed):
        run(shell("exit 1"), shell(f"touch {tmp_path}/never"))

    assert not (tmp_path / "never").exists()


def test_a_missing_program_is_named() -> None:
    with pytest.raises(HookFailed, match="hook #0: /no/such: No such file"):
        run({"path": "/no/such"})


def test_a_hook_past_its_timeout_is_killed_with_its_children(tmp_path: Path) -> None:
    began = time.monotonic()
    with pytest.raises(HookFailed, match="ran past timeout of 1 s and was killed"):
        run(shell(f"sleep 100 & echo $! > {tmp_path}/child; wait", timeout=1))

    assert time.monotonic() - began < 10
    child = int((tmp_path / "child").read_text())
    deadline = time.monotonic() + 5
    while _runs(child) and time.monotonic() < deadline:
        time.sleep(0.01)
    assert not _runs(child)


def _runs(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] not in "ZX"
    except FileNotFoundError:
        return False


def test_a_daemon_that_keeps_the_output_open_does_not_hold_us_up(tmp_path: Path) -> None:
    began = time.monotonic()

    run(shell(f"sleep 5 & echo $! > {tmp_path}/daemon"))

    os.kill(int((tmp_path / "daemon").read_text()), 9)
    assert time.monotonic() - began < 4


def test_endless_output_is_read_and_cut() -> None:
    with pytest.raises(HookFailed) as raised:
        run(shell("head -c 1000000 /dev/zero | tr '\\0' x; exit 1"))

    assert len(str(raised.value)) < 2 * OUTPUT_LIMIT


def test_nothing_is_left_open() -> None:
    before = open_descriptors()

    run(shell("true"))
    for bad in (shell("exit 1"), {"path": "/no/such"}, shell("sleep 100", timeout=1)):
        with pytest.raises(HookFailed):
            run(bad)

    assert open_descriptors() == before
