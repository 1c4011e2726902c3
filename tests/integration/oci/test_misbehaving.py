"""Runtimes that cannot work, hang, lie or are not to be trusted: one line in their own words, and nothing left."""

from __future__ import annotations

import os
import signal
import subprocess
import time
from collections.abc import Callable
from pathlib import Path

import pytest
from precondition import requires
from runtime import MakeBundle, Runtime, eventually

from pysandbox.linux import start_time

Make = Callable[..., Runtime]
Script = Callable[[str], str]


@pytest.fixture
def script(tmp_path: Path) -> Script:
    """Make a runtime of a few lines of shell, in which $command is the command and $log its log."""
    prelude = """#!/bin/sh
for word; do
  case "$last" in --log) log=$word;; --pid-file) pid_file=$word;; --console-socket) socket=$word;; esac
  case "$word" in create|start|state|kill|delete|exec) command=$word;; esac
  last=$word
done
"""

    def make(text: str) -> str:
        path = tmp_path / "bin" / "runtime"
        path.parent.mkdir(mode=0o755, exist_ok=True)
        path.write_text(f"{prelude}{text}\n")
        path.chmod(0o755)
        return str(path)

    return make


def said(done: subprocess.CompletedProcess[str]) -> str:
    """Return the one line of ours."""
    assert "Traceback" not in done.stderr
    return done.stderr.splitlines()[-1]


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("""echo '{"level":"error","msg":"no such kernel"}' >> "$log"; exit 1""", "create: no such kernel"),
        ("exit 3", "create: exit status 3 without a word"),
        ("kill -9 $$", "create: signal 9 without a word"),
        ("exit 0", "has written no pid file"),
        ('echo nonsense > "$pid_file"', "its pid file holds no pid"),
        ('echo 1 > "$pid_file"', "its pid file holds no pid"),
        ('echo 99999999999 > "$pid_file"', "its pid file holds no pid"),
        ('mkfifo "$pid_file"', "its pid file holds no pid"),
        ('ln -s /etc/passwd "$pid_file"', "has written no pid file"),
    ],
)
def test_a_create_that_fails_is_told_in_one_line_and_leaves_nothing(
    make: Make, script: Script, make_bundle: MakeBundle, text: str, words: str, tmp_path: Path
) -> None:
    oci = make(script(f'test "$command" = create || exit 0\n{text}'))

    done = oci("run", make_bundle(["true"]))

    assert done.returncode == 1
    assert words in said(done)
    assert list((tmp_path / "root").iterdir()) == []


def test_escape_sequences_do_not_reach_the_terminal(make: Make, script: Script, make_bundle: MakeBundle) -> None:
    oci = make(script("""test "$command" = create || exit 0; printf '\\033[2Jgone\\r\\n' >> "$log"; exit 1"""))

    done = oci("run", make_bundle(["true"]))

    assert "\x1b" not in done.stderr
    assert "[2Jgone" in said(done)


def test_a_create_that_hangs_is_ended_in_time_with_all_that_it_started(
    make: Make, script: Script, make_bundle: MakeBundle, tmp_path: Path
) -> None:
    path = script(f'test "$command" = create || exit 0\nsleep 1000 & echo $! > {tmp_path}/child; wait')
    oci = make(path, timeout=1)
    began = time.monotonic()

    done = oci("run", make_bundle(["true"]))

    assert "create: has not ended after 1 s, and was killed" in said(done)
    assert time.monotonic() - began < 20
    child = int((tmp_path / "child").read_text())
    eventually(lambda: start_time(child) is None, "what it started is gone")
    assert list((tmp_path / "root").iterdir()) == []


def test_what_cannot_be_removed_keeps_its_record_and_says_why(
    make: Make, script: Script, make_bundle: MakeBundle, tmp_path: Path
) -> None:
    oci = make(script('test "$command" || exit 0; test "$command" = delete && echo not now >&2; exit 1'))

    done = oci("run", make_bundle(["true"]))

    assert done.returncode == 1
    assert "could not be removed: " in done.stderr
    assert "delete: not now" in done.stderr
    name = next((tmp_path / "root").iterdir()).name
    refused = oci("delete", "--force", name)
    assert (refused.returncode, "not now" in refused.stderr) == (1, True)
    script("exit 0")
    oci.ok("delete", "--force", name)
    assert list((tmp_path / "root").iterdir()) == []


def test_a_runtime_that_is_gone_is_no_reason_to_call_a_container_deleted(
    oci: Runtime, make: Make, make_bundle: MakeBundle, tmp_path: Path
) -> None:
    own = tmp_path / "own-runc"
    own.write_text('#!/bin/sh\nexec runc "$@"\n')
    own.chmod(0o755)
    wrapped = make(str(own))
    container_id = wrapped.run_detached(make_bundle(["sleep", "1000"]))
    own.rename(tmp_path / "aside")

    done = wrapped("delete", "--force", container_id)

    assert done.returncode == 1
    assert f"{own}: No such file or directory" in said(done)
    (tmp_path / "aside").rename(own)
    wrapped.ok("delete", "--force", container_id)


def test_a_program_that_others_could_change_is_not_executed(
    make: Make, script: Script, make_bundle: MakeBundle, tmp_path: Path
) -> None:
    path = script(f"touch {tmp_path}/executed")
    Path(path).chmod(0o777)

    done = make(path)("run", make_bundle(["true"]))

    assert done.returncode == 1
    assert "is writable by others than root (mode 0777)" in said(done)
    assert not (tmp_path / "executed").exists()


def test_one_that_becomes_changeable_later_is_not_executed_either(
    make: Make, script: Script, make_bundle: MakeBundle, oci: Runtime
) -> None:
    path = script('exec runc "$@"')
    wrapped = make(path)
    container_id = wrapped.run_detached(make_bundle(["sleep", "1000"]))
    Path(path).chmod(0o777)

    done = wrapped("kill", container_id, "KILL")

    assert done.returncode == 1
    assert "is writable by others than root" in said(done)
    Path(path).chmod(0o755)
    wrapped.ok("delete", "--force", container_id)


def test_an_id_that_would_be_a_flag_is_refused(oci: Runtime, make_bundle: MakeBundle, tmp_path: Path) -> None:
    done = oci("create", "--bundle", make_bundle(["true"]), "--", "--all")

    assert done.returncode == 1
    assert "begins with '-'" in said(done)
    assert list((tmp_path / "root").iterdir()) == []


def test_nothing_of_the_callers_environment_reaches_a_runtime(
    make: Make, script: Script, make_bundle: MakeBundle, tmp_path: Path
) -> None:
    path = script(f"env > {tmp_path}/environment; ls -l /proc/self/fd > {tmp_path}/descriptors; exit 1")
    oci = make(path)

    oci("run", make_bundle(["true"]), env={**os.environ, "LD_LIBRARY_PATH": "/evil", "GODEBUG": "x", "SECRET": "x"})

    names = {line.partition("=")[0] for line in (tmp_path / "environment").read_text().splitlines()}
    assert names <= {"PATH", "LC_ALL", "PWD", "OLDPWD", "SHLVL", "_"}
    descriptors = (tmp_path / "descriptors").read_text().splitlines()[1:]
    own = [line for line in descriptors if not line.endswith((path, "/fd"))]  # the shell's script, the listing
    assert [line.split()[8] for line in own] == ["0", "1", "2"], descriptors


def test_a_create_that_was_killed_is_swept_with_the_runtime_that_goes_on(
    oci: Runtime, make_bundle: MakeBundle, tmp_path: Path, leaks: object
) -> None:
    """The runtime waits at the gate; its caller is killed; the next command on that id ends both."""
    script = f"echo $$ > {tmp_path}/hook; exec sleep 1000"
    hook = {"path": "/bin/sh", "args": ["sh", "-c", script]}
    bundle = make_bundle(["true"], lambda spec: spec.update(hooks={"createRuntime": [hook]}))
    container_id = oci.new_id()
    argv = [oci.argv()[0] + "-cold", *oci.argv("create", "--bundle", bundle, container_id)[1:]]
    process = subprocess.Popen(argv, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    eventually((tmp_path / "hook").exists, "the hook runs")

    process.kill()
    process.wait()

    oci.ok("delete", "--force", container_id)
    assert oci("state", container_id).returncode == 1
    os.kill(int((tmp_path / "hook").read_text()), signal.SIGKILL)  # hooks are the front end's own, as with any backend


def test_a_runtime_whose_caller_was_killed_is_ended_before_what_it_makes_is_removed(
    make: Make, script: Script, make_bundle: MakeBundle, tmp_path: Path
) -> None:
    oci = make(script(f'test "$command" = create || exit 0\necho $$ > {tmp_path}/maker; sleep 1000; true'))
    container_id = oci.new_id()
    argv = oci.argv("create", "--bundle", make_bundle(["true"]), container_id)
    argv[0] += "-cold"
    process = subprocess.Popen(argv, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    eventually(lambda: (tmp_path / "maker").exists() and (tmp_path / "maker").read_text(), "it is at it")
    maker = int((tmp_path / "maker").read_text())

    process.kill()
    process.wait()
    assert start_time(maker) is not None

    assert oci("state", container_id).returncode == 1  # any command on that id
    assert start_time(maker) is None
    assert list((tmp_path / "root").iterdir()) == []


def test_a_terminal_that_never_comes_is_told(
    make: Make, script: Script, make_bundle: MakeBundle, tmp_path: Path
) -> None:
    requires("command runc")
    oci = make(script('test "$command" = create || exit 0; sleep 1000 >/dev/null & echo $! > "$pid_file"'))
    import socket

    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(str(tmp_path / "console"))
        listener.listen(1)
        done = oci(
            "create", "--bundle", make_bundle(["true"], terminal=True), "--console-socket", tmp_path / "console", "x"
        )

    assert done.returncode == 1
    assert "the runtime has sent no terminal" in said(done)
