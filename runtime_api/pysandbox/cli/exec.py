"""`pysandbox exec`: run one more process in a container."""

from __future__ import annotations

import os

from pysandbox.cli.creation import CONSOLE_FLAGS, PRESERVE_FLAG, delivery, preserved, stdio
from pysandbox.cli.flags import Command, Flag, Parsed
from pysandbox.errors import InvalidArgument

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Mapping
    from typing import Any

    from pysandbox.cli.invocation import Invocation
    from pysandbox.lifecycle import Runtime
    from pysandbox.oci.types import Process as ProcessSpec

COMMAND = Command(
    "exec",
    "execute a new process inside a container",
    "<container-id> <command> [arguments...] | --process process.json <container-id>",
    (
        *CONSOLE_FLAGS,
        Flag("cwd", "current working directory in the container", "string"),
        Flag("env", "set an environment variable", "strings", "e"),
        Flag("tty", "allocate a terminal", alias="t"),
        Flag("user", "user: <uid>[:<gid>]", "string", "u"),
        Flag("additional-gids", "additional group id", "strings", "g"),
        Flag("process", "file with the process's specification", "string", "p"),
        Flag("detach", "leave the process running", alias="d"),
        Flag("process-label", "SELinux label of the process", "string"),
        Flag("apparmor", "AppArmor profile of the process", "string"),
        Flag("no-new-privs", "set no_new_privs for the process"),
        Flag("cap", "add a capability to the process's sets", "strings", "c"),
        PRESERVE_FLAG,
        Flag("cgroup", "existing sub-cgroup to run the process in: [<controller>:]<path>", "strings"),
        Flag("ignore-paused", "allow exec in a paused container"),
    ),
    at_most=None,
    ordered=True,
)


def run(invocation: Invocation) -> int:
    """Run the process; return its exit code."""
    from pysandbox import lifecycle
    from pysandbox.backend import Options
    from pysandbox.console import Signals, Terminal, attend, check_console

    flags = invocation.parsed
    detach = flags["detach"]
    runtime = invocation.runtime()
    container_id = invocation.container_id
    process = _process(flags, _spec(runtime, container_id))
    terminal = bool(process.get("terminal"))
    check_console(terminal=terminal, detach=detach, console_socket=flags["console-socket"])
    descriptors = preserved(flags, invocation.inherited)
    host_terminal = Terminal() if terminal and not detach else None
    if host_terminal is not None and "consoleSize" not in process:
        process["consoleSize"] = host_terminal.size()
    deliver = delivery(flags)
    exec_id = os.urandom(8).hex()
    with Signals() as signals:
        container, started = lifecycle.exec_(
            runtime,
            container_id,
            process,
            exec_id=exec_id,
            stdio=stdio(process, descriptors),
            cgroup=_sub_cgroups(flags["cgroup"]),
            ignore_paused=flags["ignore-paused"],
            options=Options(
                plain_newlines=not flags["console-socket"],
                warn=invocation.journal.warning,
                debug=invocation.journal.debug if invocation.globals_["debug"] else None,
            ),
            deliver=deliver,
        )
        return 0 if detach else attend(container, started, signals, host_terminal, exec_id)


def _sub_cgroups(given: list[str]) -> dict[str, str] | None:
    """Return what all `--cgroup [CONTROLLER[,…]:]PATH` say together."""
    if not given:
        return None
    from pysandbox.cgroup.membership import parse_below

    return {controller: path for text in given for controller, path in parse_below(text).items()}


def _spec(runtime: Runtime, container_id: str) -> Mapping[str, Any]:
    with runtime.store.open(container_id) as directory:
        spec: Mapping[str, Any] = directory.read_spec()
    return spec


def _process(flags: Parsed, spec: Mapping[str, Any]) -> ProcessSpec:
    """Return the process to run: the file's, or the container's own with what the flags change."""
    from pysandbox.oci.bundle import load_process
    from pysandbox.oci.validate import validate_process

    if flags["process"]:
        return load_process(flags["process"])
    process = changed(spec["process"], flags)
    if not process["args"]:
        raise InvalidArgument("process args cannot be empty")
    validate_process(process, "process")
    return process


def changed(own: Mapping[str, Any], flags: Parsed) -> ProcessSpec:
    """Return a copy of a process with the changes that the flags ask for."""
    process: Any = {**own, "args": flags.arguments[1:], "terminal": flags["tty"]}
    process["env"] = [*own.get("env", ()), *flags["env"]]
    process.pop("consoleSize", None)
    for flag, key in (("cwd", "cwd"), ("apparmor", "apparmorProfile"), ("process-label", "selinuxLabel")):
        if flags[flag]:
            process[key] = flags[flag]
    if "no-new-privs" in flags.given:
        process["noNewPrivileges"] = flags["no-new-privs"]
    if flags["cap"]:
        process["capabilities"] = _more_capabilities(own.get("capabilities") or {}, flags["cap"])
    process["user"] = _user(own.get("user") or {}, flags["user"], flags["additional-gids"])
    return process  # type: ignore[no-any-return]


def _more_capabilities(own: Mapping[str, Any], added: list[str]) -> dict[str, Any]:
    """Add capabilities to every set but the inheritable one, as runc does."""
    sets = {name: [*(own.get(name) or ()), *added] for name in ("bounding", "effective", "permitted", "ambient")}
    return {**own, **sets}


def _user(own: Mapping[str, Any], user: str, groups: list[str]) -> dict[str, Any]:
    from pysandbox.oci.user import parse_gid, parse_user

    changed_user = dict(own)
    if user:
        changed_user["uid"], gid = parse_user(user)
        if gid is not None:
            changed_user["gid"] = gid
    if groups:
        changed_user["additionalGids"] = [*(own.get("additionalGids") or ()), *map(parse_gid, groups)]
    return changed_user
