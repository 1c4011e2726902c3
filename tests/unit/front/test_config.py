"""The settings file: root's own, every setting known, and none needed."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

from pysandbox.config import Config, load_config
from pysandbox.errors import InvalidArgument, PermissionDenied


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "config.toml"


def test_every_setting_is_read(path: Path) -> None:
    path.write_text('backend = "b"\nplugins = ["p"]\nobservers = ["o"]\nannotation_backends = ["a"]\n')

    assert load_config(str(path)) == Config(
        path=str(path), backend="b", plugins=("p",), observers=("o",), annotation_backends=("a",)
    )


def test_an_empty_list_of_plugins_allows_none(path: Path) -> None:
    path.write_text("plugins = []\n")

    assert load_config(str(path)).plugins == ()


def test_without_a_file_everything_has_its_default(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr("pysandbox.config.DEFAULT_PATH", str(tmp_path / "nothing"))

    assert load_config(None) == Config()


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("backend = 1", "backend should be a string"),
        ('plugins = "all"', "plugins should be a list of strings"),
        ("observers = [1]", "observers should be a list of strings"),
        ("warm = 0", "warm should be true or false"),
        ("backends = 1", "backends should be a table with one table for each backend"),
        ("[backends]\nmicrovm = 1", "backends should be a table with one table for each backend"),
        ("bakend = 'b'", "unknown setting 'bakend'"),
        ("backend", "config.toml: "),
        ("\xff", "config.toml: "),
    ],
)
def test_a_wrong_setting_is_named(path: Path, text: str, said: str) -> None:
    path.write_bytes(text.encode("latin-1"))

    with pytest.raises(InvalidArgument, match=said):
        load_config(str(path))


def test_settings_of_a_backend_are_kept_as_they_stand(path: Path) -> None:
    path.write_text("[backends.microvm]\ntemplate = false\n")

    assert load_config(str(path)).backends == {"microvm": {"template": False}}


def test_a_file_that_others_can_write_is_refused(path: Path) -> None:
    path.write_text("")
    path.chmod(0o666)

    with pytest.raises(PermissionDenied, match="writable by nobody else"):
        load_config(str(path))


@pytest.mark.parametrize("kind", ["missing", "directory", "device"])
def test_what_is_no_file_is_refused(tmp_path: Path, kind: str) -> None:
    path = {"missing": f"{tmp_path}/none", "directory": str(tmp_path), "device": "/dev/zero"}[kind]

    with pytest.raises(InvalidArgument, match=path):
        load_config(path)


def test_tomllib_is_imported_only_for_a_file() -> None:
    import subprocess

    program = (
        f"import sys; sys.path[:0] = {sys.path!r}\nimport pysandbox.cli.invocation\nprint('tomllib' in sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=60, check=True)

    assert done.stdout == "False\n"
