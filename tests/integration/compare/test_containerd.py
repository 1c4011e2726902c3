"""`pysandbox bench --containerd ADDRESS`: the same through containerd's API."""

from __future__ import annotations

import json
import subprocess
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from precondition import requires

from pysandbox.compare.containerd import Containerd, encode

if TYPE_CHECKING:
    from collections.abc import Iterator


@pytest.fixture
def containerd() -> Iterator[Containerd]:
    """A containerd of the test's own."""
    requires("root", "command containerd", "command ctr", "command containerd-shim-runc-v2")
    pytest.importorskip("grpc", reason="grpcio is not installed: pip install 'pysandbox[containerd]'")
    with (
        tempfile.TemporaryDirectory(prefix="psb-") as place,
        Containerd(Path(place), {"PATH": "/usr/sbin:/usr/bin:/sbin:/bin"}) as daemon,
    ):
        yield daemon


def bench(launcher: Path, *words: str | Path) -> subprocess.CompletedProcess[str]:
    argv = [launcher, "bench", "--only", "containerd", "--rounds", "6", *words]
    return subprocess.run(argv, stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=100, check=False)


def test_a_life_and_an_exec_are_measured_and_nothing_is_left_in_containerd(
    launcher: Path, make_bundle, containerd: Containerd, tmp_path: Path
) -> None:
    requires("command runc")
    bundle = make_bundle(["true"], lambda spec: spec["process"].pop("terminal", None))

    done = bench(
        launcher, "--backend", "runc", "--containerd", containerd.address, "--json", tmp_path / "o.json", bundle
    )

    assert done.returncode == 0, done.stdout + done.stderr
    found = json.loads((tmp_path / "o.json").read_text())
    medians = {each["scenario"]: each["median"] for each in found["figures"]}
    assert found["failures"] == []
    assert set(medians) == {"api: create", "api: start", "api: delete", "api: create to exit", "api: exec to exit"}
    assert medians["api: create to exit"] > medians["api: create"] > 0
    assert not [line for line in containerd.lines("namespace", "list", "--quiet") if line.startswith("pysandbox-bench")]


def test_no_containerd_is_said_in_one_line(launcher: Path, make_bundle, tmp_path: Path) -> None:
    requires("root")
    pytest.importorskip("grpc", reason="grpcio is not installed: pip install 'pysandbox[containerd]'")

    done = bench(launcher, "--containerd", tmp_path / "none.sock", make_bundle(["true"]))

    assert done.returncode == 1
    assert f"containerd at {tmp_path}/none.sock: Version: " in done.stderr
    assert len(done.stderr.splitlines()) == 1


def test_numbers_are_encoded_as_varints() -> None:
    # protobuf's own example of field 1 with the value 150, and nothing for what is not set.
    assert encode({1: 150, 2: 0, 3: ""}) == b"\x08\x96\x01"
