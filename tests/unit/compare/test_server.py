"""How the bench proves that warm commands were warm."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from pysandbox.compare import contender, server
from pysandbox.compare.contender import Contender
from pysandbox.compare.measure import Failed
from pysandbox.compare.server import Account, Server, Status

DOCUMENT = {
    "pid": 7, "seconds": 1.5, "served": 40, "refused": {"no seccomp": 2},
    "spares": [8, 9], "serving": [10], "fork_ms": 1.25,
}  # fmt: skip


def _status(pid: int = 7, served: int = 40) -> Status:
    return server.read_status(json.dumps({**DOCUMENT, "pid": pid, "served": served}))


def test_a_status_is_what_the_server_prints() -> None:
    found = server.read_status(json.dumps(DOCUMENT))

    assert found == Status(7, 40, {"no seccomp": 2}, frozenset({8, 9}), frozenset({10}), 1.25)


@pytest.mark.parametrize("text", ["", "no server", "[]", "{}", '{"pid": 7}', json.dumps({**DOCUMENT, "served": None})])
def test_anything_else_is_a_failure(text: str) -> None:
    with pytest.raises(Failed, match="printed no status"):
        server.read_status(text)


def test_commands_that_the_server_did_not_take_ran_cold() -> None:
    found = server.account(_status(served=40), _status(served=47), commands=10)

    assert found.cold == 3
    assert str(found) == "3 of 10 commands ran cold"


def test_when_it_took_all_nothing_ran_cold() -> None:
    found = server.account(_status(served=40), _status(served=50), commands=10)

    assert found.cold == 0
    assert str(found) == "all 10 ran warm"


def test_commands_of_somebody_else_do_not_make_a_debt() -> None:
    assert Account(10, 12).cold == 0


def test_another_server_than_before_is_a_failure() -> None:
    with pytest.raises(Failed, match="server 7 was replaced by 8"):
        server.account(_status(pid=7), _status(pid=8), commands=1)


def test_without_the_cold_program_beside_it_there_is_no_server(tmp_path: Path) -> None:
    program = tmp_path / "pysandbox"

    with pytest.raises(Failed, match=f"{program}-cold is not installed"):
        Server(Contender(contender.WARM, (str(program),)), tmp_path / "state").__enter__()
