"""`pysandbox shimctl`: talk to a containerd shim of ours without containerd."""

from __future__ import annotations

import json
import os
import sys

from pysandbox.cli.flags import Command, Flag, UsageError
from pysandbox.errors import FailedPrecondition, InvalidArgument, PermissionDenied

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Sequence

    from pysandbox.cli.invocation import Invocation
    from pysandbox.shim.control import Control

COMMAND = Command(
    "shimctl",
    "talk to a containerd shim of pysandbox, without containerd",
    "<namespace>/<container-id> | <address> state|pids|metrics|kill [signal]|exec <command> [args...]",
    (
        Flag("id", "container, where the shim is named by its address", "string"),
        Flag("exec", "process of state and kill, instead of init", "string"),
        Flag("all", "kill: signal all processes of the container"),
    ),
    at_least=2,
    at_most=None,
    ordered=True,
    details="""
An address is unix:///PATH or /PATH: what the file `address` of a bundle holds. state, pids and metrics print JSON. exec
runs a program as init's user with its environment, in its working directory, and ends with its exit code.
""",
)


def run(invocation: Invocation) -> int:
    """Find the shim and do one thing."""
    if os.geteuid() != 0:
        raise PermissionDenied("only root may talk to a shim")
    target, action, *words = invocation.parsed.arguments
    _check(action, words)

    from pysandbox.shim.control import Control, locate
    from pysandbox.ttrpc.errors import RpcError

    path, container_id = locate(target)
    container_id = container_id or invocation.parsed["id"]
    if not container_id:
        raise InvalidArgument(f"{target}: an address needs --id, the container")
    try:
        with Control(path, container_id) as control:
            return _act(control, invocation, action, words)
    except RpcError as error:
        raise FailedPrecondition(f"the shim answers: {error}") from error


def _check(action: str, words: Sequence[str]) -> None:
    """Raise UsageError for what no shim need be asked about."""
    limits = {"state": (0, 0), "pids": (0, 0), "metrics": (0, 0), "kill": (0, 1), "exec": (1, None)}
    if action not in limits:
        raise UsageError(f'pysandbox: "shimctl" knows no "{action}": state, pids, metrics, kill or exec')
    least, most = limits[action]
    if len(words) < least:
        raise UsageError('pysandbox: "shimctl" exec requires a command')
    if most is not None and len(words) > most:
        raise UsageError(f'pysandbox: "shimctl" {action} does not know what to do with "{words[most]}"')


def _act(control: Control, invocation: Invocation, action: str, words: Sequence[str]) -> int:
    from pysandbox.shim.messages import task as messages

    exec_id = invocation.parsed["exec"]
    if action == "exec":
        return control.exec(words, (0, 1, 2))
    if action == "kill":
        from pysandbox.oci.signals import parse_signal

        number = parse_signal([*words, "SIGTERM"][0])
        control.call("Kill", messages.KillRequest, exec_id=exec_id, signal=number, all=invocation.parsed["all"])
    elif action == "state":
        _print(_state(control, exec_id))
    elif action == "pids":
        _print(control.call("Pids", messages.PidsRequest).processes)
    else:
        _print(control.call("Stats", messages.StatsRequest).stats)
    return 0


def _state(control: Control, exec_id: str) -> dict[str, object]:
    """Return the state with the status's name, and the shim's pid."""
    from pysandbox.shim.control import plain
    from pysandbox.shim.messages import task as messages
    from pysandbox.shim.messages.process import Status

    state = control.call("State", messages.StateRequest, exec_id=exec_id)
    names = {value: name.lower() for name, value in vars(Status).items() if isinstance(value, int)}
    shim = control.call("Connect", messages.ConnectRequest).shim_pid
    return {**plain(state), "status": names.get(state.status, state.status), "shim": shim}


def _print(value: object) -> None:
    from pysandbox.shim.control import plain

    sys.stdout.write(json.dumps(plain(value), indent=2) + "\n")
