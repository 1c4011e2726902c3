"""`pysandbox compare`: what one bundle costs, and what protects it, with each backend and each OCI runtime here."""

from __future__ import annotations

import sys

from pysandbox.cli import bench
from pysandbox.cli.flags import Command, Flag, UsageError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from pysandbox.cli.invocation import Invocation

COMMAND = Command(
    "compare",
    "measure and audit a bundle with each backend and each installed OCI runtime; one report",
    "BUNDLE",
    (
        *bench.FLAGS,
        Flag("html", "write a page with charts, which needs no network, to this file", "string"),
        Flag("schema", "print the JSON schema of --json's document, and do nothing else"),
    ),
    at_least=0,
    details="""
What `bench` measures and what `audit` observes, of all contenders in one report: tables, --json FILE, --html FILE.
The bundle stays as it is. ^C ends it, and shows what was measured. docs/comparison.md explains each figure.
""",
)


def run(invocation: Invocation) -> int:
    """Measure and audit, print the tables, write the files."""
    import contextlib

    if invocation.parsed["schema"]:
        return _print_schema()
    if not invocation.parsed.arguments:
        raise UsageError('pysandbox: "compare" requires exactly 1 argument(s)')
    request = bench.read_request(invocation)
    from pysandbox.cli.child import carry_out_in_child
    from pysandbox.compare import comparison, document, interruption, page, terminal

    page.require()
    before = bench.earlier(invocation)
    carry_out_in_child()
    with contextlib.ExitStack() as stack:
        stack.enter_context(interruption.by_signals())
        names = ("json", "html")
        paths = {name: path for name in names if (path := invocation.parsed[name])}
        targets = {name: stack.enter_context(document.Target(path)) for name, path in paths.items()}
        with terminal.progress() as progress:
            found = comparison.compare(request, progress)
        terminal.show(found["bench"])
        terminal.show_audits(found["audits"])
        terminal.show_summary(found)
        bench.say_agreement(before, found["bench"])
        sys.stdout.flush()
        if "json" in targets:
            targets["json"].write(document.as_json(found))
        if "html" in targets:
            targets["html"].write(page.page(found))
    return bench.exit_code(found["bench"])


def _print_schema() -> int:
    from pysandbox.compare import document

    sys.stdout.write(document.schema())
    return 0
