"""Who makes a shim's first container: what it makes is the shim's, and nothing depends on its life."""

from __future__ import annotations

import contextlib
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


@pytest.fixture(autouse=True)
def _served(request: pytest.FixtureRequest) -> None:
    if request.config.getoption("--warm") == "off":
        pytest.skip("requires a server: who serves `start` is what makes containers; a cold start leaves nobody")


def _children(pid: int) -> set[int]:
    tasks = Path(f"/proc/{pid}/task").iterdir()
    return {int(child) for task in tasks for child in (task / "children").read_text().split()}


def _makers(shim: Shim) -> list[int]:
    """Return the processes of a shim's namespace, which is its own, but the shim and what it has started."""
    found = []
    for entry in Path("/proc").iterdir():
        if entry.name.isdecimal() and int(entry.name) != shim.pid:
            with contextlib.suppress(OSError):
                if shim.namespace.encode() in (entry / "cmdline").read_bytes():
                    found.append(int(entry.name))
    return found


def _maker(shim: Shim) -> int:
    """Return the maker of a shim that has started nothing yet. Who called `start` has ended."""
    (maker,) = _makers(shim)
    return maker


def _private(shim: Shim) -> int:
    """Memory that nobody shares with it, in KiB."""
    lines = Path(f"/proc/{shim.pid}/smaps_rollup").read_text().splitlines()
    return sum(int(line.split()[1]) for line in lines if line.startswith("Private_"))


def test_what_it_makes_is_the_shims_child_and_it_ends_with_the_start(make_shim: Make, make_bundle: Any) -> None:
    shim = make_shim(make_bundle(["sh", "-c", "exit 7"]))
    maker = _maker(shim)

    pid = shim.create()
    assert parent_of(pid)[0] == shim.pid
    assert running(maker)
    shim.start()

    assert shim.wait() == 7
    shim.delete()
    eventually(lambda: not _children(shim.pid) and not _makers(shim))


def test_the_memory_that_making_took_is_not_the_shims(make_shim: Make, make_bundle: Any) -> None:
    with_maker, alone = (make_shim(make_bundle(["sleep", "1000"])) for _ in range(2))
    os.kill(_maker(alone), signal.SIGKILL)
    for shim in (with_maker, alone):
        shim.create()
        shim.start()

    # Who served their starts shares pages with them until it has ended.
    eventually(lambda: _private(with_maker) + 512 < _private(alone))

    for shim in (with_maker, alone):
        shim.kill()
        assert shim.wait() == 137
        shim.delete()


@pytest.mark.parametrize("moment", ["before", "between"])
def test_without_it_the_shim_makes_and_starts_containers_itself(make_shim: Make, make_bundle: Any, moment: str) -> None:
    shim = make_shim(make_bundle(["sh", "-c", "exit 7"]))
    maker = _maker(shim)
    if moment == "between":
        shim.create()
    os.kill(maker, signal.SIGKILL)
    eventually(lambda: not running(maker))
    if moment == "before":
        shim.create()

    shim.start()

    assert shim.wait() == 7
    shim.delete()


def test_a_container_that_cannot_be_made_can_be_made_afterwards(make_shim: Make, make_bundle: Any) -> None:
    bundle = make_bundle(["sh", "-c", "exit 7"])
    shim = make_shim(bundle)
    maker = _maker(shim)
    good = (bundle / "config.json").read_text()
    for bad in ("{", '{"ociVersion": "1.0.0", "process": {"args": []}}', good.replace('"/"', '"nowhere"')):
        (bundle / "config.json").write_text(bad)
        with pytest.raises(RpcError, match="config.json|process|root"):
            shim.call("Create", _request(shim))
    assert running(maker)
    (bundle / "config.json").write_text(good)

    shim.create()
    shim.start()

    assert shim.wait() == 7
    shim.delete()


def test_it_ends_when_the_shim_is_killed(make_shim: Make, make_bundle: Any) -> None:
    shims = [make_shim(make_bundle(["sleep", "1000"])) for _ in range(2)]
    makers = [_maker(shim) for shim in shims]
    shims[1].create()
    for shim in shims:
        os.kill(shim.pid, signal.SIGKILL)

    eventually(lambda: not any(running(maker) for maker in makers), 5)


def test_a_created_container_that_is_deleted_leaves_no_maker(make_shim: Make, make_bundle: Any) -> None:
    shim = make_shim(make_bundle(["sleep", "1000"]))
    shim.create()
    assert shim.state().status == Status.CREATED

    shim.delete()

    eventually(lambda: not _children(shim.pid) and not _makers(shim), 5)


def test_what_it_has_to_warn_of_is_in_containerds_log(make_shim: Make, make_bundle: Any) -> None:
    def seccomp(spec: dict[str, Any]) -> None:
        rule = {"names": ["nosuchcall"], "action": "SCMP_ACT_ERRNO"}
        spec["linux"]["seccomp"] = {"defaultAction": "SCMP_ACT_ALLOW", "syscalls": [rule]}

    bundle = make_bundle(["true"], seccomp)
    shim = make_shim(bundle)
    assert _maker(shim)
    with open(os.open(bundle / "log", os.O_RDONLY | os.O_NONBLOCK), "rb", buffering=0) as log:
        shim.create()
        text = log.read()

    assert text is not None
    assert b"nosuchcall" in text
    shim.delete()


def _request(shim: Shim) -> Any:
    from pysandbox.shim.messages.task import CreateTaskRequest

    return CreateTaskRequest(id=shim.id, bundle=str(shim.bundle))
