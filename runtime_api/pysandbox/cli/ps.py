"""`pysandbox ps`: show the processes of a container, as the host's ps(1) does."""

from __future__ import annotations

import json
import sys

from pysandbox.cli.flags import Command, Flag
from pysandbox.errors import InvalidArgument, Unavailable

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Sequence

    from pysandbox.cli.invocation import Invocation

COMMAND = Command(
    "ps",
    "display the processes running inside a container",
    "<container-id> [ps options]",
    (Flag("format", "table or json", "string", "f", "table"),),
    at_most=None,
    ordered=True,
)


def run(invocation: Invocation) -> int:
    """Print the container's pids, or the lines of ps(1) that show them."""
    from pysandbox import lifecycle

    form = invocation.parsed["format"]
    if form not in ("table", "json"):
        raise InvalidArgument("invalid format option")
    pids = sorted(lifecycle.pids(invocation.runtime(), invocation.container_id))
    if form == "json":
        sys.stdout.write(json.dumps(pids or None, separators=(",", ":")) + "\n")
    else:
        lines = _host_ps(invocation.parsed.arguments[1:] or ["-ef"])
        sys.stdout.writelines(f"{line}\n" for line in select(lines, pids))
    return 0


def select(lines: Sequence[str], pids: Sequence[int]) -> list[str]:
    """Return ps's header and the lines whose PID column is one of these."""
    header = lines[0].split() if lines else []
    if "PID" not in header:
        raise InvalidArgument("couldn't find PID field in ps output")
    column, wanted = header.index("PID"), {str(pid) for pid in pids}
    return [lines[0], *(line for line in lines[1:] if wanted.intersection(line.split()[column : column + 1]))]


def _host_ps(arguments: Sequence[str]) -> list[str]:
    import subprocess

    try:
        done = subprocess.run(
            ["ps", *arguments], capture_output=True, text=True, errors="replace", timeout=60, check=False
        )
    except (OSError, subprocess.TimeoutExpired) as error:
        raise Unavailable(f"ps: {error}") from error
    if done.returncode != 0:
        raise InvalidArgument(f"ps: exit status {done.returncode}: {(done.stderr or done.stdout).strip()}")
    return done.stdout.splitlines()
