"""What runtime options make of a request."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from pysandbox import config
from pysandbox.errors import InvalidArgument, PermissionDenied
from pysandbox.shim.messages.runc import Options as RuncOptions
from pysandbox.shim.messages.runtimeoptions import Options as RuntimeOptions
from pysandbox.shim.options import Chosen, chosen
from pysandbox.ttrpc.messages.wellknown import Any as AnyMessage

if TYPE_CHECKING:
    from pathlib import Path


@pytest.fixture(autouse=True)
def settings_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    path = tmp_path / "config.toml"
    path.write_text('backend = "of-the-file"\nplugins = ["allowed"]\n')
    path.chmod(0o600)
    monkeypatch.setattr(config, "DEFAULT_PATH", str(path))
    return path


def ask(body: str) -> Chosen:
    options = RuntimeOptions(config_body=body.encode())
    return chosen(AnyMessage(type_url=RuntimeOptions.NAME, value=options.encode()), print)


def test_without_options_the_settings_file_counts() -> None:
    assert chosen(None, print).config.backend == "of-the-file"
    assert ask("").config.backend == "of-the-file"


def test_a_body_is_laid_over_the_settings_file() -> None:
    settings = ask('backend = "of-the-body"').config

    assert (settings.backend, settings.plugins) == ("of-the-body", ("allowed",))


def test_a_body_may_have_all_of_runcs_names() -> None:
    # What containerd 2 writes for its default handler, with another runtime_type.
    empty = "".join(f'{name} = ""\n' for name in ("BinaryName", "CriuImagePath", "CriuWorkPath", "Root", "ShimCgroup"))
    asked = ask(empty + "IoGid = 0\nIoUid = 0\nNoNewKeyring = false\nSystemdCgroup = false\n")
    assert asked.options.systemd_cgroup is False

    asked = ask('SystemdCgroup = true\nNoPivotRoot = true\nIoUid = 5\nIoGid = 6\nShimCgroup = "/x"')
    assert (asked.options.systemd_cgroup, asked.options.no_pivot) == (True, True)
    assert (asked.owner, asked.shim_cgroup, asked.config.backend) == ((5, 6), "/x", "of-the-file")


def test_what_means_nothing_here_is_told() -> None:
    told: list[str] = []
    options = RuntimeOptions(config_body=b'BinaryName = "crun"\nRoot = ""')

    chosen(AnyMessage(type_url=RuntimeOptions.NAME, value=options.encode()), told.append)

    assert told == ["runtime options: BinaryName: ignored"]


@pytest.mark.parametrize(
    ("body", "said"),
    [
        ("IoUid = true", "IoUid should be a number below 2^32"),
        ("IoUid = -1", "IoUid should be a number below 2^32"),
        ("NoPivotRoot = 1", "NoPivotRoot should be true or false"),
        ("ShimCgroup = 1", "ShimCgroup should be a string"),
    ],
)
def test_a_runc_option_of_another_type_is_refused(body: str, said: str) -> None:
    with pytest.raises(InvalidArgument, match=f"runtime options: {said}".replace("^", r"\^")):
        ask(body)


def test_a_path_counts_instead_of_the_settings_file(tmp_path: Path) -> None:
    other = tmp_path / "other.toml"
    other.write_text('backend = "of-the-other"\n')
    other.chmod(0o600)
    options = RuntimeOptions(config_path=str(other), config_body=b'backend = "of-the-body"')

    settings = chosen(AnyMessage(type_url=RuntimeOptions.NAME, value=options.encode()), print).config

    assert (settings.backend, settings.plugins) == ("of-the-other", None)


def named(options: RuntimeOptions | RuncOptions | None = None) -> str | None:
    """The backend that a shim chooses whose name says `of-the-name`."""
    message = None if options is None else AnyMessage(type_url=options.NAME, value=options.encode())
    return chosen(message, print, "of-the-name").config.backend


def test_the_shims_name_counts_more_than_the_settings_file_and_less_than_options(tmp_path: Path) -> None:
    silent, other = tmp_path / "silent.toml", tmp_path / "other.toml"
    silent.write_text("")
    other.write_text('backend = "of-the-other"\n')
    silent.chmod(0o600)
    other.chmod(0o600)

    for options in (None, RuntimeOptions(), RuncOptions(), RuntimeOptions(config_path=str(silent))):
        assert named(options) == "of-the-name"
    assert named(RuntimeOptions(config_body=b"SystemdCgroup = true")) == "of-the-name"
    assert named(RuntimeOptions(config_path=str(other))) == "of-the-other"
    assert named(RuntimeOptions(config_body=b'backend = "of-the-body"')) == "of-the-body"


def test_a_settings_file_that_others_can_write_is_refused(tmp_path: Path) -> None:
    other = tmp_path / "other.toml"
    other.write_text("")
    other.chmod(0o666)
    options = RuntimeOptions(config_path=str(other))

    with pytest.raises(PermissionDenied, match="writable by nobody else"):
        chosen(AnyMessage(type_url=RuntimeOptions.NAME, value=options.encode()), print)


def test_what_cri_puts_into_the_same_table_is_no_setting_of_ours() -> None:
    assert ask('TypeUrl = "some.type"\nSystemdCgroup = true').options.systemd_cgroup is True
    assert ask('TypeUrl = "some.type"').options.systemd_cgroup is False


@pytest.mark.parametrize(
    ("body", "text"),
    [
        ("backend = 1", "runtime options: backend should be a string"),
        ("bakend = 'a'", "runtime options: unknown setting 'bakend'"),
        ("plugins = 'a'", "runtime options: plugins should be a list of strings"),
        ("SystemdCgroup = 'yes'", "runtime options: SystemdCgroup should be true or false"),
        ("= what", "runtime options: Invalid"),
        ("a = " + "[" * 100_000, "runtime options: nested too deeply"),
    ],
)
def test_a_body_that_is_no_settings_is_refused(body: str, text: str) -> None:
    with pytest.raises(InvalidArgument, match=text):
        ask(body)


def test_the_options_of_runc() -> None:
    options = RuncOptions(no_pivot_root=True, systemd_cgroup=True, io_uid=5, io_gid=6)

    asked = chosen(AnyMessage(type_url=RuncOptions.NAME, value=options.encode()), print)

    assert (asked.options.no_pivot, asked.options.systemd_cgroup, asked.owner) == (True, True, (5, 6))


def test_options_of_another_runtime_are_ignored_with_a_line_in_the_log() -> None:
    lines: list[str] = []

    asked = chosen(AnyMessage(type_url="somebody.else.Options", value=b"\xff"), lines.append)

    assert asked.config.backend == "of-the-file"
    assert lines == ["runtime options of type somebody.else.Options are not known and ignored"]
