"""Streams that are no FIFOs: files, and programs that take output; and the shim's own cgroup."""

from __future__ import annotations

import contextlib
import os
import subprocess
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from daemon.process import running
from integration.shim.conftest import eventually

from pysandbox.shim.messages import task as messages
from pysandbox.shim.messages.process import Status
from pysandbox.shim.messages.runc import Options
from pysandbox.shim.messages.runtimeoptions import Options as RuntimeOptions
from pysandbox.ttrpc.errors import Code, RpcError
from pysandbox.ttrpc.messages.wellknown import Any as AnyMessage

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from integration.shim.conftest import Shim

    Make = Callable[[Path], Shim]

#: Writes what it gets to files beside it: its environment and arguments too.
LOGGER = """#!/bin/sh
cd "${0%/*}"
env | sort >environment; echo "$@" >arguments
exec 5>&-
cat <&3 >out & cat <&4 >err; wait
echo done >ended
"""


@pytest.fixture
def logger(tmp_path: Path) -> Path:
    """A program of root's, in a directory of root's. What is above it is sticky, or root's alone."""
    directory = tmp_path / "logger"
    directory.mkdir(mode=0o755)
    program = directory / "log it"
    program.write_text(LOGGER)
    program.chmod(0o755)
    return program


def _uri(logger: Path, query: str = "") -> str:
    return f"binary://{str(logger).replace(' ', '%20')}{query}"


def test_a_program_takes_the_output(make_shim: Make, make_bundle: Any, logger: Path) -> None:
    shim = make_shim(make_bundle(["sh", "-c", "yes | head -c 500000; echo err >&2"]))
    where = _uri(logger, "?tag=web&empty=")
    descriptors = len(os.listdir(f"/proc/{shim.serving()}/fd"))
    shim.create(stdout=where, stderr=where)
    shim.start()
    assert shim.wait() == 0
    shim.delete()

    assert (logger.parent / "ended").exists()  # Delete has waited for it
    assert (logger.parent / "out").read_bytes() == b"y\n" * 250000
    assert (logger.parent / "err").read_bytes() == b"err\n"
    assert (logger.parent / "arguments").read_text() == "tag web empty\n"
    lines = (logger.parent / "environment").read_text().splitlines()
    assert [line for line in lines if not line.startswith(("PWD=", "_=", "OLDPWD=", "SHLVL="))] == [
        f"CONTAINER_ID={shim.id}",
        f"CONTAINER_NAMESPACE={shim.namespace}",
    ]
    eventually(lambda: len(os.listdir(f"/proc/{shim.serving()}/fd")) <= descriptors + 2)  # the connection for events


def test_a_program_takes_a_terminals_output(make_shim: Make, make_bundle: Any, logger: Path) -> None:
    shim = make_shim(make_bundle(["sh", "-c", "stty -opost; yes | head -c 200000"], terminal=True))
    shim.create(stdout=_uri(logger), terminal=True)
    shim.start()
    assert shim.wait() == 0
    shim.delete()

    assert (logger.parent / "out").read_bytes() == b"y\n" * 100000


@pytest.mark.parametrize("what", ["program", "directory", "owner"])
def test_a_program_that_others_can_replace_is_refused(
    make_shim: Make, make_bundle: Any, logger: Path, what: str
) -> None:
    shim = make_shim(make_bundle(["true"]))
    if what == "program":
        logger.chmod(0o777)
    elif what == "directory":
        logger.parent.chmod(0o777)
    else:
        os.chown(logger, 1000, 0)

    with pytest.raises(RpcError, match="must be owned by root and writable by nobody else") as raised:
        shim.create(stdout=_uri(logger))
    assert raised.value.code == Code.PERMISSION_DENIED
    assert not (logger.parent / "environment").exists()


@pytest.mark.parametrize(
    ("where", "told"),
    [
        ("binary://relative", "is no absolute path of a program"),
        ("binary:///nosuchprogram", "No such file"),
        ("binary:///etc/passwd", "is not a program"),
        ("binary:///bin/true", "ended at once"),
        ("http:///bin/true", "is no absolute path, fifo:// or file://"),
    ],
)
def test_what_is_no_program_is_told_of(make_shim: Make, make_bundle: Any, where: str, told: str) -> None:
    shim = make_shim(make_bundle(["true"]))

    with pytest.raises(RpcError, match=told):
        shim.create(stdout=where)


def test_programs_can_be_turned_off(make_shim: Make, make_bundle: Any, logger: Path, tmp_path: Path) -> None:
    shim = make_shim(make_bundle(["true"]))
    settings = tmp_path / "settings.toml"
    settings.write_text("binary_stdio = false\n")
    settings.chmod(0o600)
    options = RuntimeOptions(config_path=str(settings)).encode()

    with pytest.raises(RpcError, match="has binary_stdio = false") as raised:
        shim.create(stdout=_uri(logger), options=AnyMessage(type_url=RuntimeOptions.NAME, value=options))
    assert raised.value.code == Code.PERMISSION_DENIED


def test_a_file_takes_the_output(make_shim: Make, make_bundle: Any, tmp_path: Path) -> None:
    shim = make_shim(make_bundle(["sh", "-c", "echo out; echo err >&2"]))
    file = tmp_path / "new/log"
    shim.create(stdout=f"file://{file}", stderr=f"file://{file}")
    shim.start()
    assert shim.wait() == 0

    assert file.read_text() == "out\nerr\n"
    shim.delete()


def _ended(shim: Shim) -> bool:
    return bool(shim.state().status == Status.STOPPED)


@pytest.mark.parametrize("terminal", [False, True])
def test_a_client_that_opens_after_the_end_gets_all_of_it(make_shim: Make, make_bundle: Any, terminal: bool) -> None:
    """As containerd's do on a busy machine. Opening waits for somebody who writes: it must not be for ever."""
    shim = make_shim(make_bundle(["echo", "hello"], terminal=terminal))
    descriptors = len(os.listdir(f"/proc/{shim.serving()}/fd"))
    out, err = shim.fifo("out"), "" if terminal else shim.fifo("err")
    shim.create(stdout=out, stderr=err, terminal=terminal)
    shim.start()
    assert shim.wait() == 0

    assert _read(out).replace(b"\r", b"") == b"hello\n"
    if err:
        assert _read(err) == b""
    shim.delete()
    eventually(lambda: len(os.listdir(f"/proc/{shim.serving()}/fd")) <= descriptors + 2)  # the connection for events


def test_an_exit_is_told_when_a_late_client_has_opened_its_end(make_shim: Make, make_bundle: Any) -> None:
    """One that has been told of the exit, as `ctr`, gives up opening, and what was written would be lost."""
    shim = make_shim(make_bundle(["true"]))
    out = shim.fifo("out")
    pid = shim.create(stdout=out)
    shim.start()
    eventually(lambda: not running(pid))
    time.sleep(0.2)
    assert not _ended(shim)

    with open(out, "rb") as reader:
        eventually(lambda: _ended(shim))
        assert reader.read() == b""


def test_a_client_that_never_comes_delays_nothing_for_long(make_shim: Make, make_bundle: Any) -> None:
    shim = make_shim(make_bundle(["true"]))
    out = shim.fifo("out")
    shim.create(stdout=out)
    shim.start()
    assert shim.wait() == 0

    shim.delete()

    eventually(lambda: not any(link == out for link in _links(shim.serving())), 2)


def _links(pid: int) -> list[str]:
    links = []
    for entry in Path(f"/proc/{pid}/fd").iterdir():
        with contextlib.suppress(FileNotFoundError):
            links.append(os.readlink(entry))
    return links


def _read(fifo: str) -> bytes:
    """Open it as a client does, waiting for who writes, and read to the end; in a process, which can be ended."""
    return subprocess.run(["cat", fifo], capture_output=True, check=True, timeout=20).stdout


@pytest.fixture
def cgroup() -> Iterator[str]:
    """A cgroup of the test's own in one hierarchy."""
    name = f"/shim-test-{os.getpid()}"
    top = Path("/sys/fs/cgroup/pids" if Path("/sys/fs/cgroup/pids").is_dir() else "/sys/fs/cgroup")
    (top / name[1:]).mkdir()
    yield name
    eventually(lambda: not (top / name[1:] / "cgroup.procs").read_text())
    (top / name[1:]).rmdir()


def test_the_shim_is_in_the_cgroup_that_runtime_options_name(make_shim: Make, make_bundle: Any, cgroup: str) -> None:
    shim = make_shim(make_bundle(["true"]))
    options = Options(shim_cgroup="/nosuchcgroup").encode()
    with pytest.raises(RpcError, match="shim_cgroup /nosuchcgroup: no hierarchy has such a cgroup"):
        shim.create(options=AnyMessage(type_url=Options.NAME, value=options))
    options = Options(shim_cgroup=cgroup).encode()

    shim.create(options=AnyMessage(type_url=Options.NAME, value=options))

    assert f":{cgroup}\n" in Path(f"/proc/{shim.pid}/cgroup").read_text()
    shim.delete()
    shim.call("Shutdown", messages.ShutdownRequest(id=shim.id))
