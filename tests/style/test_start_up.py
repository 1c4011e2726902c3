"""The start-up budget: what each command may import, and how long that may take against a bare interpreter.

docs/architecture.md tells why. A module named here was measured to cost more than a whole command of runc takes.
"""

from __future__ import annotations

import os
import statistics
import subprocess
import time
from pathlib import Path

import pytest
from precondition import requires
from runtime import MakeBundle, Runtime

#: Never, by any of the commands that docker, podman and containerd call.
HEAVY = {
    "argparse", "asyncio", "concurrent.futures", "dataclasses", "email", "grpc", "http", "importlib.metadata", "importlib.resources",
    "jeepney", "logging", "multiprocessing", "pathlib", "pluggy", "pyroute2", "qemu", "shutil", "socket", "ssl",
    "subprocess", "tempfile", "tomllib", "typing", "unittest", "urllib.request", "uuid", "xml",
}  # fmt: skip

#: An interpreter that imports nothing takes 1; import time alone, the median of a few.
RATIO = {"state": 5.0, "kill": 5.0, "delete": 5.0, "list": 5.0, "create": 6.0, "run": 6.0}

COMMANDS = {
    "state": ["state", "nothing"],
    "kill": ["kill", "nothing", "KILL"],
    "delete": ["delete", "nothing"],
    "list": ["list"],
    "start": ["start", "nothing"],
    "exec": ["exec", "nothing", "true"],
    "run": ["run", "--bundle", "/nonexistent", "nothing"],
    "create": ["create", "--bundle", "/nonexistent", "nothing"],
}


def _imported(runtime: Runtime, arguments: list[str | Path]) -> set[str]:
    """Return the modules that a command imports."""
    interpreter = _interpreter(runtime)
    done = subprocess.run(
        [interpreter, "-I", "-S", "-X", "importtime", *runtime.argv(*arguments)],
        stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=60, check=False,
    )  # fmt: skip
    lines = [line for line in done.stderr.splitlines() if line.startswith("import time:")]
    return {line.rpartition("|")[2].strip() for line in lines}


@pytest.fixture
def launcher(cold_script: Path) -> Path:
    """The budget is the cold start's: the interpreter runs the script."""
    return cold_script


def _interpreter(runtime: Runtime) -> str:
    return Path(runtime.command[0]).read_text().splitlines()[0].removeprefix("#!").partition(" ")[0]


def _heavy(modules: set[str]) -> set[str]:
    return {module for module in modules if any(module == name or module.startswith(f"{name}.") for name in HEAVY)}


@pytest.mark.parametrize("command", COMMANDS)
def test_a_refused_command_imports_nothing_heavy(pysandbox: Runtime, command: str) -> None:
    modules = _imported(pysandbox, list(COMMANDS[command]))

    assert "pysandbox.cli.main" in modules
    assert _heavy(modules) == set()


def test_a_whole_life_imports_nothing_heavy(pysandbox: Runtime, make_bundle: MakeBundle) -> None:
    requires("root")
    bundle = make_bundle(["sleep", "100"])
    container_id = pysandbox.new_id()
    life = {
        "create": ["create", "--bundle", bundle, container_id],
        "start": ["start", container_id],
        "state": ["state", container_id],
        "exec": ["exec", container_id, "true"],
        "kill": ["kill", container_id, "KILL"],
        "delete": ["delete", "--force", container_id],
    }

    heavy = {}
    for command, arguments in life.items():
        if command == "create":  # its output would be held open by the container
            modules = _imported_by_create(pysandbox, arguments, bundle.parent / "create.log")
        else:
            modules = _imported(pysandbox, arguments)
        heavy[command] = _heavy(modules)

    assert heavy == {command: set() for command in life}
    assert pysandbox("state", container_id).returncode == 1


def _imported_by_create(runtime: Runtime, arguments: list[str | Path], log: Path) -> set[str]:
    with log.open("wb") as stream:
        subprocess.run(
            [_interpreter(runtime), "-I", "-S", "-X", "importtime", *runtime.argv(*arguments)],
            stdin=subprocess.DEVNULL, stdout=stream, stderr=stream, timeout=60, check=True,
        )  # fmt: skip
    lines = [line for line in log.read_text().splitlines() if line.startswith("import time:")]
    return {line.rpartition("|")[2].strip() for line in lines}


def test_a_heavy_import_is_seen(tmp_path: Path, cold_script: Path) -> None:
    program = tmp_path / "pysandbox"
    program.write_text(cold_script.read_text().replace("import sys\n", "import sys\nimport uuid\n"))

    assert _heavy(_imported(Runtime([str(program)], tmp_path), ["list"])) == {"uuid"}


def _seconds(argv: list[str]) -> float:
    """Return the processor time of one run: what other processes do on this machine hardly changes it."""
    pid = os.posix_spawn(
        argv[0], argv, {}, file_actions=[(os.POSIX_SPAWN_OPEN, fd, "/dev/null", os.O_RDWR, 0) for fd in (0, 1, 2)]
    )
    usage = os.wait4(pid, 0)[2]
    return usage.ru_utime + usage.ru_stime


@pytest.mark.parametrize("command", RATIO)
def test_start_up_stays_within_its_ratio_to_a_bare_interpreter(pysandbox: Runtime, command: str) -> None:
    interpreter = _interpreter(pysandbox)
    ours = [interpreter, "-IS", *pysandbox.argv(*COMMANDS[command])]
    bare = [interpreter, "-IS", "-c", "pass"]
    _seconds(ours)  # writes the .pyc files

    deadline = time.monotonic() + 20
    pairs = []
    while len(pairs) < 15 and time.monotonic() < deadline:
        pairs.append((_seconds(ours), _seconds(bare)))

    ratio = statistics.median(our for our, _ in pairs) / statistics.median(floor for _, floor in pairs)
    assert ratio <= RATIO[command]
