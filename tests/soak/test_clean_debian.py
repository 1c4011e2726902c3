"""The README's commands on a Debian that has only git, make and python3."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path

import pytest
from precondition import requires

SUITES = ("bookworm", "trixie")


def _cache() -> Path:
    directory = Path(os.environ.get("XDG_CACHE_HOME", Path.home() / ".cache")) / "pysandbox"
    directory.mkdir(parents=True, exist_ok=True)
    return directory


def _in_clean_debian(suite: str, script: str) -> str:
    """Run a shell script at the top of a fresh clone, and return what it printed."""
    program = Path(__file__).with_name("clean_debian.sh")
    done = subprocess.run(
        [program, suite, _cache(), "bash", "-euo", "pipefail", "-c", script],
        stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, timeout=3000,
        check=False,
    )  # fmt: skip
    print(done.stdout)
    assert done.returncode == 0, done.stdout[-4000:]
    return done.stdout


@pytest.mark.parametrize("suite", SUITES)
def test_the_demo_runs_and_its_second_run_takes_seconds(suite: str) -> None:
    requires("root", "command mmdebstrap")

    output = _in_clean_debian(suite, "make demo && SECONDS=0 && make demo && echo second run: $SECONDS")

    assert output.count("host name     demo") == 2
    assert int(output.rpartition("second run: ")[2]) < 30


@pytest.mark.parametrize("suite", SUITES)
def test_the_installed_program_works_with_any_path_and_directory(suite: str) -> None:
    requires("root", "command mmdebstrap")
    script = """
    make install
    rm -rf .venv guest_agent/target
    cd /
    env -i PATH=/nonexistent /usr/local/bin/pysandbox features >/dev/null
    env -i PATH=/nonexistent LC_ALL=C PYTHONPATH=/src PYTHONHOME=/src /usr/local/bin/pysandbox --version
    ! find /usr/local/lib/pysandbox -perm /022 -not -type l | grep .
    ! find /usr/local/lib/pysandbox -not -uid 0 | grep .
    mkdir /tmp/b && python3 /src/images/busybox.py /tmp/b/rootfs
    pysandbox spec --bundle /tmp/b && python3 /src/images/demo.py /tmp/b hostname
    test "$(pysandbox run /tmp/b)" = demo
    cd /src && make uninstall && ! test -e /usr/local/bin/pysandbox && ! test -e /usr/local/lib/pysandbox
    """

    _in_clean_debian(suite, script)


@pytest.mark.parametrize("suite", SUITES)
def test_the_tests_pass(suite: str) -> None:
    requires("root", "command mmdebstrap")

    output = _in_clean_debian(suite, "make test DAEMONS=no")

    assert " passed" in output
