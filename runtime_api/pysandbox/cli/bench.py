"""`pysandbox bench`: what one bundle costs with each backend and each OCI runtime of this machine."""

from __future__ import annotations

import os
import sys

from pysandbox.caller import current
from pysandbox.cli.flags import Command, Flag
from pysandbox.errors import EXIT_CODE, InvalidArgument, PermissionDenied

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Mapping
    from typing import Any

    from pysandbox.cli.invocation import Invocation
    from pysandbox.compare.request import Request

MOST_ROUNDS = 10_000
FLAGS = (
    Flag("backend", "take only this one, or these: A,B; may be given more than once", "strings", "b"),
    Flag("runtime", "NAME=PATH, or 'NAME=PATH FLAG...', of an OCI runtime that is to take part", "strings"),
    Flag("baseline", "whom the others are compared with (default: runc, else namespaces)", "string"),
    Flag("quick", "a first look: about half a minute for two contenders"),
    Flag("only", "measure nothing but life, throughput, memory, growth or inside: A,B", "string"),
    Flag("rounds", "turns of each contender", "int"),
    Flag("containerd", "measure also through the API of the containerd that listens at this socket", "string"),
    Flag("against", "say how far the ratios agree with those of this file, which --json wrote earlier", "string"),
    Flag("json", "write machine, settings and all raw figures to this file", "string"),
)
COMMAND = Command(
    "bench",
    "measure what a bundle costs with each backend and each installed OCI runtime",
    "BUNDLE",
    FLAGS,
    details="""
Every contender takes one turn in each round, in random order: start to first byte, start to exit, create, start, exec,
kill, delete; then throughput, memory outside the workload, cost as sandboxes grow; and inside, by a small static
program: processor, memory, system calls, files, network. Medians with quartiles; ratios with 95 % intervals.
The bundle stays as it is: our program runs on a view of its root. ^C ends it, and shows what was measured.
Contenders: namespaces, microvm, and runc, crun and runsc if they are on PATH. docs/comparison.md explains each figure.
""",
)


def run(invocation: Invocation) -> int:
    """Measure, print the tables, write the file."""
    import contextlib

    request = read_request(invocation)
    from pysandbox.cli.child import carry_out_in_child
    from pysandbox.compare import bundlebench, document, interruption, terminal

    before = earlier(invocation)
    carry_out_in_child()
    with contextlib.ExitStack() as stack:
        stack.enter_context(interruption.by_signals())
        path = invocation.parsed["json"]
        target = stack.enter_context(document.Target(path)) if path else None
        with terminal.progress() as progress:
            found = bundlebench.Bench(request, progress).run()
        terminal.show(found)
        say_agreement(before, found)
        sys.stdout.flush()
        if target is not None:
            target.write(document.as_json(found))
    return exit_code(found)


def read_request(invocation: Invocation) -> Request:
    """Return what is to be measured. Raises InvalidArgument, PermissionDenied, Unavailable."""
    if os.geteuid() != 0:
        raise PermissionDenied("only root can run containers: run as root")
    parsed = invocation.parsed
    if "rounds" in parsed.given and not 1 <= parsed["rounds"] <= MOST_ROUNDS:
        raise InvalidArgument(f"--rounds {parsed['rounds']}: must be 1 to {MOST_ROUNDS}")
    current().require_cold("it starts containers, whose ends are to be its own to see")
    from dataclasses import replace

    from pysandbox.compare import candidate, terminal
    from pysandbox.compare.request import Request, Settings

    terminal.require()
    names = parsed["backend"] or ([invocation.globals_["backend"]] if invocation.globals_["backend"] else [])
    settings = Settings.quick() if parsed["quick"] else Settings()
    if "rounds" in parsed.given:
        settings = replace(settings, rounds=parsed["rounds"])
    if parsed["only"]:
        settings = replace(settings, groups=_groups(parsed["only"]))
    return Request(
        bundle=parsed.arguments[0],
        program=program(invocation),
        names=tuple(candidate.read_names(names)),
        runtimes=candidate.read_runtimes(parsed["runtime"]),
        baseline=parsed["baseline"],
        config=invocation.globals_["config"] or "",
        containerd=parsed["containerd"],
        settings=settings,
    )


def _groups(text: str) -> tuple[str, ...]:
    from pysandbox.compare.figure import GROUPS

    groups = tuple(dict.fromkeys(text.split(",")))
    unknown = [group for group in groups if group not in GROUPS]
    if unknown:
        raise InvalidArgument(f"--only {text}: {unknown[0]!r} is none of {', '.join(GROUPS)}")
    return groups


def earlier(invocation: Invocation) -> Mapping[str, Any] | None:
    """Return the bench of --against. Raises InvalidArgument."""
    from pysandbox.compare import agreement, document

    path = invocation.parsed["against"]
    return agreement.bench_of(document.read(path), path) if path else None


def say_agreement(before: Mapping[str, Any] | None, found: Mapping[str, Any]) -> None:
    """Print how far two benches agree."""
    from pysandbox.compare.agreement import agreement

    if before is not None:
        sys.stdout.write(f"{agreement(before, found)}\n")


def program(invocation: Invocation) -> tuple[str, ...]:
    """Return the command line by which this very program is called again, with the settings that it was given."""
    path = os.path.abspath(sys.argv[0])
    launcher = path.removesuffix("-cold")
    path = launcher if os.access(launcher, os.X_OK) else path
    settings = invocation.globals_["config"]
    return (path, "--config", os.path.abspath(settings)) if settings else (path,)


def exit_code(found: Mapping[str, Any]) -> int:
    """Return 130 for an interrupted run, and a failure where nobody could be measured."""
    if found["interrupted"]:
        return 130
    return 0 if any(each["kind"] != "host" for each in found["contenders"]) else EXIT_CODE
