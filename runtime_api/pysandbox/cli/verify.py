"""`pysandbox verify`: hold a bundle to a policy, by what is observed in a container of it."""

from __future__ import annotations

import os
import sys

from pysandbox.cli.audit import observed
from pysandbox.cli.flags import Command, Flag, UsageError
from pysandbox.errors import EXIT_CODE

TYPE_CHECKING = False
if TYPE_CHECKING:
    from pysandbox.cli.invocation import Invocation

COMMAND = Command(
    "verify",
    "hold a bundle to a policy, by what is observed in a container of it",
    "<bundle> --policy <file>",
    (
        Flag("policy", "container, machine, or a file: TOML, or JSON if its name ends in .json", "string"),
        Flag("evidence", "file to write the whole audit and the outcome to, as JSON", "string"),
        Flag("backend", "backend to audit, as pysandbox --backend", "string"),
    ),
    at_least=1,
    at_most=1,
    details="""
The exit code is 0 only if all that the policy requires was observed to be as expected, or is accepted by it for a
reason; what could not be observed has failed.
""",
)


def run(invocation: Invocation) -> int:
    """Print what failed; return 0 if nothing did."""
    from pysandbox.audit import evidence
    from pysandbox.audit.gate import remember
    from pysandbox.audit.policy import failures, load_policy

    flags = invocation.parsed
    if not flags["policy"]:
        raise UsageError("flag needed: --policy")
    policy = load_policy(flags["policy"])
    target = os.path.abspath(flags["evidence"]) if flags["evidence"] else ""
    bundle, report = observed(invocation, flags.arguments[0], flags["backend"])
    remember(invocation.runtime(), bundle, report)
    missed = failures(policy, report.findings)
    if target:
        evidence.write(target, evidence.document(policy, report, missed, bundle.spec))
    for failure in missed:
        sys.stdout.write(f"{failure.probe}: {failure.verdict}: {failure.observed} ({failure.why})\n")
    met = len(policy.required) - len(missed) - len(policy.accepted)
    sys.stdout.write(
        f"{report.backend}: {'failed' if missed else 'passed'}: {met} of {len(policy.required)} demands met, "
        f"{len(policy.accepted)} accepted, {len(missed)} not met\n"
    )
    return EXIT_CODE if missed else 0
