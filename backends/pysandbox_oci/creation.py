"""Make a container: the runtime's `create`, with a bundle of its own, and the gate for hooks."""

from __future__ import annotations

import contextlib
import os

from pysandbox.errors import InvalidArgument, SandboxError, Unimplemented
from pysandbox.linux import start_time
from pysandbox.record import replace
from pysandbox_oci.container import OciContainer, destroy
from pysandbox_oci.gate import Gate
from pysandbox_oci.handover import derived, needs_gate, write_bundle
from pysandbox_oci.launch import Launch
from pysandbox_oci.runtime import make_root, open_runtime

TYPE_CHECKING = False
if TYPE_CHECKING:
    from pysandbox.backend import CreateRequest, Options, Stdio
    from pysandbox_oci.dialect import Dialect
    from pysandbox_oci.runtime import OciRuntime


def create(request: CreateRequest, name: str) -> OciContainer:
    """Make a container whose program waits for `start`. On failure nothing is left."""
    runtime = prepared(name, request.id, request.state_dir, request.options, request.stdio)
    request.remember(runtime.saved())
    with contextlib.ExitStack() as undo:
        undo.callback(_undo, runtime, request.id, request.state_dir)
        make_root(runtime)
        container = _create(request, runtime)
        undo.pop_all()
    return container


def prepared(name: str, container_id: str, state_dir: str, options: Options, stdio: Stdio | None = None) -> OciRuntime:
    """Return the runtime of a new container, or refuse what it cannot do. Makes nothing."""
    runtime = open_runtime(name, options.settings, container_id, state_dir)
    if container_id.startswith("-"):
        raise InvalidArgument(f"container id {container_id!r}: begins with '-': {name} would take it for a flag")
    _check_dialect(runtime.dialect, name, options, stdio)
    flags = ("--systemd-cgroup", *runtime.flags) if options.systemd_cgroup else runtime.flags
    return replace(runtime, flags=flags)


def _check_dialect(dialect: Dialect, name: str, options: Options, stdio: Stdio | None) -> None:
    if stdio is not None and stdio.preserved and not dialect.preserves:
        raise Unimplemented(f"--preserve-fds: {name} hands no descriptors into a container")
    if options.no_pivot and not dialect.moves_root:
        raise Unimplemented(f"--no-pivot: {name} has no such flag")


def flags_of(options: Options, dialect: Dialect) -> list[str]:
    """Return the flags of `create` that its options ask for. A runtime that keeps no keyring makes none either."""
    return [
        *(["--no-pivot"] if options.no_pivot else []),
        *(["--no-new-keyring"] if options.no_new_keyring and dialect.moves_root else []),
    ]


def _undo(runtime: OciRuntime, container_id: str, state_dir: str, pid: int = 0, started: int = 0) -> None:
    """Remove what a failed `create` has left; where that fails too, `destroy` will be asked."""
    with contextlib.suppress(SandboxError, OSError):
        destroy(runtime, container_id, state_dir, pid, started)


def _remember_maker(request: CreateRequest, runtime: OciRuntime, maker: int) -> None:
    """Keep which process makes the container: it outlives a `create` that is killed, and would go on."""
    request.remember({**runtime.saved(), "maker": [maker, start_time(maker) or 0]})


def _create(request: CreateRequest, runtime: OciRuntime) -> OciContainer:
    with contextlib.ExitStack() as held:
        gate = Gate(request.state_dir, held, request.runtime_created) if needs_gate(request.spec) else None
        document = derived(request.spec, request.bundle, gate.hook() if gate is not None else None)
        bundle = write_bundle(document, request.state_dir)
        launch = Launch(runtime, request.stdio, request.options, request.state_dir, held)
        words = ["--bundle", bundle, *launch.words(), *flags_of(request.options, runtime.dialect), request.id]
        try:
            readers = {gate.reader: gate.step} if gate is not None else {}
            pid = launch.run("create", words, readers, lambda maker: _remember_maker(request, runtime, maker))
        except SandboxError as error:
            if gate is not None and gate.error is not None:
                raise gate.error from error
            raise
        started = start_time(pid, zombie=True) or 0
        with contextlib.ExitStack() as undo:
            undo.callback(_undo, runtime, request.id, request.state_dir, pid, started)
            console = launch.console()
            if console is not None:
                undo.callback(os.close, console)
            if gate is None or not gate.passed:
                request.runtime_created(pid)
            undo.pop_all()
    return OciContainer(request.id, request.state_dir, runtime, pid, started, console)
