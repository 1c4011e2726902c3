"""Entry of `containerd-shim-pysandbox-v2`: `start`, `delete`, `-info`, `-v`, and serving, which `start` starts.

As `containerd-shim-pysandbox-microvm-v2` it is the same, but that containers are microVMs where nothing else is said.

What containerd reads of `start` is its standard output *and* error together, so the first act is to put the bundle's
`log` FIFO in the place of standard error.
"""

from __future__ import annotations

import contextlib
import json
import os
import signal
import sys
import time
from functools import partial

from pysandbox.caller import current
from pysandbox.errors import SandboxError
from pysandbox.shim import address
from pysandbox.shim.invocation import MICROVM_PROGRAM, PROGRAM, Invocation, parse
from pysandbox.shim.warning import warn

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Sequence

    from pysandbox.warm.second import Second


#: The descriptor that `start` hands to who serves.
LISTENER = 3


def main(argv: Sequence[str] | None = None) -> int:
    """Do what containerd asks for, in this process, started for it; return the exit code."""
    program = os.path.basename(sys.argv[0]).removesuffix("-cold")
    return _run(program, list(sys.argv[1:] if argv is None else argv))


def command(words: list[str], _inherited: frozenset[int] = frozenset()) -> int:
    """Do what containerd asks for; return the exit code."""
    return _run(PROGRAM, words)


def microvm_command(words: list[str], _inherited: frozenset[int] = frozenset()) -> int:
    """Do the same under the second name."""
    return _run(MICROVM_PROGRAM, words)


def _run(program: str, words: list[str]) -> int:
    try:
        invocation = parse(words, program)
        if invocation.version:
            return _print_version(invocation)
        if invocation.info:
            return _print_info(invocation)
        invocation.check()
        if invocation.action == "start":
            return _start(invocation)
        if invocation.action == "delete":
            return _delete(invocation)
        return _serve(invocation, LISTENER)
    except (SandboxError, OSError) as error:
        os.write(2, f"pysandbox shim: {' '.join(str(error).splitlines())}\n".encode(errors="backslashreplace"))
        return 1


def _log_to(bundle: str) -> None:
    """Put the bundle's `log` in the place of standard error. Open both ways it waits for no reader (fifo(7))."""
    try:
        descriptor = os.open(os.path.join(bundle, "log"), os.O_RDWR | os.O_NONBLOCK | os.O_NOFOLLOW | os.O_CLOEXEC)
    except OSError:
        descriptor = os.open("/dev/null", os.O_WRONLY | os.O_CLOEXEC)
    os.dup2(descriptor, 2)
    os.close(descriptor)


# -- start -------------------------------------------------------------------------------------------------------------


def _start(invocation: Invocation) -> int:
    """Start who serves, unless the pod's shim is there already; print where it listens."""
    bundle, answer = os.getcwd(), os.dup(1)
    errors = os.dup(2)
    _log_to(bundle)
    try:
        path = _listen_and_spawn(invocation, bundle)
        address.write_address(bundle, path)
    except (SandboxError, OSError):
        os.dup2(errors, 2)
        raise
    os.write(answer, f"unix://{path}".encode())
    return 0


def _listen_and_spawn(invocation: Invocation, bundle: str) -> str:
    from pysandbox.oci.document import open_document, read_object

    descriptor = open_document(os.path.join(bundle, "config.json"), "config.json")
    with open(descriptor, "rb", buffering=0, closefd=True):
        spec = read_object(descriptor, "config.json")
    grpc = invocation.address or os.environ.get("GRPC_ADDRESS", "")
    path = address.socket_path(grpc, invocation.namespace, address.group(spec, invocation.id))
    try:
        listener = address.listen(path)
    except address.InUse:
        return path
    with contextlib.closing(listener):
        _spawn(invocation, grpc, listener.fileno())
    return path


def _spawn(invocation: Invocation, grpc: str, listener: int) -> None:
    """Have somebody serve, in a session of its own, with nothing of containerd's but the log.

    That is this process, when it has answered, and a keeper beside it; or a new process.
    """
    if current().detach(partial(_serve_kept, invocation, os.dup(listener))):
        return
    words = ["-namespace", invocation.namespace, "-id", invocation.id, "-address", grpc]
    own = sys.orig_argv[: len(sys.orig_argv) - len(sys.argv) + 1]
    null = os.open("/dev/null", os.O_RDWR | os.O_CLOEXEC)
    os.posix_spawn(
        sys.executable,
        [*own, *words, *(["-debug"] if invocation.debug else []), "serve"],
        os.environ,
        file_actions=[
            (os.POSIX_SPAWN_DUP2, null, 0),
            (os.POSIX_SPAWN_DUP2, null, 1),
            (os.POSIX_SPAWN_DUP2, os.dup(listener), LISTENER),
        ],
        setsid=True,
        setsigmask=(),
        setsigdef=signal.valid_signals() - {signal.SIGKILL, signal.SIGSTOP},
    )
    os.close(null)


# -- serve -------------------------------------------------------------------------------------------------------------


def _serve_kept(invocation: Invocation, listener: int, second: Second) -> None:
    """Serve, in the process that `start` was, with a keeper."""
    from pysandbox.executor import held_executor
    from pysandbox.shim import keeper
    from pysandbox.warm.launcher import close_all_but

    close_all_but({2, listener, second.connection.fileno(), second.life, held_executor()})
    for _ in range(2):
        os.set_inheritable(os.open("/dev/null", os.O_RDWR), True)  # 0 and 1
    keeper.attend(second.connection, second.life, second.pid)
    _serve(invocation, listener)


def _serve(invocation: Invocation, listening: int) -> int:
    """Serve tasks on a socket until containerd says that it is enough. `listening` is its descriptor."""
    from _socket import socket

    from pysandbox.shim.serving import Serving

    os.set_inheritable(listening, False)
    listener = socket(fileno=os.dup(listening))
    os.close(listening)
    os.chdir("/")
    _adjust_oom_score()
    return Serving(invocation.namespace, invocation.backend, listener).run()


def _adjust_oom_score() -> None:
    """Be killed for memory just before containerd, as its own shims are. Without the privilege it stays as it is."""
    with contextlib.suppress(OSError, ValueError):
        with open("/proc/self/oom_score_adj", "rb", buffering=0) as file:
            score = min(1000, int(file.read()) + 1)
        for pid in {os.getpid(), current().pid}:
            with open(f"/proc/{pid}/oom_score_adj", "wb", buffering=0) as file:
                file.write(b"%d" % score)


# -- delete, -info, -v -------------------------------------------------------------------------------------------------


def _delete(invocation: Invocation) -> int:
    """Remove what a dead shim left: processes, cgroup, mounts, socket. What is gone already is no error."""
    from pysandbox import lifecycle
    from pysandbox.config import load_config
    from pysandbox.shim import namespace, rootfs
    from pysandbox.shim.messages.task import DeleteResponse
    from pysandbox.shim.publisher import timestamp

    bundle = invocation.bundle or os.path.join(os.path.dirname(os.getcwd()), invocation.id)
    store = namespace.enter(invocation.namespace)
    runtime = lifecycle.Runtime(store=store, warn=warn, config=load_config(None))
    pid = 0
    with contextlib.suppress(SandboxError, OSError):
        pid = lifecycle.state(runtime, invocation.id).record.pid
    lifecycle.delete(runtime, invocation.id, force=True)
    namespace.leave(store)
    rootfs.unmount_all(bundle)
    path = address.read_address(bundle)
    if path.startswith(f"{address.DIRECTORY}/") and not address.answers(path):
        with contextlib.suppress(OSError):
            os.unlink(path)
    response = DeleteResponse(pid=pid, exit_status=137, exited_at=timestamp(time.time()))
    os.write(1, response.encode())
    return 0


def _print_version(invocation: Invocation) -> int:
    from pysandbox import VERSION

    os.write(1, f"{invocation.program}:\n  Version: {VERSION}\n".encode())
    return 0


def _print_info(invocation: Invocation) -> int:
    """Print RuntimeInfo. containerd writes options to standard input; none changes what is told."""
    from pysandbox import VERSION
    from pysandbox.oci.features import features_document
    from pysandbox.plugins import choose, load_backend
    from pysandbox.shim.messages.types import RuntimeInfo, RuntimeVersion
    from pysandbox.shim.options import settings
    from pysandbox.ttrpc.messages.wellknown import Any as AnyMessage

    config = settings(None, invocation.backend)
    document = features_document(load_backend(choose(config, None, {}), config).features())
    features = AnyMessage(
        type_url="types.containerd.io/opencontainers/runtime-spec/1/features/Features",
        value=json.dumps(document).encode(),
    )
    info = RuntimeInfo(name=invocation.runtime_type, version=RuntimeVersion(version=VERSION), features=features)
    os.write(1, info.encode())
    return 0


if __name__ == "__main__":
    sys.exit(main())
