"""Whose end is whose: in a process of its own, as a reaper takes any child's status."""

from __future__ import annotations

import subprocess
import sys

import pytest

SCRIPT = """
import contextlib, os, sys, time
from pysandbox.shim import reaper

reaper.ORPHAN_PAUSE = 0.02
watcher = reaper.Reaper()
watcher.adopt()
ends = []
with watcher.starting() if sys.argv[1] == "starting" else contextlib.nullcontext():
    pid = os.posix_spawn("/bin/sh", ["sh", "-c", "exit 6"], {})
    time.sleep(0.5)
    try:
        watcher.watch(pid, lambda code, now: ends.append(code))
    except ProcessLookupError:
        ends.append("reaped")
deadline = time.monotonic() + 5
while not ends and time.monotonic() < deadline:
    time.sleep(0.01)
print(ends)
"""


@pytest.mark.parametrize(("how", "end"), [("starting", "[6]"), ("not", "['reaped']")])
def test_a_process_that_is_being_started_is_no_orphan(how: str, end: str) -> None:
    environment = {"PYTHONPATH": ":".join(sys.path)}

    done = subprocess.run(
        [sys.executable, "-c", SCRIPT, how], capture_output=True, text=True, check=False, timeout=30, env=environment
    )

    assert (done.stdout.strip(), done.stderr) == (end, "")
