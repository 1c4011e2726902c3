"""`pysandbox image`: what a person sees of a build, and the list."""

from __future__ import annotations

import io
import json
import os
import sys
import time
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from precondition import requires

from pysandbox import plugins
from pysandbox.cli import image
from pysandbox.cli.main import command
from pysandbox.errors import Unavailable
from pysandbox_microvm.image import Image
from pysandbox_microvm.store import Stored

IMAGE = Image("/d/images/k/vmlinux", "/d/images/k/initrd", "d" * 64, "6.1.7-test", "1" * 64, "2" * 64)


class Store:
    """In the place of the images on disk: builds in a moment."""

    settings: dict[str, Any] = {}
    jobs = 0
    failure: Exception | None = None

    def __init__(self, settings: dict[str, Any]) -> None:
        Store.settings = settings

    def build(self, progress: image.Progress, jobs: int) -> Image:
        Store.jobs = jobs
        progress.step("compiling")
        for done in range(200):
            progress.share(done, 100)
        if Store.failure:
            raise Store.failure
        progress.step("the rest")
        return IMAGE

    def list(self) -> list[Stored]:
        return [
            Stored(key="k2", current=True, release="6.1.7", size=20_100_000, built=1e9, digest="a"),
            Stored(key="k1", current=False, release="", size=0, built=0.0, digest="", damaged="is no manifest"),
        ]


@pytest.fixture(autouse=True)
def store(monkeypatch: pytest.MonkeyPatch) -> type[Store]:
    requires("root")
    monkeypatch.setattr(plugins, "load_part", lambda backend, part: SimpleNamespace(Store=Store))
    Store.failure = None
    return Store


def run(capfd: pytest.CaptureFixture[str], *words: str) -> tuple[int, str, str]:
    code = command(list(words), frozenset())
    output = capfd.readouterr()
    return code, output.out, output.err


# -- build -------------------------------------------------------------------------------------------------------------


def test_a_build_tells_each_step_and_each_quarter(capfd: pytest.CaptureFixture[str]) -> None:
    code, out, _ = run(capfd, "image", "build")
    assert code == 0
    assert [line.split(" after ")[0] for line in out.splitlines()] == [
        "compiling", "  25 %", "  50 %", "  75 %", "the rest", "Linux 6.1.7-test: /d/images/k",
    ]  # fmt: skip


def test_on_a_terminal_a_step_is_one_line_that_grows(monkeypatch: pytest.MonkeyPatch) -> None:
    terminal = io.StringIO()
    monkeypatch.setattr(terminal, "isatty", lambda: True)
    monkeypatch.setattr(sys, "stdout", terminal)
    progress = image.Progress()
    progress.step("compiling")
    for done in range(100):
        progress.share(done, 100)
    progress.end()
    shown = terminal.getvalue()
    assert shown.count("\n") == 1
    assert shown.count("\r") == 101
    assert "compiling: 42 %" in shown
    assert shown.endswith("compiling: 0 s\033[K\n")


def test_more_lines_than_expected_never_make_100_percent(capfd: pytest.CaptureFixture[str]) -> None:
    progress = image.Progress()
    progress.step("compiling")
    progress.share(5000, 1)
    assert "100" not in capfd.readouterr().out


def test_directory_and_jobs_are_passed_on(
    store: type[Store], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    settings = tmp_path / "config.toml"
    settings.write_text('[backends.microvm]\nimages = "/else"\nkernel = "/own"\n')
    assert run(capfd, "--config", str(settings), "image", "build", "--directory", "here", "-j", "3")[0] == 0
    assert (store.settings, store.jobs) == ({"directory": str(tmp_path / "here"), "kernel": "/own"}, 3)


@pytest.mark.parametrize(
    ("words", "text"),
    [
        ([], "requires exactly 1 argument"),
        (["frobnicate"], "requires build or list"),
        (["build", "--jobs", "-1"], "must be from 1 to 1024"),
        (["build", "--jobs", "x"], "invalid value"),
        (["list", "--format", "xml"], "invalid format option"),
    ],
)
def test_bad_words_get_one_line(words: list[str], text: str, capfd: pytest.CaptureFixture[str]) -> None:
    code, _, err = run(capfd, "image", *words)
    assert code == 1
    assert text in err.splitlines()[-1]


def test_a_missing_piece_gets_one_line(store: type[Store], capfd: pytest.CaptureFixture[str]) -> None:
    store.failure = Unavailable("no kernel source; remedy: apt-get install linux-source")
    code, _, err = run(capfd, "image", "build")
    assert code == 1
    assert len(err.splitlines()) == 1
    assert "remedy: apt-get install linux-source" in err


def test_only_root_builds(monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setattr(os, "geteuid", lambda: 1000)
    code, _, err = run(capfd, "image", "build")
    assert code == 1
    assert "run as root" in err


# -- list --------------------------------------------------------------------------------------------------------------


def test_the_list_shows_state_and_which_is_current(capfd: pytest.CaptureFixture[str]) -> None:
    built = time.strftime("%Y-%m-%d %H:%M", time.localtime(1e9))
    code, out, _ = run(capfd, "image", "list")
    assert code == 0
    assert [line.split() for line in out.splitlines()] == [
        ["IMAGE", "CURRENT", "RELEASE", "SIZE", "BUILT", "STATE"],
        ["k2", "yes", "6.1.7", "20.1", "MB", *built.split(), "intact"],
        ["k1", "-", "-", "-", "is", "no", "manifest"],
    ]


def test_the_list_as_json(capfd: pytest.CaptureFixture[str]) -> None:
    documents = json.loads(run(capfd, "image", "list", "-f", "json")[1])
    assert [(one["key"], one["current"], one["damaged"]) for one in documents] == [
        ("k2", True, ""),
        ("k1", False, "is no manifest"),
    ]
