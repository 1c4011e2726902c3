"""`pysandbox env`: print what a bug report needs: versions, host, settings and each backend's findings."""

from __future__ import annotations

import json
import os
import sys

from pysandbox.cli.check import can_run, inspect
from pysandbox.cli.flags import Command, Flag

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Sequence
    from typing import Any

    from pysandbox.backend import Finding
    from pysandbox.cli.invocation import Invocation

COMMAND = Command(
    "env",
    "print versions, host, settings and what each backend found",
    "",
    (Flag("json", "as JSON"),),
    at_least=0,
    at_most=0,
)


def run(invocation: Invocation) -> int:
    """Print it. A backend that cannot run is a fact like any other: the exit code is 0."""
    document = _document(invocation)
    if invocation.parsed["json"]:
        sys.stdout.write(json.dumps(document, indent=2, ensure_ascii=False) + "\n")
        return 0
    for title, facts in document.items():
        sys.stdout.write(f"{title}:\n")
        sys.stdout.writelines(f"  {name:14} {value}\n" for name, value in _plain(facts))
    return 0


def _document(invocation: Invocation) -> dict[str, dict[str, Any]]:
    from pysandbox.environment import host, installation

    config = invocation.config()
    found = inspect(config, invocation.globals_["backend"])
    return {
        "installation": dict(installation()),
        "host": dict(host()),
        "settings": {
            "file": config.path if os.path.exists(config.path) else f"{config.path} (there is none)",
            "root": invocation.globals_["root"],
            "backend": config.backend or "",
            "backends": {name: dict(settings) for name, settings in config.backends.items()},
            "warm": os.environ.get("PYSANDBOX_WARM", ""),
        },
        **{
            f"backend {name}": {"can run": "yes" if can_run(findings) else "no", **_by_subject(findings)}
            for name, findings in found.items()
        },
    }


def _by_subject(findings: Sequence[Finding]) -> dict[str, str]:
    facts: dict[str, str] = {}
    for finding in findings:
        before = facts.get(finding.subject)
        facts[finding.subject] = f"{before}; {finding.what}" if before else finding.what
    return facts


def _plain(facts: dict[str, Any]) -> list[tuple[str, str]]:
    return [(name, value if isinstance(value, str) else json.dumps(value)) for name, value in facts.items()]
