"""docs/audit.md says what is there."""

from __future__ import annotations

import re
from collections import Counter
from pathlib import Path

from pysandbox.audit.catalogue import CALLS_LIMIT, PROBES, ROLES
from pysandbox.audit.policy import READY


def test_the_groups_and_the_numbers_of_their_probes_are_right(repository: Path) -> None:
    text = (repository / "docs/audit.md").read_text()
    counts = Counter(probe.group for probe in PROBES.values())

    told = {name: int(count) for name, count in re.findall(r"^\| `(\w+)` \| (\d+) \|", text, re.MULTILINE)}

    assert told == {group: count for group, count in counts.items() if not group.startswith("outside.")}
    outside = [counts[f"outside.{role}"] for role in ROLES]
    assert f"| `outside.init` … | {', '.join(map(str, outside))} |" in text


def test_every_proof_is_a_test(repository: Path) -> None:
    text = (repository / "docs/audit.md").read_text()
    sources = {path.name: path.read_text() for path in (repository / "tests").rglob("test_*.py")}
    named = set(re.findall(r"(test_\w+\.py)::(test_\w+)", text))

    assert len(named) > 6
    assert [test for file, test in sorted(named) if f"def {test}(" not in sources.get(file, "")] == []


def test_policies_and_the_calls_that_are_left_out_are_named(repository: Path) -> None:
    text = (repository / "docs/audit.md").read_text()
    sweep = (repository / "guest_agent/src/probe/sweep.rs").read_text()
    left_out = re.findall(r"libc::SYS_(\w+)", sweep.partition("const LEFT_OUT")[2].partition("];")[0])

    assert len(left_out) == 14
    assert [name for name in left_out if not re.search(rf"^\|[^|]*\b{name}\b", text, re.MULTILINE)] == []
    assert [name for name in READY if f"* `{name}`" not in text] == []
    assert CALLS_LIMIT == 300
