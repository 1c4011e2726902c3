"""`pysandbox start`: let the program of a created container run."""

from __future__ import annotations

import os

from pysandbox.cli.flags import Command

TYPE_CHECKING = False
if TYPE_CHECKING:
    from pysandbox.backend import Container
    from pysandbox.cli.invocation import Invocation
    from pysandbox.lifecycle import Runtime

COMMAND = Command("start", "let the user's program of a created container run", "<container-id>")


def run(invocation: Invocation) -> int:
    """Start a container."""
    start_and_notify(invocation.runtime(), invocation.container_id)
    return 0


def start_and_notify(
    runtime: Runtime, container_id: str, container: Container | None = None, *, background: bool = False
) -> None:
    """Start a container; if the caller has a NOTIFY_SOCKET, stay until it is told that the container is ready.

    In the `background` that waiting is a thread's, which ends with us. A NOTIFY_SOCKET that nobody listens at is, as
    under runc, no reason not to start.
    """
    from pysandbox import lifecycle

    if not os.environ.get("NOTIFY_SOCKET"):
        lifecycle.start(runtime, container_id, container)
        return
    from pysandbox.errors import InvalidArgument
    from pysandbox.notify import bind

    with runtime.store.open(container_id) as directory:
        pid = directory.read().pid
        try:
            socket = bind(directory.path, os.environ["NOTIFY_SOCKET"])
        except InvalidArgument as error:
            runtime.warn(f"nobody will be told that the container is ready: {error}")
            socket = None
    try:
        lifecycle.start(runtime, container_id, container)
    except BaseException:
        if socket is not None:
            socket.close()
        raise
    if socket is not None and background:
        from threading import Thread

        Thread(target=socket.relay, args=(pid,), daemon=True).start()
    elif socket is not None:
        socket.relay(pid)
