"""`make demo`: what a newcomer sees first has to be true."""

from __future__ import annotations

import os
import re
import subprocess
from pathlib import Path

import pytest
from precondition import requires


@pytest.fixture(scope="module")
def demo(repository: Path, launcher: Path) -> str:
    """The output of the demo's first part."""
    return demonstrated(repository, launcher, "run")


def demonstrated(repository: Path, *words: str | Path) -> str:
    """The output of a part of the demo. It must work with any directory, and leave nothing in /tmp."""
    requires("root")
    before = set(Path("/tmp").glob("pysandbox-demo.*"))
    done = subprocess.run(
        ["bash", repository / "setup/demo.sh", *words], cwd="/", stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, timeout=250, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stdout
    assert set(Path("/tmp").glob("pysandbox-demo.*")) <= before
    return done.stdout


def _line(demo: str, name: str) -> str:
    found = re.search(rf"^{name} +(.*)$", demo, re.MULTILINE)
    assert found, demo
    return found.group(1)


def test_the_container_has_its_own_name_and_processes(demo: str) -> None:
    assert _line(demo, "host name") == "demo"
    assert _line(demo, "processes").strip().startswith("1 sh;")
    assert _line(demo, "interfaces").strip() == "lo"


def test_the_container_is_confined(demo: str) -> None:
    assert "Seccomp:2" in _line(demo, "seccomp")
    assert "NoNewPrivs:1" in _line(demo, "no new privs")
    assert "Read-only file system" in _line(demo, "writable")
    assert int(_line(demo, "capabilities").rpartition(":")[2], 16) < 1 << 30
    assert not Path("/proc/keys").exists() or _line(demo, "masked") == "/proc/keys, 0 bytes"


def test_the_container_has_its_memory_limit(demo: str) -> None:
    assert _line(demo, "memory limit") == str(64 << 20)


def test_every_command_is_shown_before_it_runs(demo: str) -> None:
    for command in ("run bundle", "create", "start", "state", "exec", "list", "kill", "delete"):
        assert re.search(rf"^\$ pysandbox {command}", demo, re.MULTILINE), demo
    assert '"status": "running"' in demo
    assert "sleep 600" in demo


def test_it_ends_with_a_comparison_of_who_is_there(repository: Path, launcher: Path) -> None:
    compared = demonstrated(repository, launcher, "compare")
    short = compared.partition("In short")[2]

    assert re.search(r"namespaces .*\d ms .*\d MiB .*\d ok", short), compared
    for name in ("microvm", "runc", "runsc"):
        assert f"│ {name} " in short or f"left out {name}: " in compared


def test_gvisor_is_left_out_where_there_is_no_go_to_build_it_with(repository: Path, tmp_path: Path) -> None:
    (tmp_path / "bin").mkdir()
    for name in ("bash", "env", "sort", "head"):
        (tmp_path / "bin" / name).symlink_to(f"/usr/bin/{name}")

    done = subprocess.run(
        [repository / "setup/runsc.sh", tmp_path / "kept"], env={"PATH": str(tmp_path / "bin")},
        capture_output=True, text=True, timeout=60, check=False,
    )  # fmt: skip

    assert (done.returncode, done.stdout) == (1, "")
    assert "runsc is left out: no Go 1.21 or later" in done.stderr
    assert not (tmp_path / "kept").exists()


def test_the_launcher_ignores_the_callers_python(launcher: Path, tmp_path: Path) -> None:
    # A directory that would be imported first, and a hook that would run code in any ordinary Python.
    for name in ("json", "enum", "sitecustomize", "pysandbox"):
        (tmp_path / f"{name}.py").write_text("raise SystemExit('imported from the caller')\n")
    hostile = {"PATH": "/nonexistent", "PYTHONPATH": str(tmp_path), "PYTHONHOME": str(tmp_path), "LC_ALL": "xx_XX",
               "PYTHONSTARTUP": str(tmp_path / "json.py"), "PYTHONINSPECT": "1", "PYSANDBOX_WARM": "off"}  # fmt: skip

    done = subprocess.run(
        [launcher, "--version"], cwd=tmp_path, env=hostile, capture_output=True, text=True, timeout=60, check=False
    )

    assert done.returncode == 0, done.stderr
    assert "pysandbox version" in done.stdout


def test_the_launcher_works_in_a_directory_that_is_gone(launcher: Path, tmp_path: Path) -> None:
    gone = tmp_path / "gone"
    gone.mkdir()

    done = subprocess.run(
        ["sh", "-c", f"rmdir {gone}; exec {launcher} --version"], cwd=gone, capture_output=True, text=True,
        env={"PATH": os.defpath, "PYSANDBOX_WARM": "off"}, timeout=60, check=False,
    )  # fmt: skip

    assert done.returncode == 0, done.stderr
