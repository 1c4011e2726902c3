"""`pysandbox --backend oci:…`, warm as cold, for each runtime that is installed, and for runtimes that misbehave."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from precondition import requires
from runtime import Runtime, children, end_children

#: Where gVisor's runtime may lie without being on PATH; it is never required to.
CACHED_RUNSC = Path.home() / ".cache/pysandbox/gvisor/runsc"
#: What it needs on a host without cgroup and network of its own for it.
FLAGS = {"runsc": ["--ignore-cgroups", "--network=none"]}

Make = Callable[..., Runtime]


@pytest.fixture
def make(launcher: Path, tmp_path: Path) -> Iterator[Make]:
    """Make a `pysandbox --backend oci:NAME` with settings, all of the same state directory."""
    requires("root")
    known, made = set(children()), list[Runtime]()

    def make_one(name: str, **settings: object) -> Runtime:
        config = tmp_path / f"config{len(made)}.toml"
        lines = [f"{key} = {json.dumps(value)}" for key, value in settings.items() if key != "args"]
        lines += [
            "[backends.oci.args]",
            *(f'"{key}" = {json.dumps(flags)}' for key, flags in settings.get("args", {}).items()),
        ]  # type: ignore[attr-defined]
        config.write_text("\n".join(["[backends.oci]", *lines, ""]))
        config.chmod(0o600)
        command = [str(launcher), "--config", str(config), "--backend", f"oci:{name}"]
        made.append(Runtime(command, tmp_path / "root"))
        return made[-1]

    yield make_one
    try:
        for runtime in made[:1]:
            runtime.remove_all()
    finally:
        end_children(known)
        for line in [line for runtime in made for line in runtime.log]:
            print(line)


@pytest.fixture(params=["runc", "runsc"])
def installed(request: pytest.FixtureRequest) -> str:
    """A runtime that works on this host, as `oci:` names it. crun has the contract's tests: it refuses hybrid cgroups."""
    name = str(request.param)
    if shutil.which(name):
        return name
    if name == "runsc" and CACHED_RUNSC.exists():
        return str(CACHED_RUNSC)
    pytest.skip(f"{name} is not installed")


@pytest.fixture
def pysandbox(make: Make, installed: str) -> Runtime:
    """Each of them in turn."""
    flags = FLAGS.get(Path(installed).name)
    return make(installed, args={installed: flags} if flags else {})


@pytest.fixture
def oci(make: Make) -> Runtime:
    """The one that any host with containers has."""
    requires("command runc")
    return make("runc")
