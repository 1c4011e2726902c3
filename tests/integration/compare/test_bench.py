"""`pysandbox bench` and `compare` on real bundles."""

from __future__ import annotations

import copy
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

import jsonschema
import pytest
from precondition import requires
from runtime import eventually

from pysandbox.compare import document
from pysandbox.oci.default import default_spec

if TYPE_CHECKING:
    from collections.abc import Sequence

SCHEMA = json.loads(document.schema())
BENCH_SCHEMA = {"$schema": SCHEMA["$schema"], **SCHEMA["$defs"]["bench"]}
QUICK = ("--quick", "--rounds", "6")


def call(launcher: Path, command: str, *words: str | Path) -> subprocess.CompletedProcess[str]:
    argv = [launcher, command, *words]
    return subprocess.run(argv, stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=120, check=False)


def tree(path: Path) -> dict[str, tuple[int, int, int]]:
    """What would show that something was changed: mode, size and time of change of every file."""
    found = {}
    for each in (path, *path.rglob("*")):
        status = each.lstat()
        found[str(each)] = (status.st_mode, status.st_size, status.st_ctime_ns)
    return found


def ours() -> set[str]:
    """Directories, mounts and cgroups of benches: those of others may come and go."""
    mounts = [line for line in Path("/proc/self/mountinfo").read_text().splitlines() if "pysandbox-bench-" in line]
    cgroups = [path for top in ("", "*/") for path in Path("/sys/fs/cgroup").glob(f"{top}bench-*")]
    return {*mounts, *(str(each) for each in (*Path("/tmp").glob("pysandbox-bench-*"), *cgroups))}


def is_left_alone(before: set[str]) -> None:
    """Whatever is there now, and was not, belongs to another bench, and goes with it."""
    eventually(lambda: ours() <= before, "nothing is left of a bench", seconds=60)


@pytest.fixture(scope="module")
def bundle(busybox_rootfs: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A bundle with a read-only root, hooks that would fail, a terminal, and a user who is not root."""
    requires("root")
    path = tmp_path_factory.mktemp("bundle")
    subprocess.run(["cp", "-a", busybox_rootfs, path / "rootfs"], check=True)
    spec = copy.deepcopy(dict(default_spec()))
    spec["hooks"] = {"prestart": [{"path": "/bin/false"}]}
    spec["process"]["user"] = {"uid": 1000, "gid": 1000}
    spec["root"]["readonly"] = True
    (path / "config.json").write_text(json.dumps(spec))
    return path


@pytest.fixture(scope="module")
def measured(launcher: Path, bundle: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """A quick comparison of two contenders that work and two that do not, without its audits."""
    requires("command runc")
    place = tmp_path_factory.mktemp("measured")
    false = place / "false"
    false.write_text("#!/bin/sh\necho I am no runtime >&2; exit 3\n")
    false.chmod(0o755)
    before, left = tree(bundle), ours()
    done = call(launcher, "bench", *QUICK, "--backend", "namespaces,runc,broken,nosuch", "--runtime", f"broken={false}",
                "--json", place / "out.json", bundle)  # fmt: skip
    assert done.returncode == 0, done.stdout + done.stderr
    assert tree(bundle) == before
    is_left_alone(left)
    return {"text": done.stdout, **json.loads((place / "out.json").read_text())}


def medians(found: dict[str, Any], contender: str) -> dict[str, float]:
    return {each["scenario"]: each["median"] for each in found["figures"] if each["contender"] == contender}


def test_the_document_is_of_the_published_schema(measured: dict[str, Any]) -> None:
    found = {name: value for name, value in measured.items() if name != "text"}

    jsonschema.validate(found, BENCH_SCHEMA)


def test_the_schema_does_not_take_anything(measured: dict[str, Any]) -> None:
    for change in ({"text": "more"}, {"version": 2}, {"figures": [{}]}):
        with pytest.raises(jsonschema.ValidationError):
            jsonschema.validate(
                {**{name: value for name, value in measured.items() if name != "text"}, **change}, BENCH_SCHEMA
            )


def test_the_schema_is_a_schema(launcher: Path) -> None:
    done = call(launcher, "compare", "--schema")

    jsonschema.Draft202012Validator.check_schema(json.loads(done.stdout))
    assert json.loads(done.stdout) == SCHEMA


@pytest.mark.parametrize("contender", ["namespaces", "runc"])
def test_everything_is_measured_of_a_contender(measured: dict[str, Any], contender: str) -> None:
    wanted = {each["name"] for each in measured["scenarios"] if each["group"] != "containerd"}
    missing = wanted - set(medians(measured, contender))

    # MemAvailable of a busy machine may grow meanwhile; the warm server is told once.
    assert {name for name in missing if not name.startswith(("available memory", "memory, warm server"))} == set()
    assert not [each for each in measured["failures"] if each["contender"] == contender]


def test_the_figures_are_possible(measured: dict[str, Any]) -> None:
    host, runc = medians(measured, "host"), medians(measured, "runc")

    assert 0.1 < host["start to exit"] < runc["start to exit"] < 5000
    assert runc["start to first byte"] <= runc["start to exit"]
    assert runc["memory, detached"] == 0  # nothing of runc stays
    assert runc["memory, run waits"] > 1


def test_who_cannot_run_is_left_out_with_its_own_words(measured: dict[str, Any]) -> None:
    assert measured["missing"]["broken"] == "broken: run: exit code 3: I am no runtime"
    assert "nosuch" in measured["missing"]["nosuch"]
    assert "left out broken: broken: run: exit code 3: I am no runtime" in measured["text"]


def test_what_was_changed_of_the_bundle_is_told(measured: dict[str, Any]) -> None:
    told = " ".join(measured["changes"])

    assert "hooks are not run" in told
    assert "yours is read-only" in told


def test_the_tool_itself_takes_little(measured: dict[str, Any]) -> None:
    assert measured["tool_processor_seconds"] < 0.25 * measured["seconds"]


def test_our_commands_were_warm(measured: dict[str, Any], servers: object) -> None:
    if servers is None:
        pytest.skip("with --warm off nothing is")
    assert not [note for note in measured["notes"] if "ran cold" in note]


def test_a_comparison_has_audits_and_a_page(launcher: Path, bundle: Path, tmp_path: Path) -> None:
    done = call(launcher, "compare", "--quick", "--rounds", "1", "--backend", "namespaces", "--json", tmp_path / "c.json",
                "--html", tmp_path / "c.html", bundle)  # fmt: skip

    assert done.returncode == 0, done.stdout + done.stderr
    found = json.loads((tmp_path / "c.json").read_text())
    jsonschema.validate(found, SCHEMA)
    assert [each["contender"] for each in found["audits"]] == ["namespaces"]
    assert found["audits"][0]["findings"] or found["audits"][0]["failure"]
    assert (tmp_path / "c.html").read_text().startswith("<!doctype html>")


def test_a_bundle_with_a_user_namespace_is_measured(launcher: Path, make_bundle: Any, tmp_path: Path) -> None:
    requires("root", "command runc")

    def own_users(spec: dict[str, Any]) -> None:
        spec["linux"]["namespaces"].append({"type": "user"})
        for name in ("uidMappings", "gidMappings"):
            spec["linux"][name] = [{"containerID": 0, "hostID": 100000, "size": 65536}]

    bundle = make_bundle(["true"], own_users)

    done = call(launcher, "bench", "--only", "life", "--rounds", "1", "--backend", "namespaces,runc", "--json",
                tmp_path / "o.json", bundle)  # fmt: skip

    assert done.returncode == 0, done.stdout + done.stderr
    assert json.loads((tmp_path / "o.json").read_text())["missing"] == {}


def test_an_interrupted_bench_keeps_and_says_what_it_has(launcher: Path, bundle: Path, tmp_path: Path) -> None:
    left = ours()
    argv: Sequence[Any] = [
        launcher,
        "bench",
        "--rounds",
        "5000",
        "--only",
        "life",
        "--backend",
        "namespaces",
        "--json",
        "i.json",
        bundle,
    ]
    environment = {**os.environ, "TMPDIR": str(tmp_path)}
    running = subprocess.Popen(
        argv, cwd=tmp_path, env=environment, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, text=True
    )
    try:
        # The pid file of the container that it holds is there before the first round; then rounds go on.
        eventually(lambda: list(tmp_path.glob("pysandbox-bench-*/contender-*/0/pid")), "it has begun", seconds=30)
        time.sleep(4)
        running.send_signal(signal.SIGINT)
        time.sleep(0.2)
        running.send_signal(signal.SIGINT)  # impatience must not stop the clearing up
        text, _ = running.communicate(timeout=30)
    finally:
        running.kill()
        running.wait()

    found = json.loads((tmp_path / "i.json").read_text())
    assert running.returncode == 130
    assert "INTERRUPTED" in text
    assert found["interrupted"]
    assert medians(found, "namespaces")["start to exit"] > 0
    assert os.listdir(tmp_path) == ["i.json"]
    is_left_alone(left)


def test_a_killed_bench_leaves_nothing(launcher: Path, bundle: Path, tmp_path: Path) -> None:
    left = ours()
    argv = [launcher, "bench", "--rounds", "5000", "--only", "life", "--backend", "namespaces", bundle]
    environment = {**os.environ, "TMPDIR": str(tmp_path)}
    with subprocess.Popen(argv, env=environment, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL) as running:
        eventually(lambda: list(tmp_path.glob("pysandbox-bench-*/contender-*/0/pid")), "it has begun", seconds=30)

        running.kill()

    eventually(lambda: os.listdir(tmp_path) == [], "its child has cleared up", seconds=30)
    is_left_alone(left)


def test_a_failing_disk_costs_the_file_and_not_the_tables(launcher: Path, bundle: Path, tmp_path: Path) -> None:
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=16k", "none", tmp_path], check=True)
    try:
        done = call(
            launcher, "bench", "--quick", "--rounds", "1", "--backend", "namespaces", "--json", tmp_path / "o", bundle
        )

        assert done.returncode == 1
        assert "No space left on device" in done.stderr
        assert "start to exit" in done.stdout
        assert os.listdir(tmp_path) == []
    finally:
        subprocess.run(["umount", tmp_path], check=True)


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["/no/such/bundle"], "/no/such/bundle"),
        (["--rounds", "0", "BUNDLE"], "--rounds 0: must be 1 to"),
        (["--runtime", "x", "BUNDLE"], "must be NAME=PATH"),
        (["--backend", "host", "BUNDLE"], "no name of a backend"),
        (["--json", "/no/such/dir/x.json", "BUNDLE"], "/no/such/dir/x.json: No such file"),
        (["--against", "/no/such/file", "BUNDLE"], "/no/such/file: No such file"),
        (["--backend", "nosuch", "BUNDLE"], "there is nobody to measure but the host: nosuch: "),
    ],
)
def test_bad_input_gets_one_line_and_costs_no_time(launcher: Path, bundle: Path, words: list[str], said: str) -> None:
    left = ours()

    done = call(launcher, "bench", *(os.fspath(bundle) if word == "BUNDLE" else word for word in words), "--quick")

    assert done.returncode == 1
    assert said in done.stderr
    assert "Traceback" not in done.stderr
    assert len(done.stderr.splitlines()) == 1
    assert done.stdout == ""
    is_left_alone(left)


def test_without_its_libraries_a_comparison_says_what_to_install(bundle: Path) -> None:
    # The interpreter as the cold script starts it, but without any installed package.
    repository = Path(document.__file__).parents[3]
    code = "import sys; sys.path += sys.argv[1:3]; sys.argv = ['pysandbox', *sys.argv[3:]]; from pysandbox.cli.main import main; sys.exit(main())"
    argv = ["/usr/bin/env", "-i", os.path.realpath(sys.executable), "-I", "-S", "-c", code]
    argv += [f"{repository}/runtime_api", f"{repository}/backends", "compare", str(bundle)]

    done = subprocess.run(argv, capture_output=True, text=True, timeout=60, check=False)

    assert done.returncode == 1
    assert "is not installed: pip install 'pysandbox[compare]'" in done.stderr
    assert len(done.stderr.splitlines()) == 1


def test_a_machine_is_measured_with_all_that_it_needs_outside(
    launcher: Path, bundle: Path, settings_file: Path, tmp_path: Path
) -> None:
    argv = [
        launcher,
        "--config",
        settings_file,
        "bench",
        "--quick",
        "--only",
        "life,memory,growth",
        "--rounds",
        "1",
        "--backend",
    ]
    done = subprocess.run(
        [*argv, "microvm", "--json", tmp_path / "o.json", bundle],
        stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=200, check=False,
    )  # fmt: skip

    assert done.returncode == 0, done.stdout + done.stderr
    found = json.loads((tmp_path / "o.json").read_text())
    figures = medians(found, "microvm")
    assert [each["name"] for each in found["contenders"] if each.get("accelerator")] == ["microvm"]
    assert figures["memory, detached"] > 10  # QEMU, its guest and virtiofsd are there; of runc nothing is
    assert {"start to exit", "create", "exec to exit", "delete"} <= set(figures)
    assert figures["memory of each, 1 there"] > 10
    # The next level is there, or it is told why not: machines under emulation may take longer than they get.
    assert "memory of each, 5 there" in figures or any("left out: 5 there" in note for note in found["notes"])
