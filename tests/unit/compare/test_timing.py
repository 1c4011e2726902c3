"""What becomes of a command that says too much, the wrong thing, or nothing."""

from __future__ import annotations

import os
import signal
import time
from typing import TYPE_CHECKING, Any

import pytest

from pysandbox.compare import timing
from pysandbox.compare.contender import ENVIRONMENT, Contender
from pysandbox.compare.interruption import by_signals
from pysandbox.compare.measure import Failed
from pysandbox.compare.trial import LAST_PID, Trial, read_pid

if TYPE_CHECKING:
    from pathlib import Path


def shell(script: str, limit: float = 20) -> timing.Timing:
    return timing.run("it", ["/bin/sh", "-c", script], ENVIRONMENT, limit)


def test_the_last_words_of_a_flood_are_told() -> None:
    with pytest.raises(Failed, match="exit code 3: .* the reason$"):
        shell("yes noise | head -c 3000000 >&2; echo the reason >&2; exit 3")


def test_escape_sequences_do_not_reach_a_terminal() -> None:
    with pytest.raises(Failed) as failed:
        shell(r"printf '\033[2J\033]0;title\007\rgone\377\n' >&2; exit 1")

    assert str(failed.value).isprintable()
    assert "gone" in str(failed.value)


def test_who_still_has_the_pipe_of_errors_is_not_waited_for() -> None:
    begin = time.monotonic()
    started = timing.Started("it", ["/bin/sh", "-c", "sleep 60 > /dev/null & echo done"], ENVIRONMENT)
    try:
        assert started.wait(20).output == "done\n"
        assert time.monotonic() - begin < timing.REST
    finally:
        os.killpg(started.pid, signal.SIGKILL)


def test_what_does_not_end_is_ended_in_time() -> None:
    with pytest.raises(Failed, match="it: no end within 0 s"):
        shell("yes noise >&2", limit=0.2)


def test_an_interrupt_while_it_is_being_started_ends_it(monkeypatch: pytest.MonkeyPatch) -> None:
    spawn, pids = os.posix_spawn, []

    def interrupted(*words: Any, **options: Any) -> int:
        pids.append(spawn(*words, **options))
        signal.raise_signal(signal.SIGINT)
        return pids[-1]

    monkeypatch.setattr(os, "posix_spawn", interrupted)
    mask = signal.pthread_sigmask(signal.SIG_BLOCK, [])

    with by_signals(), pytest.raises(KeyboardInterrupt):
        shell("sleep 60")

    with pytest.raises(ProcessLookupError):
        os.kill(pids[0], 0)
    assert signal.pthread_sigmask(signal.SIG_BLOCK, []) == mask


def test_who_is_started_gets_no_signal_blocked() -> None:
    blocked = next(line for line in shell("cat /proc/self/status").output.splitlines() if line.startswith("SigBlk"))

    assert int(blocked.split()[1], 16) == 0


@pytest.mark.parametrize("text", ["", "-5", "0", "1", "12x", "9" * 400, str(LAST_PID + 1), "\x00", "4\n5"])
def test_what_is_no_pid_is_none(text: str, tmp_path: Path) -> None:
    (tmp_path / "pid").write_text(text)

    with pytest.raises(ValueError, match="b'"):
        read_pid(tmp_path / "pid")


def test_a_pid_is_one(tmp_path: Path) -> None:
    (tmp_path / "pid").write_text("4711\n")

    assert read_pid(tmp_path / "pid") == 4711


@pytest.mark.parametrize(
    ("script", "limit", "said"),
    [
        (r"printf 'runtime 1.2 \033[31m\377\nspec: 1.0\n'", 20, "runtime 1.2 ?[31m?"),
        ("yes version", 0.2, "unknown (mine: --version: no end within 0 s)"),
        ("exit 3", 20, "unknown (mine: --version: exit code 3: no word)"),
    ],
)
def test_a_version_is_one_printable_line_whatever_a_runtime_answers(
    script: str, limit: float, said: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    program = tmp_path / "mine"
    program.write_text(f"#!/bin/sh\n{script}\n")
    program.chmod(0o755)
    monkeypatch.setattr("pysandbox.compare.trial.VERSION_LIMIT", limit)
    trial = Trial(Contender("mine", (str(program),)), {}, tmp_path, 10)
    try:
        assert trial.version().replace("\ufffd", "?") == said
    finally:
        trial.close()
