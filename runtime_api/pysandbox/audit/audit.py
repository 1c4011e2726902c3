"""An audit: observe, judge each probe, and say in one document what came out."""

from __future__ import annotations

import os
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from pysandbox.audit.catalogue import COMPUTED, PROBES, Probe
from pysandbox.audit.context import Context, read_host
from pysandbox.audit.finding import Facts, Finding, Judgement, unknown
from pysandbox.audit.judge import untried
from pysandbox.audit.session import observe

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from pysandbox.audit.session import Observation
    from pysandbox.backend import Options
    from pysandbox.lifecycle import Runtime
    from pysandbox.oci.bundle import Bundle

VERSION = 1
#: How it is seen from outside: the end of a probe's name → what is read of the host's /proc.
_OUTSIDE = {
    "seccomp": "Seccomp in /proc/PID/task/*/status",
    "no_new_privs": "NoNewPrivs in /proc/PID/task/*/status",
    "capabilities": "CapEff, CapPrm, CapInh and CapAmb in /proc/PID/task/*/status",
    "uid": "Uid in /proc/PID/task/*/status, and /proc/PID/uid_map",
    "root": "/proc/PID/root against /",
    "descriptors": "/proc/PID/fd, fdinfo and mountinfo",
    "devices": "/proc/PID/fd",
    "cgroup": "/proc/PID/cgroup against the auditor's",
    "accelerator": "-accel in /proc/PID/cmdline",
    "memory": "memory.max or memory.limit_in_bytes of init's cgroup",
    "pids": "pids.max of init's cgroup",
    "cpu": "cpu.max or cpu.cfs_quota_us of init's cgroup",
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Report:
    """One audit of one bundle on one backend."""

    backend: str
    bundle: str
    machine: Mapping[str, Any]
    changes: Sequence[str]
    notes: Sequence[str]
    findings: Sequence[Finding]

    def document(self) -> dict[str, Any]:
        """Return the JSON document."""
        return {
            "version": VERSION,
            "backend": self.backend,
            "bundle": self.bundle,
            "machine": dict(self.machine),
            "changes": list(self.changes),
            "notes": list(self.notes),
            "findings": [finding.document() for finding in self.findings],
        }


def audit(runtime: Runtime, bundle: Bundle, backend: str, options: Options) -> Report:
    """Audit a bundle. Raises whatever making a container of it raises, and Unavailable if the probe does not answer."""
    observation = observe(runtime, bundle, options)
    return report(observation, bundle.spec, read_host(), backend=backend, bundle=bundle.path)


def report(
    observation: Observation, spec: Mapping[str, Any], host: Mapping[str, str], *, backend: str, bundle: str
) -> Report:
    """Judge what was observed."""
    context = Context(facts=observation.facts, spec=spec, host=host)
    findings = [
        finding
        for probe in PROBES.values()
        if (finding := judged(probe, observation.facts.get(probe.name), context, observation.hows)) is not None
    ]
    return Report(
        backend=backend,
        bundle=bundle,
        machine={**machine(), "own_kernel": context.own_kernel},
        changes=observation.changes,
        notes=observation.notes,
        findings=findings,
    )


def judged(probe: Probe, facts: Facts | None, context: Context, hows: Mapping[str, str]) -> Finding | None:
    """Return the finding of a probe; None of one from outside for which there is no process."""
    if facts is None and probe.outside:
        return None
    judgement = _judge(probe, facts, context)
    how = COMPUTED.get(probe.name) or hows.get(probe.name) or (_seen_by(probe) if probe.outside else "")
    return Finding(
        probe=probe.name,
        group=probe.group,
        how=how,
        observed=judgement.observed,
        expected=probe.expected,
        verdict=judgement.verdict,
        why=judgement.why or probe.why,
    )


def _seen_by(probe: Probe) -> str:
    kind = probe.name.rpartition(".")[2]
    return f"/proc/PID/ns/{kind} against the auditor's" if ".namespace." in probe.name else _OUTSIDE[kind]


def _judge(probe: Probe, facts: Facts | None, context: Context) -> Judgement:
    if facts is None and probe.name not in COMPUTED:
        return unknown("the probe reported nothing of it")
    facts = facts or {}
    try:
        return untried(facts) or probe.judge(facts, context)
    except (TypeError, ValueError, OverflowError, KeyError):
        return unknown("the probe's answer is not one that it can give")


def machine() -> dict[str, Any]:
    """Say on which machine this is: the kernel, what it runs on, and our version."""
    from pysandbox import VERSION as PYSANDBOX
    from pysandbox.environment import host

    return {"pysandbox": PYSANDBOX, "release": os.uname().release, **host()}
