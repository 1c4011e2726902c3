"""By which shim, and with which options, containerd runs a contender."""

from __future__ import annotations

import subprocess
from pathlib import Path

import pytest

from pysandbox.compare import handler
from pysandbox.compare.measure import Failed
from pysandbox.shim.messages.runc import Options as RuncOptions
from pysandbox.shim.messages.runtimeoptions import Options
from pysandbox.shim.options import chosen
from pysandbox.ttrpc.messages.wellknown import Any


def any_of(found: handler.Handler) -> Any:
    return Any.decode(found.options)


@pytest.mark.parametrize(
    ("name", "kind"),
    [("namespaces", "io.containerd.pysandbox.v2"), ("microvm", "io.containerd.pysandbox-microvm.v2")],
)
def test_a_backend_with_a_shims_name_needs_no_options(name: str, kind: str, tmp_path: Path) -> None:
    (found,) = handler.ours(name, "", tmp_path)

    assert (found.type, found.options) == (kind, b"")


def test_another_backend_is_told_in_the_options_as_the_shim_reads_them(tmp_path: Path) -> None:
    (found,) = handler.ours("oci:crun", "", tmp_path)

    assert found.type == "io.containerd.pysandbox.v2"
    assert chosen(any_of(found), pytest.fail).config.backend == "oci:crun"


def test_the_settings_file_of_the_command_counts_with_its_tables_and_the_backend(tmp_path: Path) -> None:
    settings = tmp_path / "given.toml"
    settings.write_text('[backends.microvm]\ndirectory = "/d"\n')
    settings.chmod(0o600)

    (found,) = handler.ours("microvm", str(settings), tmp_path)

    config = chosen(any_of(found), pytest.fail, "microvm").config
    assert config.backend == "microvm"
    assert config.backends["microvm"] == {"directory": "/d"}
    assert settings.read_text() == '[backends.microvm]\ndirectory = "/d"\n'


def test_a_settings_file_that_says_the_backend_is_taken_as_it_is(tmp_path: Path) -> None:
    settings = tmp_path / "given.toml"
    settings.write_text('backend = "microvm"\n')

    (found,) = handler.ours("microvm", str(settings), tmp_path)

    assert Options.decode(any_of(found).value).config_path == str(settings)


@pytest.mark.parametrize(
    ("text", "said"),
    [('backend = "microvm"\n', "says backend = 'microvm'"), ("no toml", "given.toml"), ("a = [" * 5000, "given.toml")],
)
def test_a_settings_file_that_does_not_fit_is_said(text: str, said: str, tmp_path: Path) -> None:
    settings = tmp_path / "given.toml"
    settings.write_text(text)

    with pytest.raises(Failed, match=said):
        handler.ours("namespaces", str(settings), tmp_path)


def test_a_runtime_is_the_program_of_runcs_shim_with_its_state_below_the_benchs(tmp_path: Path) -> None:
    (found,) = handler.runtime("crun", ["/opt/crun"], tmp_path)

    options = RuncOptions.decode(any_of(found).value)
    assert (found.type, any_of(found).type_url) == ("io.containerd.runc.v2", "containerd.runc.v1.Options")
    assert (options.binary_name, options.root) == ("/opt/crun", str(tmp_path / "state"))


def test_gvisors_own_shim_is_tried_first(tmp_path: Path) -> None:
    found = handler.runtime("runsc", ["/opt/runsc"], tmp_path)

    assert [each.type for each in found] == ["io.containerd.runsc.v1", "io.containerd.runc.v2"]


def test_flags_are_passed_by_a_script_that_takes_nothing_for_more_than_a_word(tmp_path: Path) -> None:
    (found,) = handler.runtime("mine", ["/bin/echo", "a b", "$(false)'"], tmp_path)

    script = RuncOptions.decode(any_of(found).value).binary_name
    done = subprocess.run([script, "create", "c d"], capture_output=True, text=True, check=True)
    assert done.stdout == "a b $(false)' create c d\n"
