"""The runtime's own program must not be writable from inside (CVE-2019-5736)."""

from __future__ import annotations

import fcntl
import hashlib
import os
import subprocess
import sys
import sysconfig
from pathlib import Path

import pytest
from harness.bundle import Bundle
from harness.program import Compiler
from harness.runtime import PROJECT, Runtime

WATCH_SECONDS = 2
HOST = os.stat("/proc/self/ns/pid").st_ino


def own_files(runtime: Runtime) -> dict[str, tuple[str, int]]:
    """Digest, and time of the last write, of what the runtime consists of: launcher, interpreter and its library, executor, sources."""
    files = [Path(runtime.command[0]).resolve(), Path(sys.executable).resolve()]
    library = Path(sysconfig.get_config_var("LIBDIR") or "/") / str(sysconfig.get_config_var("INSTSONAME"))
    files += [library] if library.is_file() else []
    files += [path for path in PROJECT.glob("guest_agent/target/**/release/pysandbox-*") if path.is_file()]
    return {os.fspath(path): (hashlib.sha256(path.read_bytes()).hexdigest(), path.stat().st_mtime_ns) for path in files}


def counts(out: str) -> tuple[int, int]:
    """`opened N written M`."""
    words = out.split()
    return int(words[words.index("opened") + 1]), int(words[words.index("written") + 1])


def test_the_attack_overwrites_a_program_that_nothing_protects(compiler: Compiler, bundle: Bundle, place: Path) -> None:
    """In a pid namespace of its own: this program must never see the host's processes."""
    victim = place / "busybox"
    victim.write_bytes((bundle.rootfs / "bin/busybox").read_bytes())
    victim.chmod(0o755)
    before = victim.stat().st_mtime_ns
    script = f"{victim} sleep 0.5 & exec {compiler.program('exe_writer')} 2 /bin/sh {HOST}"

    answer = subprocess.run(
        ["unshare", "--pid", "--fork", "--mount-proc", "--kill-child", "/bin/sh", "-c", script],
        capture_output=True, text=True, timeout=30, check=True,
    )  # fmt: skip

    assert counts(answer.stdout)[1] == 1, answer
    assert victim.stat().st_mtime_ns > before


def test_the_attack_refuses_to_run_among_the_processes_of_the_host(compiler: Compiler) -> None:
    answer = subprocess.run(
        [compiler.program("exe_writer"), "1", "/bin/sh", str(HOST)], capture_output=True, check=False
    )

    assert answer.returncode == 4


@pytest.mark.parametrize("program", ["/proc/self/exe", "/proc/1/exe", "/proc/thread-self/exe"])
def test_an_entrypoint_that_is_the_runtimes_own_program_gets_no_file_of_the_host(
    runtime: Runtime, bundle: Bundle, program: str
) -> None:
    before = own_files(runtime)

    answer = runtime.run(bundle.runs(program, "--version"), limit=30)

    assert "Traceback" not in answer.err
    assert own_files(runtime) == before


def test_a_script_whose_interpreter_is_the_runtimes_own_program_changes_nothing(
    runtime: Runtime, bundle: Bundle
) -> None:
    script = bundle.rootfs / "bin/trap"
    script.write_text("#!/proc/self/exe\n")
    script.chmod(0o755)
    before = own_files(runtime)

    runtime.run(bundle.runs("/bin/trap"), limit=30)

    assert own_files(runtime) == before


def test_init_cannot_be_overwritten_while_the_container_starts(
    runtime: Runtime, bundle: Bundle, compiler: Compiler
) -> None:
    writer = bundle.install(compiler.program("exe_writer"))
    bundle.script(f"{writer} {WATCH_SECONDS} /bin/busybox {HOST} & exec /proc/self/exe --version; wait")
    before = own_files(runtime)

    runtime.run(bundle, limit=60)

    assert own_files(runtime) == before


def test_exec_cannot_be_overwritten_by_a_container_that_waits_for_it(
    runtime: Runtime, bundle: Bundle, compiler: Compiler
) -> None:
    writer = bundle.install(compiler.program("exe_writer"))
    bundle.script(f"{writer} {WATCH_SECONDS + 2} /bin/busybox {HOST} > /result; sleep 1000")
    before = own_files(runtime)

    with runtime.running(bundle) as container:
        for program in ["/bin/true", "/proc/self/exe"] * 10:
            runtime.exec(container, program, limit=30)
        done = runtime.exec(container, "/bin/sh", "-c", "while ! test -s /result; do sleep 0.1; done; cat /result")

    assert counts(done.out)[1] == 0, done
    assert own_files(runtime) == before


ALL_SEALS = fcntl.F_SEAL_SEAL | fcntl.F_SEAL_SHRINK | fcntl.F_SEAL_GROW | fcntl.F_SEAL_WRITE


def test_what_runs_inside_is_a_sealed_copy(runtime: Runtime, bundle: Bundle) -> None:
    """Seen from outside, on the init that waits for `start`: no file of the host, and nobody can change it."""
    container, created = runtime.create(bundle)
    assert created.code == 0, created
    program = Path(f"/proc/{runtime.state(container)['pid']}/exe")

    with program.open("rb") as executable:
        seals = fcntl.fcntl(executable, fcntl.F_GET_SEALS)

    assert os.readlink(program).startswith("/memfd:")
    assert seals & ALL_SEALS == ALL_SEALS
