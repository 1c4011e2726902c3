"""`pysandbox run`: create a container, start it, stay with it, and delete it when it has ended."""

from __future__ import annotations

import contextlib
import json
import os
import sys

from pysandbox.cli.creation import CREATE_FLAGS, options, prepare
from pysandbox.cli.flags import Command, Flag, UsageError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from pysandbox.backend import Container
    from pysandbox.cli.invocation import Invocation
    from pysandbox.lifecycle import Runtime
    from pysandbox.oci.bundle import Bundle

COMMAND = Command(
    "run",
    "create and run a container",
    "<container-id> | <bundle>",
    (
        *CREATE_FLAGS,
        Flag("detach", "leave the container running", alias="d"),
        Flag("keep", "do not delete the container after it has ended"),
        Flag("no-subreaper", "do not adopt the container's orphaned processes"),
        Flag("plan", "print what would be done, one JSON object a line, and do nothing"),
    ),
    at_least=0,
    details="""
With --bundle, or in a directory that holds a config.json, the argument is the new container's id, as under runc.
A path (it contains a "/", or is "." or "..") is the bundle's directory, and so is the name of a directory that holds a
config.json where the current one holds none: an id is made up then.
""",
)


def run(invocation: Invocation) -> int:
    """Run a container; return its exit code."""
    from pysandbox.oci.bundle import load_bundle
    from pysandbox.state import check_id

    flags = invocation.parsed
    container_id, path = _id_and_bundle(flags["bundle"], flags.arguments, plan=flags["plan"])
    check_id(container_id)
    bundle = load_bundle(os.path.abspath(path), flags["config"])
    return _print_plan(invocation, container_id, bundle) if flags["plan"] else _run(invocation, container_id, bundle)


def _id_and_bundle(given: str, arguments: list[str], *, plan: bool) -> tuple[str, str]:
    """Return the id and the bundle's directory, one of which may be left for us to say."""
    if not arguments:
        if not plan:
            raise UsageError('pysandbox: "run" requires exactly 1 argument(s)')
        return _made_up_id(given or "."), given or "."
    if not given and _names_bundle(arguments[0]):
        return _made_up_id(arguments[0]), arguments[0]
    return arguments[0], given or "."


def _names_bundle(argument: str) -> bool:
    if argument in (".", ".."):
        return True
    if os.path.exists("config.json"):  # a wrong id is told as runc tells it, unless there is such a directory
        return "/" in argument and os.path.isdir(argument)
    return "/" in argument or os.path.exists(os.path.join(argument, "config.json"))


def _made_up_id(path: str) -> str:
    name = "".join(c for c in os.path.basename(os.path.realpath(path)) if c.isascii() and (c.isalnum() or c in "_-"))
    return f"{name[:48] or 'container'}-{os.urandom(4).hex()}"


def _print_plan(invocation: Invocation, container_id: str, bundle: Bundle) -> int:
    from pysandbox.plugins import choose, load_backend, settings_of
    from pysandbox.record import replace

    config = invocation.config()
    name = choose(config, invocation.globals_["backend"] or None, bundle.spec.get("annotations") or {})
    how = replace(options(invocation), settings=settings_of(config, name))
    for operation in load_backend(name, config).plan(bundle.path, bundle.spec, container_id, how):
        sys.stdout.write(f"{json.dumps(operation, ensure_ascii=False)}\n")
    return 0


def _run(invocation: Invocation, container_id: str, bundle: Bundle) -> int:
    from pysandbox import lifecycle
    from pysandbox.caller import current
    from pysandbox.console import Signals, Terminal, attend

    flags = invocation.parsed
    wants_terminal = bool(bundle.spec["process"].get("terminal"))
    runtime, create = prepare(invocation, container_id, bundle, detach=flags["detach"])
    if flags["detach"]:
        _start(runtime, container_id, create(), background=False)
        return 0
    terminal = Terminal() if wants_terminal else None
    if not flags["no-subreaper"]:
        current().adopt()
    with Signals() as signals:
        container = create()
        if terminal is not None and container.init.console is not None:
            terminal.resize(container.init.console)  # before the program can ask
        _start(runtime, container_id, container, background=True)
        try:
            return attend(container, container.init, signals, terminal)
        finally:
            if not flags["keep"]:
                lifecycle.delete(runtime, container_id, force=True)


def _start(runtime: Runtime, container_id: str, container: Container, *, background: bool) -> None:
    """Start what we have just created; what cannot be started is not left behind."""
    from pysandbox import lifecycle
    from pysandbox.cli.start import start_and_notify

    try:
        start_and_notify(runtime, container_id, container, background=background)
    except BaseException:
        with contextlib.suppress(Exception):
            lifecycle.delete(runtime, container_id, force=True)
        raise
