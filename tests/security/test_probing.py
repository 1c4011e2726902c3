"""Processes of the runtime show nothing of the host while they enter a container (CVE-2016-9962)."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from pathlib import Path

from harness.bundle import Bundle
from harness.program import Compiler
from harness.runtime import Runtime

EXECS = int(os.environ.get("PYSANDBOX_ATTACK_EXECS", "40"))


def test_the_prober_sees_a_process_that_nothing_protects(compiler: Compiler, place: Path) -> None:
    stop = place / "stop"
    victim = subprocess.Popen(
        [sys.executable, "-I", "-S", "-c", f"import time; f = open({__file__!r}); time.sleep(20)"]
    )
    try:
        prober = subprocess.Popen([compiler.program("prober"), stop], stdout=subprocess.PIPE, text=True)
        time.sleep(0.3)
        stop.touch()
        out, _ = prober.communicate(timeout=30)
    finally:
        victim.kill()
        victim.wait()

    assert f"of {victim.pid}: {__file__}" in out
    assert f"memory of {victim.pid}, which runs" in out


def test_a_container_learns_nothing_about_the_host_from_a_storm_of_execs(
    runtime: Runtime, bundle: Bundle, compiler: Compiler
) -> None:
    prober = bundle.install(compiler.program("prober"))
    bundle.script(f"{prober} /stop > /seen; sleep 1000")

    with runtime.running(bundle) as container:
        for _ in range(EXECS):
            assert runtime.exec(container, "/bin/true").code == 0
        (bundle.rootfs / "stop").touch()
        seen = runtime.exec(container, "/bin/sh", "-c", "while ! grep -q looked /seen; do sleep 0.1; done; cat /seen")

    lines = seen.out.splitlines()
    assert int(lines[-1].split()[1]) > EXECS, seen
    assert lines[:-1] == []
