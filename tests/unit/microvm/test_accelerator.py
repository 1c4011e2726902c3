"""What runs the guest's code: found by trial, and remembered."""

from __future__ import annotations

import json

import pytest

from pysandbox.errors import DeadlineExceeded, Unavailable
from pysandbox_microvm import accelerator
from pysandbox_microvm.accelerator import ANSWERS, Processor, find_accelerator, read_processor

KEY = {"boot": "b", "qemu": "q", "image": "i"}


def processor(*flags: str) -> Processor:
    return Processor("a model", frozenset(flags), 2_000_000)


@pytest.fixture
def kvm_is_there(monkeypatch):
    monkeypatch.setattr(accelerator, "DEVICE", "/dev/null")


class Trials:
    """Counts trials; each works, or raises what it is told to."""

    def __init__(self, error: Exception | None = None) -> None:
        self.names: list[str] = []
        self._error = error

    def __call__(self, name: str) -> None:
        self.names.append(name)
        if self._error is not None:
            raise self._error


def test_a_processor_without_virtualisation_is_not_even_tried(tmp_path, kvm_is_there):
    trial = Trials()
    assert find_accelerator("auto", processor("lm"), str(tmp_path), KEY, trial).name == "tcg"
    assert trial.names == []


@pytest.mark.parametrize(("flag", "name"), [("vmx", "kvm-vmx"), ("svm", "kvm-svm")])
def test_a_trial_that_works_proves_the_processors_own(tmp_path, kvm_is_there, flag, name):
    assert find_accelerator("auto", processor(flag), str(tmp_path), KEY, Trials()).name == name


def test_without_virtualisation_kvm_is_tried_only_where_the_settings_ask_for_it(tmp_path, kvm_is_there):
    trial = Trials()
    assert find_accelerator("kvm", processor("lm"), str(tmp_path), KEY, trial).name == "kvm-pvm"
    assert trial.names == ["kvm-pvm"]


def test_a_trial_that_hangs_means_emulation_and_says_why(tmp_path, kvm_is_there):
    answer = find_accelerator("auto", processor("vmx"), str(tmp_path), KEY, Trials(DeadlineExceeded("no agent")))
    assert answer.name == "tcg"
    assert "no agent" in answer.reason


def test_kvm_that_is_asked_for_and_does_not_work_is_refused_with_a_remedy(tmp_path, kvm_is_there):
    with pytest.raises(Unavailable, match="no agent.*remedy: the setting accelerator"):
        find_accelerator("kvm", processor("vmx"), str(tmp_path), KEY, Trials(DeadlineExceeded("no agent")))


def test_no_device_means_emulation(tmp_path, monkeypatch):
    monkeypatch.setattr(accelerator, "DEVICE", str(tmp_path / "none"))
    assert find_accelerator("auto", processor("vmx"), str(tmp_path), KEY, Trials()).name == "tcg"


def test_the_setting_spares_the_trial(tmp_path, kvm_is_there):
    trial = Trials()
    assert find_accelerator("tcg", processor("vmx"), str(tmp_path), KEY, trial).name == "tcg"
    assert trial.names == []


def test_an_answer_is_kept_for_the_same_host_qemu_and_image(tmp_path, kvm_is_there):
    trial = Trials()
    for _ in range(3):
        find_accelerator("auto", processor("vmx"), str(tmp_path), KEY, trial)
    assert len(trial.names) == 1
    for part in KEY:
        find_accelerator("auto", processor("vmx"), str(tmp_path), {**KEY, part: "another"}, trial)
    assert len(trial.names) == 4


def test_a_file_of_answers_that_is_garbage_is_none(tmp_path, kvm_is_there):
    for garbage in (b"", b"{}", b"[1,2]", b'[{"key": {}, "name": "rm -rf", "reason": ""}]', b"[" * 50_000, b"\xff"):
        (tmp_path / ANSWERS).write_bytes(garbage)
        trial = Trials()
        assert find_accelerator("auto", processor("vmx"), str(tmp_path), KEY, trial).name == "kvm-vmx"
        assert len(trial.names) == 1


def test_answers_do_not_pile_up(tmp_path, kvm_is_there):
    for number in range(40):
        find_accelerator("auto", processor("vmx"), str(tmp_path), {**KEY, "image": str(number)}, Trials())
    assert len(json.loads((tmp_path / ANSWERS).read_text())) == 16


def test_a_directory_that_cannot_be_written_to_costs_a_trial_each_time(kvm_is_there):
    trial = Trials()
    for _ in range(2):
        assert find_accelerator("auto", processor("vmx"), "/proc/none", KEY, trial).name == "kvm-vmx"
    assert len(trial.names) == 2


def test_the_first_processor_tells_its_name_flags_and_clock(tmp_path):
    text = "processor\t: 0\nmodel name\t: A\nflags\t\t: fpu svm\nbogomips\t: 4890.85\n\nprocessor\t: 1\nflags\t: vmx\n"
    (tmp_path / "cpuinfo").write_text(text)
    assert read_processor(str(tmp_path / "cpuinfo")) == Processor("A", frozenset({"fpu", "svm"}), 2_445_425)


def test_a_processor_that_does_not_tell_its_clock_is_refused(tmp_path):
    (tmp_path / "cpuinfo").write_text("processor : 0\n")
    with pytest.raises(Unavailable, match="bogomips"):
        read_processor(str(tmp_path / "cpuinfo"))
