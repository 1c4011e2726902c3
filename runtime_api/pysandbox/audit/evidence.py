"""What a verification leaves behind: the policy, what met it and what did not, and the whole audit."""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import time
from dataclasses import asdict
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from pysandbox.audit.audit import Report
    from pysandbox.audit.policy import Failure, Policy

VERSION = 1


def document(policy: Policy, report: Report, missed: Sequence[Failure], spec: Mapping[str, Any]) -> dict[str, Any]:
    """Return the JSON document of one verification."""
    verdicts = {finding.probe: finding.verdict for finding in report.findings}
    return {
        "version": VERSION,
        "at": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()),
        "passed": not missed,
        "policy": {"name": policy.name, "required": list(policy.required)},
        "accepted": [
            {"probe": probe, "reason": reason, "verdict": verdicts.get(probe, "unknown")}
            for probe, reason in policy.accepted.items()
        ],
        "failures": [asdict(failure) for failure in missed],
        "spec_digest": spec_digest(spec),
        "audit": report.document(),
    }


def spec_digest(spec: Mapping[str, Any]) -> str:
    """Return the SHA-256 of a spec, whatever the order of its members and its white space."""
    text = json.dumps(spec, sort_keys=True, separators=(",", ":"), ensure_ascii=False)
    return hashlib.sha256(text.encode("utf-8", "surrogatepass")).hexdigest()


def write(path: str, evidence: Mapping[str, Any]) -> None:
    """Write a document, all of it or nothing, for nobody else to read. Raises OSError."""
    directory, name = os.path.split(os.path.abspath(path))
    temporary = os.path.join(directory, f".{name}.{os.urandom(4).hex()}")
    descriptor = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600)
    try:
        with open(descriptor, "w", encoding="utf-8") as file:
            json.dump(evidence, file, indent=1)
            file.write("\n")
            file.flush()
            os.fsync(file.fileno())
        os.rename(temporary, path)
    except BaseException:
        with contextlib.suppress(OSError):
            os.unlink(temporary)
        raise
