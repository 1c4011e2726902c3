"""Verdicts: each probe's flips with what a weak host would have it report, and nothing odd is ever ok."""

from __future__ import annotations

import pytest
import weakness

from pysandbox.audit.audit import judged
from pysandbox.audit.catalogue import GROUPS, PROBES
from pysandbox.audit.context import Context
from pysandbox.audit.finding import OK, UNKNOWN, WEAK


def test_there_are_more_than_110_probes_inside_a_container() -> None:
    assert sum(not probe.outside for probe in PROBES.values()) > 110
    assert len(GROUPS) > 10


@pytest.mark.parametrize("name", weakness.NAMES)
def test_a_weak_host_flips_the_verdict_of_each_probe(name: str) -> None:
    probe = PROBES[name]
    good, bad = weakness.reports(probe)

    before = judged(probe, good, weakness.context(probe, weak=False), {})
    after = judged(probe, bad, weakness.context(probe, weak=True), {})

    assert before is not None
    assert after is not None
    assert (before.verdict, after.verdict) == (OK, WEAK)
    assert before.observed != after.observed
    assert after.why == probe.why


@pytest.mark.parametrize(
    "facts",
    [{}, {"errno": "1"}, {"errno": True}, {"text": 7}, {"found": "x"}, {"bytes": "0"}, {"hung": 5000}, {"unable": "x"},
     {"threads": "1", "without": []}, {"reached": 1, "silent": []}, {"limit": []}, {"done": "yes"}, {"text": "\x1b[31m"},
     {"text": "nan nan nan"}],
    ids=str,
)  # fmt: skip
def test_what_a_probe_cannot_have_said_is_never_ok(facts: dict[str, object]) -> None:
    context = Context(host=weakness.HOST, spec=weakness.SPEC)
    findings = [finding for probe in PROBES.values() if (finding := judged(probe, facts, context, {})) is not None]

    assert len(findings) == len(PROBES)
    assert all(finding.observed.isprintable() for finding in findings)
    # A text that is not the host's is what it says.
    content = {finding.probe for finding in findings if finding.verdict == OK}
    assert {PROBES[name].group for name in content} <= {"host"}
    assert not {"host.uptime", "host.load"} & content


def test_a_probe_that_reported_nothing_is_unknown_and_one_without_a_process_has_no_finding() -> None:
    inside = judged(PROBES["seccomp.mode"], None, Context(), {})

    assert inside is not None
    assert inside.verdict == UNKNOWN
    assert inside.why == "the probe reported nothing of it"
    assert judged(PROBES["outside.qemu.seccomp"], None, Context(), {}) is None


def _machine(boot: str, version: str) -> Context:
    facts = {"host.boot_id": {"text": boot}, "host.version": {"text": version}}
    return Context(facts=facts, host=weakness.HOST)


def test_what_a_kernel_of_its_own_tells_is_not_the_hosts() -> None:
    probe, facts = PROBES["file.kallsyms"], {"bytes": 64}

    own = judged(probe, facts, _machine("bbbb", "#2 SMP"), {})
    shared = judged(probe, facts, _machine("aaaa", "#1 SMP"), {})

    assert own is not None
    assert shared is not None
    assert (own.verdict, shared.verdict) == (OK, WEAK)


def test_a_file_mounted_over_the_boot_id_makes_no_kernel_of_its_own() -> None:
    assert not _machine("bbbb", "#1 SMP").own_kernel
    assert not _machine("aaaa", "#2 SMP").own_kernel
    assert _machine("bbbb", "#2 SMP").own_kernel
