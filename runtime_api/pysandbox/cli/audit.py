"""`pysandbox audit`: run a probe in a bundle's place, and say what it could do there."""

from __future__ import annotations

import _signal
import os
import sys

from pysandbox.cli.flags import Command, Flag

TYPE_CHECKING = False
if TYPE_CHECKING:
    from pysandbox.audit.audit import Report
    from pysandbox.cli.invocation import Invocation
    from pysandbox.oci.bundle import Bundle

COMMAND = Command(
    "audit",
    "run a probe in a bundle's place, and say what it could do there",
    "<bundle>",
    (
        Flag("backend", "backend to audit, as pysandbox --backend", "string"),
        Flag("json", "print one JSON document instead of a table"),
        Flag("all", "show what is as expected, too", alias="a"),
    ),
    at_least=1,
    at_most=1,
    details="""
Makes a container of the bundle with a program of pysandbox's own in the place of the user's, which tries what a
workload could try: all of it fails, or ends with the process that tried. Nothing of the bundle is changed. The exit
code is 0 if it could be observed, whatever was found: `pysandbox verify` holds a bundle to a policy.
""",
)


def run(invocation: Invocation) -> int:
    """Print the report."""
    _, report = observed(invocation, invocation.parsed.arguments[0], invocation.parsed["backend"])
    if invocation.parsed["json"]:
        import json

        sys.stdout.write(json.dumps(report.document(), indent=1) + "\n")
    else:
        from pysandbox.audit.table import show

        show(report, everything=invocation.parsed["all"])
    return 0


def observed(invocation: Invocation, path: str, backend: str) -> tuple[Bundle, Report]:
    """Audit the bundle at a path, on the backend that is named or that would be chosen for it; return both."""
    from pysandbox.audit.audit import audit
    from pysandbox.backend import Options
    from pysandbox.caller import current
    from pysandbox.cli.child import carry_out_in_child
    from pysandbox.oci.bundle import load_bundle
    from pysandbox.plugins import choose
    from pysandbox.record import replace

    current().require_cold("it watches a container while it runs")
    carry_out_in_child()
    for number in (_signal.SIGTERM, _signal.SIGHUP):
        _signal.signal(number, _signal.default_int_handler)  # the container goes with us
    bundle = load_bundle(os.path.abspath(path))
    runtime = invocation.runtime()
    runtime = replace(runtime, backend=backend or runtime.backend)
    name = choose(runtime.config, runtime.backend, bundle.spec.get("annotations") or {})
    options = Options(systemd_cgroup=invocation.globals_["systemd-cgroup"], warn=invocation.journal.warning)
    os.chdir(bundle.path)  # where hooks run
    return bundle, audit(runtime, bundle, name, options)
