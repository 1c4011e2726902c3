"""`pysandbox template`: made beforehand, listed, removed; and by the first container where nobody did."""

from __future__ import annotations

import json
import os
import subprocess
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from precondition import requires

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    Command = Callable[..., subprocess.CompletedProcess[str]]


@pytest.fixture
def template(launcher: Path, microvm_settings: Mapping[str, Any], tmp_path: Path) -> Command:
    """The command, with a directory of its own for templates."""
    requires("root")
    directory = tmp_path / "directory"
    settings = tmp_path / "config.toml"
    images = Path(microvm_settings["directory"], "images")
    told = {"directory": str(directory), "images": str(images), "max_vcpus": 2, "max_memory": 1024}
    lines = [f"{name} = {json.dumps(value)}" for name, value in told.items()]
    settings.write_text("[backends.microvm]\n" + "\n".join(lines) + "\n")
    settings.chmod(0o600)

    def run(*words: str) -> subprocess.CompletedProcess[str]:
        argv = [str(launcher), "--config", str(settings), "template", *words]
        return subprocess.run(argv, check=False, capture_output=True, text=True, timeout=100)

    run.directory = directory  # type: ignore[attr-defined]
    return run


def test_one_is_made_listed_and_removed(template):
    made = template("create", "--memory", "200", "--disk")
    assert (made.returncode, made.stderr) == (0, "")
    key = made.stdout.strip()
    assert template("create", "--memory", "255", "--disk").stdout.strip() == key  # of the same size class
    (listed,) = json.loads(template("list", "--format", "json").stdout)
    assert listed["key"] == key
    assert (listed["vcpus"], listed["memory"], listed["disk"], listed["ports"]) == (1, 128 << 20, True, 4)
    assert 0 < listed["size"] < 64 << 20
    assert key in template("list").stdout
    assert template("rm", key).returncode == 0
    assert json.loads(template("list", "-f", "json").stdout) == []
    assert os.listdir(template.directory / "templates") == ["lock"]


def test_there_are_none_at_first_and_removing_all_of_none_is_fine(template):
    assert template("list").stdout.split() == [
        "TEMPLATE", "VCPUS", "MEMORY", "PORTS", "DISK", "ACCELERATOR", "SIZE", "CREATED"
    ]  # fmt: skip
    assert template("rm", "--all").returncode == 0


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (("create", "--memory", "64"), "memory: must be from"),
        (("create", "--memory", "99999999"), "must not be negative, or so large"),
        (("create", "--memory", "2048"), "memory: must be from"),
        (("create", "--vcpus", "-1"), "must not be negative"),
        (("create", "--vcpus", "3"), "vcpus: must be from 1 to 2"),
        (("create", "--devices", "99"), "more than a machine takes"),
        (("rm", "0123456789abcdef"), "no such template"),
        (("rm", "../../etc"), "no such template"),
        (("list", "--format", "xml"), "invalid format option"),
        (("rm",), "requires create, list, or rm"),
        (("rm", "--all", "x"), "requires create, list, or rm"),
        (("frobnicate",), "requires create, list, or rm"),
    ],
)
def test_what_cannot_be_done_is_refused_in_one_line_and_leaves_nothing(template, words, said):
    refused = template(*words)
    assert refused.returncode == 1
    assert said in refused.stderr
    assert len(refused.stderr.strip().splitlines()) == 1
    assert "Traceback" not in refused.stderr + refused.stdout
    assert not (template.directory / "templates").exists() or os.listdir(template.directory / "templates") == []


def test_a_killed_maker_leaves_no_machine_and_the_next_one_makes_it(template, launcher, tmp_path):
    argv = [str(launcher), "--config", str(tmp_path / "config.toml"), "template", "create", "--memory", "128"]
    maker = subprocess.Popen(argv, stdout=subprocess.PIPE, stderr=subprocess.PIPE)
    machine = wait_for_qemu(maker.pid)
    maker.kill()
    maker.communicate()
    wait_until_gone(machine)
    made = template("create", "--memory", "128")
    assert made.returncode == 0
    assert sorted(os.listdir(template.directory / "templates")) == sorted([made.stdout.strip(), "lock"])


def wait_for_qemu(maker: int) -> int:
    for _ in range(2000):
        for task in (maker, *descendants(maker)):
            if Path(f"/proc/{task}/comm").exists() and Path(f"/proc/{task}/comm").read_text().startswith("qemu"):
                return task
        time.sleep(0.005)
    raise AssertionError("no QEMU has been started")


def descendants(pid: int) -> list[int]:
    try:
        found = [int(child) for child in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]
    except OSError:
        return []
    return found + [each for child in found for each in descendants(child)]


def wait_until_gone(pid: int) -> None:
    for _ in range(400):
        if not os.path.exists(f"/proc/{pid}/exe") or "Z" in Path(f"/proc/{pid}/stat").read_text().split(")")[1][:3]:
            return
        time.sleep(0.005)
    raise AssertionError("QEMU has outlived the one that started it")
