"""What the microvm backend says of a host: each missing piece is a problem with its remedy, and nothing is raised."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from pysandbox import environment
from pysandbox.errors import Unavailable
from pysandbox_microvm import accelerator, image, inspection
from pysandbox_microvm.accelerator import Processor


def verdict(subject: str, settings: dict[str, Any]) -> tuple[str, str, str]:
    found = [finding for finding in inspection.findings(settings) if finding.subject == subject]
    assert len(found) == 1, found
    return found[0].verdict, found[0].what, found[0].remedy


def script(tmp_path: Path, text: str) -> str:
    program = tmp_path / "program"
    program.write_text(f"#!/bin/sh\n{text}\n")
    program.chmod(0o755)
    return str(program)


def test_without_qemu_the_package_is_named() -> None:
    verdict_, what, remedy = verdict("qemu", {"qemu": "/no/qemu"})
    assert (verdict_, what) == ("problem", "/no/qemu: no QEMU there")
    assert "qemu-system-x86" in remedy


@pytest.mark.parametrize(
    ("answer", "expected"),
    [
        ("echo QEMU emulator version 7.2.22 '(Debian)'", "ok"),
        ("echo QEMU emulator version 10.0.2", "ok"),
        ("echo QEMU emulator version 6.9", "problem"),
        ("echo something else", "problem"),
        ("exit 3", "problem"),
        ("head -c 100000 /dev/urandom", "problem"),
    ],
)
def test_the_version_of_qemu_is_what_it_says(answer: str, expected: str, tmp_path: Path) -> None:
    assert verdict("qemu", {"qemu": script(tmp_path, answer)})[0] == expected


def test_a_qemu_that_does_not_answer_is_a_problem(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(inspection, "VERSION_LIMIT", 0.2)
    assert verdict("qemu", {"qemu": script(tmp_path, "exec sleep 60")})[0] == "problem"


def test_without_a_file_server_the_package_is_named() -> None:
    verdict_, what, _ = verdict("virtiofsd", {"virtiofsd": "/no/virtiofsd"})
    assert verdict_ == "problem"
    assert "install virtiofsd" in what


def test_without_an_image_the_command_is_named(tmp_path: Path) -> None:
    verdict_, what, remedy = verdict("image", {"directory": str(tmp_path)})
    assert (verdict_, remedy) == ("problem", "pysandbox image build")
    assert what == f"no guest image in {tmp_path}/images"


@pytest.mark.parametrize("settings", [{"no_such": 1}, {"template": 3}, {"qemu": 7}, {"directory": "relative"}])
def test_wrong_settings_are_findings(settings: dict[str, Any]) -> None:
    assert verdict("settings", settings)[0] == "problem"


def test_a_full_disk_is_a_problem(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(inspection, "LEAST_SPACE", 1 << 62)
    assert verdict("directory", {"directory": str(tmp_path / "not/yet")})[0] == "problem"


@pytest.mark.parametrize(("megabytes", "expected"), [(100, "problem"), (600, "note"), (6000, "ok")])
def test_memory_is_measured_by_what_a_machine_takes(
    megabytes: int, expected: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(environment, "memory", lambda name: megabytes << 20)
    assert verdict("machine", {})[0] == expected


@pytest.mark.parametrize(
    ("flags", "wanted", "device", "expected"),
    [
        ("", "auto", True, "note"),  # /dev/kvm alone proves nothing
        ("vmx", "auto", True, "ok"),
        ("svm", "auto", False, "note"),
        ("vmx", "tcg", True, "note"),
        ("vmx", "kvm", False, "problem"),
    ],
)
def test_emulation_is_told(
    flags: str, wanted: str, device: bool, expected: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    node = tmp_path / "kvm"
    if device:
        node.touch()
    monkeypatch.setattr(accelerator, "DEVICE", str(node))
    monkeypatch.setattr(accelerator, "read_processor", lambda: Processor("x", frozenset(flags.split()), 1))
    found, what, _ = verdict("accelerator", {"accelerator": wanted})
    assert found == expected
    assert ("promises no isolation" in what) == (expected == "note")


def test_an_image_that_is_damaged_is_a_problem(monkeypatch: pytest.MonkeyPatch) -> None:
    def damaged(settings: object) -> None:
        raise Unavailable("vmlinux: is not what was built; remedy: pysandbox image build")

    monkeypatch.setattr(image, "find_image", damaged)
    assert verdict("image", {}) == ("problem", "vmlinux: is not what was built", "pysandbox image build")
