"""The fork that makes a shim's first container: what it makes is the shim's, and nothing depends on its life."""

from __future__ import annotations

import os
import signal
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from daemon.process import parent_of, running
from integration.shim.conftest import eventually

from pysandbox.shim.messages.process import Status
from pysandbox.ttrpc.errors import RpcError

if TYPE_CHECKING:
    from collections.abc import Callable

    from integration.shim.conftest import Shim

    Make = Callable[[Path], Shim]


def _children(pid: int) -> set[int]:
    tasks = Path(f"/proc/{pid}/task").iterdir()
    return {int(child) for task in tasks for child in (task / "children").read_text().split()}


def _fork(shim: Shim) -> int:
    """Return the fork of a shim that has made nothing yet."""
    (fork,) = _children(shim.pid)
    return fork


def _private(shim: Shim) -> int:
    """Memory that nobody shares with it, in KiB."""
    lines = Path(f"/proc/{shim.pid}/smaps_rollup").read_text().splitlines()
    return sum(int(line.split()[1]) for line in lines if line.startswith("Private_"))


def test_what_it_makes_is_the_shims_child_and_it_ends_with_the_start(make_shim: Make, make_bundle: Any) -> None:
    shim = make_shim(make_bundle(["sh", "-c", "exit 7"]))
    fork = _fork(shim)

    pid = shim.create()
    assert parent_of(pid)[0] == shim.pid
    assert running(fork)
    shim.start()

    assert shim.wait() == 7
    shim.delete()
    eventually(lambda: not _children(shim.pid))  # both were reaped


def test_the_memory_that_making_took_is_not_the_shims(make_shim: Make, make_bundle: Any) -> None:
    with_fork, alone = (make_shim(make_bundle(["sleep", "1000"])) for _ in range(2))
    os.kill(_fork(alone), signal.SIGKILL)
    for shim in (with_fork, alone):
        shim.create()
        shim.start()

    # Who served their starts shares pages with them until it has ended.
    eventually(lambda: _private(with_fork) + 512 < _private(alone))

    for shim in (with_fork, alone):
        shim.kill()
        assert shim.wait() == 137
        shim.delete()


@pytest.mark.parametrize("moment", ["before", "between"])
def test_without_it_the_shim_makes_and_starts_containers_itself(make_shim: Make, make_bundle: Any, moment: str) -> None:
    shim = make_shim(make_bundle(["sh", "-c", "exit 7"]))
    fork = _fork(shim)
    if moment == "between":
        shim.create()
    os.kill(fork, signal.SIGKILL)
    eventually(lambda: not running(fork))
    if moment == "before":
        shim.create()

    shim.start()

    assert shim.wait() == 7
    shim.delete()


def test_a_container_that_cannot_be_made_can_be_made_afterwards(make_shim: Make, make_bundle: Any) -> None:
    bundle = make_bundle(["sh", "-c", "exit 7"])
    shim = make_shim(bundle)
    fork = _fork(shim)
    good = (bundle / "config.json").read_text()
    for bad in ("{", '{"ociVersion": "1.0.0", "process": {"args": []}}', good.replace('"/"', '"nowhere"')):
        (bundle / "config.json").write_text(bad)
        with pytest.raises(RpcError, match="config.json|process|root"):
            shim.call("Create", _request(shim))
    assert running(fork)
    (bundle / "config.json").write_text(good)

    shim.create()
    shim.start()

    assert shim.wait() == 7
    shim.delete()


def test_it_ends_when_the_shim_is_killed(make_shim: Make, make_bundle: Any) -> None:
    shims = [make_shim(make_bundle(["sleep", "1000"])) for _ in range(2)]
    forks = [_fork(shim) for shim in shims]
    shims[1].create()
    for shim in shims:
        os.kill(shim.pid, signal.SIGKILL)

    eventually(lambda: not any(running(fork) for fork in forks), 5)


def test_a_created_container_that_is_deleted_leaves_no_fork(make_shim: Make, make_bundle: Any) -> None:
    shim = make_shim(make_bundle(["sleep", "1000"]))
    shim.create()
    assert shim.state().status == Status.CREATED

    shim.delete()

    eventually(lambda: not _children(shim.pid), 5)


def _request(shim: Shim) -> Any:
    from pysandbox.shim.messages.task import CreateTaskRequest

    return CreateTaskRequest(id=shim.id, bundle=str(shim.bundle))
