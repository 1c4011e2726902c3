"""What the runtime writes on the host, and what it reads there: modes, links, environment, working directory."""

from __future__ import annotations

import json
import os
import signal
import stat
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
from harness.bundle import Bundle
from harness.host import Canary
from harness.program import Compiler
from harness.runtime import PROJECT, Runtime

from pysandbox.linux import start_time

NOBODY = 65534


def as_nobody(script: str) -> str:
    """What an unprivileged user of the host gets to see."""
    answer = subprocess.run(
        ["/bin/sh", "-c", script],
        user=NOBODY,
        group=NOBODY,
        extra_groups=[],
        capture_output=True,
        text=True,
        cwd="/",
        check=False,
    )
    return answer.stdout


def test_another_user_sees_nothing_of_the_state(runtime: Runtime, bundle: Bundle) -> None:
    """CVE-2021-41091, CVE-2024-25621."""
    previous = os.umask(0)
    try:
        with runtime.running(bundle.runs("/bin/sleep", "1000")):
            seen = as_nobody(f"ls -R {runtime.root} 2>/dev/null | grep -v :$; find {runtime.root} -type f 2>/dev/null")
            modes = {entry: stat.S_IMODE(entry.lstat().st_mode) for entry in [runtime.root, *runtime.root.rglob("*")]}
    finally:
        os.umask(previous)

    assert seen.strip() == ""
    assert {path: oct(mode) for path, mode in modes.items() if mode & 0o077 and path == runtime.root} == {}
    assert {path: oct(mode) for path, mode in modes.items() if mode & 0o022 and not path.is_symlink()} == {}


def test_a_state_directory_that_another_user_prepared_is_not_followed(
    runtime: Runtime, bundle: Bundle, canary: Canary
) -> None:
    """firecracker CVE-2026-1386: a link where the container's directory is going to be."""
    container = runtime.new_id()
    runtime.root.mkdir(mode=0o700)
    (runtime.root / container).symlink_to(canary.path)

    answer = runtime.run(bundle, container=container)

    assert answer.refused, answer
    canary.assert_unchanged()
    (runtime.root / container).unlink()


def test_a_pid_file_that_is_a_link_is_replaced_not_followed(
    runtime: Runtime, bundle: Bundle, canary: Canary, place: Path
) -> None:
    pid_file = place / "pid"
    pid_file.symlink_to(canary.path / "host-only")

    runtime.run(bundle, "--pid-file", os.fspath(pid_file))

    canary.assert_unchanged()


@pytest.mark.parametrize("target", ["{place}/missing/pid", "{place}", "/proc/self/nothing"])
def test_a_pid_file_that_cannot_be_written_leaves_no_container(
    runtime: Runtime, bundle: Bundle, place: Path, target: str
) -> None:
    answer = runtime.run(bundle, "--pid-file", target.format(place=place))

    answer.assert_one_clear_line()


@pytest.mark.parametrize("target", ["{place}/missing/log", "{place}", "/proc/self/nothing"])
def test_a_log_that_cannot_be_written_is_one_clear_line(
    runtime: Runtime, bundle: Bundle, place: Path, target: str
) -> None:
    answer = runtime.call(
        "--log", target.format(place=place), "run", "--bundle", os.fspath(bundle.write()), runtime.new_id()
    )

    answer.assert_one_clear_line()


def test_a_log_that_is_a_fifo_without_reader_holds_nothing_up(runtime: Runtime, bundle: Bundle, place: Path) -> None:
    os.mkfifo(place / "log")

    answer = runtime.call(
        "--log", os.fspath(place / "log"), "run", "--bundle", os.fspath(bundle.write()), runtime.new_id(), limit=20
    )

    assert answer.seconds < 15


#: The start of a Python module that tells that it was imported.
POISON = "import os\nopen({mark!r}, 'w').close()\nraise SystemExit('poisoned')\n"
MODULES = "json os re ctypes dataclasses pluggy encodings sitecustomize usercustomize pysandbox argparse typing enum shutil errno".split()


@pytest.fixture
def poisoned_modules(place: Path) -> tuple[Path, Path]:
    """A directory of Python modules that leave a mark when imported, and the mark."""
    directory, mark = place / "poison", place / "mark"
    directory.mkdir()
    for name in MODULES:
        (directory / f"{name}.py").write_text(POISON.format(mark=os.fspath(mark)))
    return directory, mark


def test_a_poisoned_directory_does_poison_a_plain_interpreter(poisoned_modules: tuple[Path, Path]) -> None:
    directory, mark = poisoned_modules

    subprocess.run([sys.executable, "-c", "import json"], cwd=directory, capture_output=True, check=False)

    assert mark.exists()


def needs_launcher() -> None:
    if not (PROJECT / ".venv/bin/pysandbox").exists():
        pytest.fail("no .venv/bin/pysandbox: run `make setup`, the launcher is what protects the interpreter")


def test_nothing_is_imported_from_the_working_directory(
    runtime: Runtime, bundle: Bundle, poisoned_modules: tuple[Path, Path]
) -> None:
    """The working directory of a shim is the bundle: an image's author may have written there."""
    needs_launcher()
    directory, mark = poisoned_modules

    answer = runtime.run(bundle, cwd=directory)

    assert answer.code == 0, answer
    assert not mark.exists()


@pytest.mark.parametrize(
    "environment",
    [
        {"PYTHONPATH": "{0}"}, {"PYTHONHOME": "{0}"}, {"PYTHONSTARTUP": "{0}/json.py", "PYTHONINSPECT": "1"},
        {"PYTHONUSERBASE": "{0}", "HOME": "{0}"}, {"PYTHONPLATLIBDIR": "{0}", "PYTHONEXECUTABLE": "{0}"},
        {"PYTHONWARNINGS": "error", "PYTHONDEVMODE": "1", "PYTHONTRACEMALLOC": "9"}, {"PYTHONBREAKPOINT": "json.loads"},
        {"PYTHONMALLOC": "debug", "PYTHONVERBOSE": "1", "PYTHONUTF8": "7"}, {"LC_ALL": "tr_TR.UTF-8", "LANG": "xx"}, {"TMPDIR": "{0}/none"},
        {"LISTEN_FDS": "x", "LISTEN_PID": "1"}, {"LISTEN_FDS": "99999999999"}, {"NOTIFY_SOCKET": "/nonexistent"}, {"XDG_RUNTIME_DIR": "{0}"},
    ],
    ids="+".join,
)  # fmt: skip
def test_the_callers_environment_changes_nothing(
    runtime: Runtime, bundle: Bundle, poisoned_modules: tuple[Path, Path], environment: dict[str, str]
) -> None:
    needs_launcher()
    directory, mark = poisoned_modules
    values = {name: value.format(directory) for name, value in environment.items()}

    answer = runtime.run(bundle.script("echo ran"), env=values)

    assert "Traceback" not in answer.err
    assert not mark.exists()
    assert (answer.out == "ran\n" and "import" not in answer.err) or (
        # What systemd's protocols demand and the caller got wrong may be refused, by its name.
        answer.refused and any(name in answer.err for name in values if name.startswith(("LISTEN", "NOTIFY")))
    ), answer


def test_the_container_gets_the_environment_of_the_spec_only(runtime: Runtime, bundle: Bundle) -> None:
    bundle.process["env"] = ["PATH=/bin", "ONE=1"]

    with runtime.running(bundle.script("env > /tmp/env; sleep 1000")) as container:
        execed = runtime.exec(container, "/bin/env", env={"LD_PRELOAD": "", "SECRET": "host"})
        inside = runtime.exec(
            container, "/bin/sh", "-c", "until test -s /tmp/env; do :; done; cat /tmp/env", env={"SECRET": "host"}
        )

    for answer in (execed, inside):
        names = {line.partition("=")[0] for line in answer.out.splitlines()}
        assert names <= {"PATH", "ONE", "HOME", "PWD", "SHLVL", "TERM"}, answer


def test_hooks_get_the_environment_of_the_spec_only(runtime: Runtime, bundle: Bundle, place: Path) -> None:
    hook = place / "hook"
    hook.write_text(f"#!/bin/sh\n/usr/bin/env > {place}/hook-env\nls -l /proc/self/fd > {place}/hook-fds\n")
    hook.chmod(0o755)
    bundle.spec["hooks"] = {"createRuntime": [{"path": os.fspath(hook), "env": ["ONE=1"]}]}

    answer = runtime.run(bundle, env={"SECRET": "host"})

    assert answer.code == 0, answer
    names = {line.partition("=")[0] for line in (place / "hook-env").read_text().splitlines()}
    assert names <= {"ONE", "PWD", "SHLVL", "_"}
    listing = (place / "hook-fds").read_text()
    numbers = {int(line.partition(" -> ")[0].split()[-1]) for line in listing.splitlines() if " -> " in line}
    assert numbers <= {0, 1, 2, 3}, listing


PROGRAMS = "mount umount ip newuidmap newgidmap tar sh ldconfig ls iptables modprobe env python3 systemd-run nsenter ldd gcc".split()


def test_no_program_or_library_of_the_image_runs_outside_the_container(
    runtime: Runtime, bundle: Bundle, compiler: Compiler
) -> None:
    """docker CVE-2019-14271, moby CVE-2026-41567: only the container's own program may run, and that is /bin/true."""
    for name in PROGRAMS:
        for directory in ("sbin", "usr/bin", "usr/sbin", "usr/local/bin"):
            (bundle.rootfs / directory).mkdir(parents=True, exist_ok=True)
            target = bundle.rootfs / directory / name
            target.write_bytes(compiler.program("poisoned_program").read_bytes())
            target.chmod(0o755)
    for name in (
        "libnss_files.so.2",
        "libnss_compat.so.2",
        "libnss_dns.so.2",
        "libc.so.6",
        "libseccomp.so.2",
        "ld-linux-x86-64.so.2",
    ):
        for directory in ("lib", "lib64", "lib/x86_64-linux-gnu", "usr/lib/x86_64-linux-gnu"):
            (bundle.rootfs / directory).mkdir(parents=True, exist_ok=True)
            (bundle.rootfs / directory / name).write_bytes(compiler.library("poison").read_bytes())
    (bundle.rootfs / "etc/nsswitch.conf").write_text("passwd: files\ngroup: files\nhosts: files dns\n")
    (bundle.rootfs / "etc/ld.so.preload").write_text("/lib/libnss_files.so.2\n")
    for directory in ("encodings", "usr/lib/python3.11/encodings"):
        (bundle.rootfs / directory).mkdir(parents=True, exist_ok=True)
        (bundle.rootfs / directory / "idna.py").write_text(POISON.format(mark="/poisoned"))
    bundle.process["user"] = {"uid": 1000, "gid": 1000, "additionalGids": [5]}

    with runtime.running(bundle.runs("/bin/sleep", "1000")) as container:
        assert runtime.exec(container, "/bin/true", options=["--user", "0"]).code == 0

    assert not (bundle.rootfs / "poisoned").exists()
    assert not Path("/poisoned").exists()


def replaced(value: Any, old: int, new: int) -> Any:
    """A JSON value in which each number `old` is `new`."""
    if isinstance(value, dict):
        return {key: replaced(item, old, new) for key, item in value.items()}
    if isinstance(value, list):
        return [replaced(item, old, new) for item in value]
    return new if value == old and not isinstance(value, bool) else value


def forge_pid(root: Path, old: int, new: int) -> int:
    """Write another pid into every record below a state root; return how many records changed."""
    changed = 0
    for path in [path for path in root.rglob("*") if path.is_file() and path.suffix in (".json", "")]:
        try:
            document = json.loads(path.read_bytes())
        except ValueError:
            continue
        forged = replaced(document, old, new)
        if forged != document:
            path.write_text(json.dumps(forged))
            changed += 1
    return changed


@pytest.mark.parametrize(
    "command",
    [["kill", "{0}", "KILL"], ["kill", "--all", "{0}", "KILL"], ["delete", "--force", "{0}"]],
    ids=["kill", "kill all", "delete"],
)
def test_a_pid_that_another_process_got_is_not_signalled(runtime: Runtime, bundle: Bundle, command: list[str]) -> None:
    """The container's init died, its number was given away: the record's start time does not match."""
    container, created = runtime.create(bundle.runs("/bin/sleep", "1000"))
    assert created.code == 0, created
    pid = int(runtime.state(container)["pid"])
    time.sleep(2 / os.sysconf("SC_CLK_TCK"))  # what two processes of one tick cannot be told apart by
    bystander = subprocess.Popen(["/bin/sleep", "1000"])
    try:
        assert start_time(bystander.pid) != start_time(pid)
        os.kill(pid, signal.SIGKILL)
        assert forge_pid(runtime.root, pid, bystander.pid) >= 1, "no record holds the pid"

        runtime.call(*(word.format(container) for word in command))

        assert bystander.poll() is None, "the bystander was killed"
        assert "running" not in runtime.call("state", container).out
    finally:
        bystander.kill()
        bystander.wait()


RECORDS: dict[str, bytes] = {
    "empty": b"", "truncated": b'{"id": "x", "pid": ', "a list": b"[]", "null": b"null", "binary": bytes(range(256)),
    "deep": b"[" * 100000, "huge number": b'{"pid": 1' + b"0" * 5000 + b"}", "another version": b'{"version": 999999, "pid": 1}',
}  # fmt: skip


@pytest.mark.parametrize("name", RECORDS)
def test_a_record_that_cannot_be_read_can_still_be_deleted(runtime: Runtime, bundle: Bundle, name: str) -> None:
    """`state` says what is wrong, `list` shows the others, `delete --force` removes process, cgroup and record."""
    broken, created = runtime.create(bundle.runs("/bin/sleep", "1000"))
    assert created.code == 0, created
    healthy, created = runtime.create(bundle)
    assert created.code == 0, created
    record = next(path for path in (runtime.root / broken).rglob("*.json") if path.is_file())
    record.write_bytes(RECORDS[name])

    state, listed = runtime.call("state", broken), runtime.call("list")
    deleted = runtime.call("delete", "--force", broken)

    state.assert_one_clear_line(broken)
    assert healthy in listed.out, listed
    assert "Traceback" not in listed.err + deleted.err
    assert deleted.code == 0, deleted
    assert not (runtime.root / broken).exists()
