"""`pysandbox shimctl`: what containerd asks a shim, by hand."""

from __future__ import annotations

import json
import subprocess
from typing import TYPE_CHECKING, Any

import pytest

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from integration.shim.conftest import Shim

    Make = Callable[[Path], Shim]


@pytest.fixture
def ctl(launcher: Path) -> Callable[..., subprocess.CompletedProcess[str]]:
    def call(*words: str, stdin: str = "") -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [launcher, "shimctl", *words], input=stdin, capture_output=True, text=True, check=False, timeout=30
        )

    return call


def test_a_container_is_found_by_namespace_and_id(make_shim: Make, make_bundle: Any, ctl: Any) -> None:
    shim = make_shim(make_bundle(["sleep", "100"]))
    pid = shim.create()
    shim.start()
    name = f"{shim.namespace}/{shim.id}"

    state = json.loads(ctl(name, "state").stdout)
    assert (state["status"], state["pid"], state["shim"], state["id"]) == ("running", pid, shim.pid, shim.id)
    assert json.loads(ctl(name, "pids").stdout) == [{"pid": pid}]
    assert json.loads(ctl(name, "metrics").stdout)["pids"]["current"] == 1
    done = ctl(name, "exec", "sh", "-c", "cat; echo err >&2; exit 7", stdin="line\n")
    assert (done.returncode, done.stdout, done.stderr) == (7, "line\n", "err\n")
    big = ctl(name, "exec", "sh", "-c", "yes | head -c 1000000")
    assert big.stdout == "y\n" * 500000
    assert ctl(name, "kill", "KILL").returncode == 0
    assert shim.wait() == 137
    assert json.loads(ctl(name, "state").stdout)["exit_status"] == 137
    shim.delete()


def test_a_container_is_found_by_the_shims_address(make_shim: Make, make_bundle: Any, ctl: Any) -> None:
    shim = make_shim(make_bundle(["sleep", "100"]))
    shim.create()
    address = shim.started.stdout.decode()

    for target in (address, address.removeprefix("unix://")):
        assert json.loads(ctl("--id", shim.id, target, "state").stdout)["status"] == "created"
    assert f"{address}: an address needs --id, the container" in ctl(address, "state").stderr
    shim.delete()


@pytest.mark.parametrize(
    ("words", "told"),
    [
        (("web", "state"), "web: is neither an address, unix:///PATH, nor NAMESPACE/ID of a container"),
        (("nowhere/web", "state"), "container web of namespace nowhere: no shim of pysandbox has it"),
        (("../web", "state"), "../web: is neither an address"),
        (("nowhere/../web", "state"), "is neither an address"),
        (("--id", "web", "unix:///run/nosuchsocket", "state"), "/run/nosuchsocket: no shim answers there"),
        (("nowhere/web", "dance"), '"shimctl" knows no "dance": state, pids, metrics, kill or exec'),
        (("nowhere/web", "exec"), '"shimctl" exec requires a command'),
        (("nowhere/web", "kill", "9", "more"), '"shimctl" kill does not know what to do with "more"'),
    ],
)
def test_what_is_wrong_gets_one_line(ctl: Any, words: tuple[str, ...], told: str) -> None:
    done = ctl(*words)

    assert done.returncode == 1
    assert told in done.stderr.replace('\\"', '"')
    assert len(done.stderr.splitlines()) == 1


def test_what_the_shim_refuses_gets_one_line(make_shim: Make, make_bundle: Any, ctl: Any) -> None:
    shim = make_shim(make_bundle(["sleep", "100"]))
    shim.create()
    name = f"{shim.namespace}/{shim.id}"

    assert "the shim answers: process none of container web: not found" in ctl("--exec", "none", name, "state").stderr
    done = ctl("--id", "other", shim.started.stdout.decode(), "pids")
    assert (done.returncode, len(done.stderr.splitlines())) == (1, 1)
    assert "container other: not found" in done.stderr
    assert ctl(name, "kill", "NOSUCHSIGNAL").stderr.count("\n") == 1
    done = ctl(name, "exec", "nosuchprogram")
    assert 'the shim answers: exec "nosuchprogram"' in done.stderr or "nosuchprogram" in done.stderr
    shim.delete()
