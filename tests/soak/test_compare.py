"""Two benches of the same bundle on the same machine agree."""

from __future__ import annotations

import json
import os
import subprocess
from pathlib import Path

from precondition import requires

from pysandbox.compare.agreement import agreement

#: Inside is measured in every third round, and five values are the least that give a ratio an interval.
ROUNDS = str(max(15, int(os.environ.get("PYSANDBOX_SOAK_ROUNDS", "30"))))


def bench(launcher: Path, bundle: Path, path: Path) -> dict:
    argv = [launcher, "bench", "--only", "life,inside", "--rounds", ROUNDS, "--backend", "namespaces,runc", "--json"]
    subprocess.run([*argv, path, bundle], stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, timeout=900, check=True)
    return json.loads(path.read_text())


def test_the_ratios_of_two_benches_lie_in_each_others_intervals(launcher: Path, make_bundle, tmp_path: Path) -> None:
    requires("root", "command runc")
    bundle = make_bundle(["true"])

    found = agreement(bench(launcher, bundle, tmp_path / "1.json"), bench(launcher, bundle, tmp_path / "2.json"))

    print(found)
    assert found.ratios > 20
    # Each of two intervals fails one time in twenty; other work on a busy machine comes on top.
    assert found.overlapping >= 0.9 * found.ratios, found.apart
