"""The front end with the fake backend behind it: in this process (`front`), and by the command line (`fake`)."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from runtime import Runtime as CommandLine

from pysandbox import lifecycle, plugins
from pysandbox.oci.bundle import Bundle, load_bundle
from pysandbox.oci.default import default_spec
from pysandbox.state import Store

Bundles = Callable[..., Bundle]


@pytest.fixture
def bundle_of(tmp_path: Path) -> Bundles:
    """Make a bundle that runs a program of the host; keywords go into the spec."""

    def make(*args: str, **members: Any) -> Bundle:
        spec: dict[str, Any] = json.loads(json.dumps(default_spec())) | members
        spec["process"] |= {"args": list(args), "terminal": members.get("terminal", False)}
        spec.pop("terminal", None)
        path = tmp_path / f"bundle{len(list(tmp_path.glob('bundle*')))}"
        (path / "rootfs").mkdir(parents=True)
        (path / "config.json").write_text(json.dumps(spec))
        return load_bundle(str(path))

    return make


@pytest.fixture
def front(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[lifecycle.Runtime]:
    """A front end whose warnings are in `front.warn.lines`."""
    monkeypatch.setitem(plugins.BUILT_IN, "fake", ("pysandbox.testing.fake", "FakeBackend"))
    runtime = lifecycle.Runtime(store=Store(str(tmp_path / "root")), warn=Warnings(), backend="fake")
    yield runtime
    for container_id in list(runtime.store.ids()):
        lifecycle.delete(runtime, container_id, force=True)


class Warnings:
    """Keeps what it is told."""

    def __init__(self) -> None:
        self.lines: list[str] = []

    def __call__(self, text: str) -> None:
        self.lines.append(text)


@pytest.fixture
def plugin(tmp_path: Path) -> Callable[..., Path]:
    """Make a directory for sys.path that holds an installed distribution with one module as an entry point."""

    def make(name: str, source: str, *, distribution: str = "example", version: str = "1.0") -> Path:
        module = f"{distribution.replace('-', '_')}_plugin"
        path = tmp_path / f"site-{distribution}"
        information = path / f"{distribution}-{version}.dist-info"
        information.mkdir(parents=True)
        (path / f"{module}.py").write_text(source)
        (information / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {distribution}\nVersion: {version}\n")
        (information / "entry_points.txt").write_text(f"[pysandbox.backends]\n{name} = {module}\n")
        return path

    return make


FAKE_PLUGIN = """
from pysandbox.hookspecs import hookimpl
from pysandbox.testing.fake import entry

@hookimpl
def pysandbox_register_backend():
    return entry()
"""


@pytest.fixture
def fake(cold_script: Path, tmp_path: Path, plugin: Callable[..., Path]) -> Iterator[CommandLine]:
    """`pysandbox --backend fake`, the backend found through its entry point."""
    site = plugin("fake", FAKE_PLUGIN, distribution="fake-backend")
    program = tmp_path / "pysandbox"
    program.write_text(cold_script.read_text().replace('["', f'[{json.dumps(str(site))}, "', 1))
    program.chmod(0o755)
    runtime = CommandLine([str(program), "--backend", "fake"], tmp_path / "root")
    yield runtime
    runtime.remove_all()
