"""`pysandbox bench --containerd ADDRESS`: the same through containerd's API."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from precondition import requires
from runtime import eventually

from pysandbox.compare.containerd import Containerd, encode, first_number

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence


@pytest.fixture
def containerd(launcher: Path, tmp_path: Path) -> Iterator[Containerd]:
    """A containerd of the test's own, which finds our shims as those of this checkout."""
    requires("root", "command containerd", "command ctr", "command containerd-shim-runc-v2", "command runc")
    pytest.importorskip("grpc", reason="grpcio is not installed: pip install 'pysandbox[containerd]'")
    shims = tmp_path / "shims"
    shims.mkdir()
    for name in ("containerd-shim-pysandbox-v2", "containerd-shim-pysandbox-microvm-v2"):
        os.link(launcher, shims / name)
        (shims / f"{name}-cold").symlink_to(f"{launcher}-cold")
    environment = {
        "PATH": f"{shims}:/usr/sbin:/usr/bin:/sbin:/bin",
        "PYSANDBOX_WARM": os.environ.get("PYSANDBOX_WARM", "off"),
    }
    with tempfile.TemporaryDirectory(prefix="psb-") as place, Containerd(Path(place), environment) as daemon:
        yield daemon


SCENARIOS = {
    "api: create", "api: start", "api: delete", "api: create to exit", "api: exec to exit", "api: memory"
}  # fmt: skip


def left() -> set[str]:
    """Cgroups of a bench's containers."""
    found = [
        path for top in ("/sys/fs/cgroup", "/sys/fs/cgroup/memory") for path in Path(top).glob("pysandbox-bench-*")
    ]
    return {str(each) for each in found}


def bench(launcher: Path, *words: str | Path, globals_: Sequence[str | Path] = ()) -> subprocess.CompletedProcess[str]:
    argv = [launcher, *globals_, "bench", "--only", "containerd", "--rounds", "6", *words]
    return subprocess.run(argv, stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=100, check=False)


def test_a_life_and_an_exec_are_measured_and_nothing_is_left_in_containerd(
    launcher: Path, make_bundle, containerd: Containerd, tmp_path: Path
) -> None:
    bundle = make_bundle(["true"], lambda spec: spec["process"].pop("terminal", None))

    done = bench(
        launcher,
        "--quick",
        "--backend",
        "runc",
        "--containerd",
        containerd.address,
        "--json",
        tmp_path / "o.json",
        bundle,
    )

    assert done.returncode == 0, done.stdout + done.stderr
    found = json.loads((tmp_path / "o.json").read_text())
    medians = {each["scenario"]: each["median"] for each in found["figures"]}
    assert found["failures"] == []
    assert set(medians) == SCENARIOS
    assert medians["api: create to exit"] > medians["api: create"] > 0
    assert 1 < medians["api: memory"] < 100  # a shim, and the runtime's monitor if it has one: not the workload
    assert not [line for line in containerd.lines("namespace", "list", "--quiet") if line.startswith("pysandbox-bench")]


def test_backends_of_ours_and_runtimes_with_flags_go_through_it(
    launcher: Path, make_bundle, containerd: Containerd, tmp_path: Path
) -> None:
    runc, before = shutil.which("runc"), left()
    words = ["--quick", "--rounds", "1", "--backend", "namespaces,oci:runc,flagged", "--json", tmp_path / "o.json"]

    done = bench(launcher, *words, "--runtime", f"flagged={runc} --log-format json", "--containerd", containerd.address,
                 make_bundle(["true"], lambda spec: spec["process"].pop("terminal", None)))  # fmt: skip

    assert done.returncode == 0, done.stdout + done.stderr
    found = json.loads((tmp_path / "o.json").read_text())
    notes = {each["name"]: each["note"] for each in found["contenders"]}
    assert found["failures"] == []
    for name in ("namespaces", "oci:runc", "flagged"):
        assert {each["scenario"] for each in found["figures"] if each["contender"] == name} == SCENARIOS
    assert notes["oci:runc"] == 'through containerd: io.containerd.pysandbox.v2 with backend = "oci:runc"'
    assert notes["flagged"] == f"through containerd: io.containerd.runc.v2 with BinaryName {runc} --log-format json"
    eventually(lambda: left() <= before, "no cgroup of it is left", seconds=60)  # those of others come and go


def test_a_runtime_that_containerd_cannot_run_is_told_with_its_words_and_leaves_nothing(
    launcher: Path, make_bundle, containerd: Containerd, tmp_path: Path
) -> None:
    # runc for who calls it by itself; containerd's shim gives --root a directory of its own, of which this complains.
    picky, before = tmp_path / "picky", left()
    picky.write_text('#!/bin/sh\ncase "$*" in */containerd/*) exit 3; esac\nexec runc "$@"\n')
    picky.chmod(0o755)

    done = bench(launcher, "--backend", "picky", "--runtime", f"picky={picky}", "--containerd", containerd.address,
                 make_bundle(["true"]))  # fmt: skip

    assert "FAILED picky, containerd: io.containerd.runc.v2 with BinaryName" in done.stdout, done.stdout + done.stderr
    assert "picky did not terminate successfully: exit status 3" in done.stdout
    assert "Traceback" not in done.stderr
    eventually(lambda: left() <= before, "no cgroup of it is left", seconds=60)  # those of others come and go
    assert not [line for line in containerd.lines("namespace", "list", "--quiet") if line.startswith("pysandbox-bench")]


def test_a_machine_goes_through_it_with_the_settings_of_the_command(
    launcher: Path, make_bundle, containerd: Containerd, settings_file: Path, tmp_path: Path
) -> None:
    words = ["--quick", "--rounds", "1", "--backend", "microvm", "--json", tmp_path / "o.json"]

    done = bench(launcher, *words, "--containerd", containerd.address, make_bundle(["true"]),
                 globals_=["--config", settings_file])  # fmt: skip

    assert done.returncode == 0, done.stdout + done.stderr
    found = json.loads((tmp_path / "o.json").read_text())
    medians = {each["scenario"]: each["median"] for each in found["figures"]}
    assert set(medians) == SCENARIOS, found["failures"]
    assert medians["api: memory"] > 10  # QEMU and virtiofsd are the shim's, not the warm server's


@pytest.mark.parametrize("form", ["{}", "unix://{}", "relative"])
def test_no_containerd_is_said_in_one_line(launcher: Path, make_bundle, tmp_path: Path, form: str) -> None:
    requires("root")
    pytest.importorskip("grpc", reason="grpcio is not installed: pip install 'pysandbox[containerd]'")

    address = os.path.relpath(tmp_path / "none.sock") if form == "relative" else form.format(tmp_path / "none.sock")
    done = bench(launcher, "--containerd", address, make_bundle(["true"]))

    assert done.returncode == 1
    assert f"containerd at {tmp_path}/none.sock: Version: " in done.stderr
    assert len(done.stderr.splitlines()) == 1


def test_numbers_are_encoded_as_varints() -> None:
    # protobuf's own example of field 1 with the value 150, and nothing for what is not set.
    assert encode({1: 150, 2: 0, 3: ""}) == b"\x08\x96\x01"


@pytest.mark.parametrize(
    ("message", "number"),
    [(b"\x08\x96\x01\x12\x00", 150), (b"", 0), (b"\x12\x00", 0), (b"\x08" + b"\xff" * 40, 0), (b"\x08", 0)],
)
def test_an_answers_number_is_read_and_what_has_none_is_0(message: bytes, number: int) -> None:
    assert first_number(message) == number
