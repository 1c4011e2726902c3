"""Hand a container's seccomp notify descriptor to the agent that listens for it."""

from __future__ import annotations

import json

from pysandbox.errors import Unavailable
from pysandbox.linux import pidfd_getfd

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Mapping
    from typing import Any

    from pysandbox.oci.types import Spec

#: Seconds to wait for the agent to take the descriptor.
PATIENCE = 10.0


def container_process_state(state: Mapping[str, Any], pid: int, metadata: str) -> dict[str, Any]:
    """Return the document that goes with the descriptor: runtime-spec, "The Container Process State"."""
    return {
        "ociVersion": state["ociVersion"],
        "fds": ["seccompFd"],
        "pid": pid,
        "metadata": metadata,
        "state": {**state, "pid": state.get("pid") or pid},
    }


def hand_listener(spec: Spec, state: Mapping[str, Any], pid: int, number: int) -> None:
    """Send the notify descriptor `number` of process `pid` to the agent that the spec names."""
    seccomp = spec["linux"]["seccomp"]
    document = container_process_state(state, pid, seccomp.get("listenerMetadata", ""))
    send_listener(seccomp["listenerPath"], pid, number, document)


def send_listener(path: str, pid: int, number: int, document: Mapping[str, Any]) -> None:
    """Take descriptor `number` out of process `pid` and send it, with the document, to the socket at `path`.

    The process cannot send it itself: its filter is already in force and may stop it in sendmsg(2).
    """
    import os
    import socket

    pidfd = os.pidfd_open(pid)
    try:
        listener = pidfd_getfd(pidfd, number)
    finally:
        os.close(pidfd)
    try:
        with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as peer:
            peer.settimeout(PATIENCE)
            peer.connect(path)
            socket.send_fds(peer, [json.dumps(document).encode()], [listener])
    except OSError as error:
        raise Unavailable(
            f"linux.seccomp.listenerPath: failed to connect with seccomp agent at {path}: {error.strerror}"
        ) from None
    finally:
        os.close(listener)
