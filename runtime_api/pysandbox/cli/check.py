"""`pysandbox check`: say whether this host can run each backend, and what to do where it cannot."""

from __future__ import annotations

import os
import sys

from pysandbox.cli.flags import Command, Flag
from pysandbox.errors import EXIT_CODE, SandboxError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Sequence

    from pysandbox.backend import Finding
    from pysandbox.cli.invocation import Invocation
    from pysandbox.config import Config

COMMAND = Command(
    "check",
    "say whether this host can run each backend, and what to do where it cannot",
    "",
    (Flag("format", "text or json", "string", "f", "text"),),
    at_least=0,
    at_most=0,
    details="""
Looks at this host; changes nothing and starts no container. The exit code is 1 if a backend has a problem: of the one
that `pysandbox --backend NAME check` names, else of any built-in one.
""",
)


def run(invocation: Invocation) -> int:
    """Print the findings."""
    from pysandbox.errors import InvalidArgument

    form = invocation.parsed["format"]
    if form not in ("text", "json"):
        raise InvalidArgument("invalid format option")
    found = inspect(invocation.config(), invocation.globals_["backend"])
    sys.stdout.write(_json(found) if form == "json" else "\n".join(_lines(found)) + "\n")
    return EXIT_CODE if any(not can_run(findings) for findings in found.values()) else 0


def inspect(config: Config, only: str) -> dict[str, Sequence[Finding]]:
    """Return each backend's findings; of `only`, if it is not empty. One that cannot be loaded has that as its own."""
    from pysandbox.plugins import BUILT_IN

    return {name: (*_common(), *_of(name, config)) for name in ([only] if only else BUILT_IN)}


def can_run(findings: Sequence[Finding]) -> bool:
    """Say whether no finding is a problem."""
    return all(finding.verdict != "problem" for finding in findings)


def _of(name: str, config: Config) -> Sequence[Finding]:
    from pysandbox.backend import Finding
    from pysandbox.plugins import load_backend, settings_of

    try:
        return load_backend(name, config).inspect(settings_of(config, name))
    except (SandboxError, OSError, ImportError) as error:
        return [Finding("problem", "backend", str(error))]


def _common() -> Sequence[Finding]:
    from pysandbox.backend import Finding
    from pysandbox.environment import cgroups, memory

    available = memory("MemAvailable") >> 20
    return [
        Finding("ok", "kernel", os.uname().release),
        Finding("ok", "cgroups", cgroups()),
        Finding("ok", "memory", f"{available} MiB available"),
    ]


def _lines(found: dict[str, Sequence[Finding]]) -> Sequence[str]:
    lines = []
    for name, findings in found.items():
        lines.append(f"{name}: {'can run' if can_run(findings) else 'cannot run'}")
        for finding in findings:
            remedy = f"; remedy: {finding.remedy}" if finding.remedy else ""
            lines.append(f"  {finding.verdict:8} {finding.subject:12} {finding.what}{remedy}")
    return lines


def _json(found: dict[str, Sequence[Finding]]) -> str:
    import json

    from pysandbox.record import fields

    document = {
        name: {
            "can_run": can_run(findings),
            "findings": [{one.name: getattr(finding, one.name) for one in fields(finding)} for finding in findings],
        }
        for name, findings in found.items()
    }
    return json.dumps(document, indent=2, ensure_ascii=False) + "\n"
