"""The gate: the runtime waits at a hook of ours while the front end runs the hooks."""

from __future__ import annotations

import contextlib
import json
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from pysandbox.errors import Unavailable
from pysandbox_oci import gate as module
from pysandbox_oci.gate import Gate


@pytest.fixture
def held() -> Iterator[contextlib.ExitStack]:
    with contextlib.ExitStack() as stack:
        yield stack


def hook(gate: Gate) -> subprocess.Popen[bytes]:
    """Run the hook as a runtime does."""
    described = gate.hook()
    return subprocess.Popen(
        described["args"], executable=described["path"], stdin=subprocess.PIPE, env={"PATH": "/bin"}
    )


@pytest.mark.parametrize("size", [10, 100_000])
def test_the_hook_waits_for_the_front_end_and_succeeds_with_it(
    tmp_path: Path, held: contextlib.ExitStack, size: int
) -> None:
    pids: list[int] = []
    gate = Gate(str(tmp_path), held, pids.append)
    running = hook(gate)
    assert running.stdin is not None

    running.stdin.write(json.dumps({"id": "x" * size, "pid": 4711}, indent=2).encode()[:size])
    running.stdin.flush()
    assert not gate.passed
    running.stdin.write(json.dumps({"id": "x" * size, "pid": 4711}, indent=2).encode()[size:])
    running.stdin.close()
    while not gate.step():
        assert not pids

    assert running.wait(10) == 0
    assert pids == [4711]
    assert gate.passed
    assert gate.error is None


def test_a_hook_that_fails_fails_the_runtimes(tmp_path: Path, held: contextlib.ExitStack) -> None:
    def fail(_: int) -> None:
        raise ValueError("why")

    gate = Gate(str(tmp_path), held, fail)
    running = hook(gate)
    assert running.stdin is not None
    running.stdin.write(b'{"pid": 1}')
    running.stdin.close()
    while not gate.step():
        pass

    assert running.wait(10) != 0
    assert str(gate.error) == "why"


@pytest.mark.parametrize("said", [b'{"pid": 0}', b'{"pid": "1"}', b"{}", b"[]", b"nonsense"])
def test_what_is_no_state_document_opens_nothing(tmp_path: Path, held: contextlib.ExitStack, said: bytes) -> None:
    gate = Gate(str(tmp_path), held, lambda _: pytest.fail("opened"))
    (tmp_path / "gate.asks").open("r+b", buffering=0).write(said)

    assert not gate.step()


def test_a_document_without_end_is_refused(
    tmp_path: Path, held: contextlib.ExitStack, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "_LONGEST", 100)
    gate = Gate(str(tmp_path), held, lambda _: pytest.fail("opened"))
    (tmp_path / "gate.asks").open("r+b", buffering=0).write(b" " * 200)

    with pytest.raises(Unavailable, match="more than 100 bytes"):
        gate.step()
