"""The process that makes a shim's first container and starts it, and then ends, with the memory that took.

Planning and making a container, Python writes to the reference count of nearly all that it looks at: some 2 MiB of
pages, which the shim would have to itself for as long as the container lives. So the fork of the server that has served
`start`, and from which the shim was forked, stays and does it. Further containers of a pod, and execs, the shim makes
itself, as it does all without a server.

What is started is the shim's own child: the maker asks for it as a spare of the warm start asks its launcher
(docs/warm.md), with `spawn`, `reap`, `is_child` and `adopt`. Else they say to each other, in the same frames:

    {"create": {"id", "bundle", "options": [type, hex], "terminal", "shim": pid}}, with stdin, stdout and stderr
    {"made": {"pid", "bundle", "shares_pids"}}, with the console, if there is one
    {"start": true}, {"started": true}
    {"failed": {"kind", "text", "errno"}}
"""

from __future__ import annotations

import _socket
import contextlib
import os
from threading import Lock

from pysandbox import errors, lifecycle
from pysandbox.backend import Options, Stdio
from pysandbox.caller import become, current
from pysandbox.errors import SandboxError, Unavailable, Unknown
from pysandbox.executor import held_executor
from pysandbox.oci.bundle import load_bundle
from pysandbox.record import dataclass, replace
from pysandbox.shim import namespace
from pysandbox.shim.options import chosen
from pysandbox.ttrpc.messages.wellknown import Any as AnyMessage
from pysandbox.warm.launcher import Launcher, close_all_but
from pysandbox.warm.wire import Closed, receive, send

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence
    from typing import Any

    from pysandbox.backend import Container
    from pysandbox.state import Store


@dataclass(frozen=True, slots=True, kw_only=True)
class Made:
    """A container that waits for its start: init's pid, a terminal's master, the bundle's path without links.

    `container` is the one that has made it, where this process has.
    """

    pid: int
    console: int | None
    bundle: str
    shares_pids: bool
    container: Container | None = None


def make(runtime: lifecycle.Runtime, container_id: str, path: str, stdio: Stdio, options: Options) -> Made:
    """Make a container in this process. Raises what `load_bundle` and `lifecycle.create` raise."""
    bundle = load_bundle(path)
    container = lifecycle.create(runtime, container_id, bundle, stdio=stdio, options=options)
    namespaces = (bundle.spec.get("linux") or {}).get("namespaces") or ()
    return Made(
        pid=container.init.pid,
        console=container.init.console,
        bundle=bundle.path,
        shares_pids=not any(each["type"] == "pid" and not each.get("path") for each in namespaces),
        container=container,
    )


# -- the shim's side ---------------------------------------------------------------------------------------------------


class Gone(Exception):
    """The maker had ended before it was asked: nothing was done."""


class Maker:
    """The maker, as the shim sees it. Raises Gone, and Unavailable if it ends in the middle."""

    def __init__(self, descriptor: int) -> None:
        """`descriptor` is the shim's end of their connection, from now on this object's."""
        self._connection = _socket.socket(fileno=descriptor)
        self._lock = Lock()

    def create(self, container_id: str, bundle: str, stdio: Stdio, options: AnyMessage | None) -> Made:
        """Have a container made. Raises what `make` raises."""
        request = {
            "id": container_id,
            "bundle": bundle,
            "options": None if options is None else [options.type_url, options.value.hex()],
            "terminal": stdio.terminal,
            "shim": os.getpid(),
        }
        streams = () if stdio.terminal else (stdio.stdin, stdio.stdout, stdio.stderr)
        answer, descriptors = self._ask({"create": request}, streams)
        made = answer["made"]
        return Made(
            pid=made["pid"],
            console=descriptors[0] if descriptors else None,
            bundle=made["bundle"],
            shares_pids=made["shares_pids"],
        )

    def start(self) -> None:
        """Have the container started. Raises what `lifecycle.start` raises."""
        self._ask({"start": True}, ())

    def close(self) -> None:
        """Let it end."""
        self._connection.close()

    def _ask(self, message: dict[str, Any], descriptors: Sequence[int]) -> tuple[dict[str, Any], list[int]]:
        """Send a request, start what is asked for meanwhile, and return the answer with its descriptors."""
        with self._lock:
            try:
                send(self._connection, message, descriptors)
            except (Closed, OSError) as error:
                raise Gone(str(error)) from error
            try:
                while True:
                    answer, received = receive(self._connection)
                    reply = _serve(answer, received)
                    if reply is None:
                        break
                    send(self._connection, reply)
            except (Closed, OSError) as error:
                raise Unavailable(f"the process that makes the container has ended: {error}") from error
        if "failed" in answer:
            raise _error(answer["failed"])
        return answer, received


def _serve(asked: Mapping[str, Any], descriptors: list[int]) -> dict[str, Any] | None:
    """Do what only the shim can, for its children; None for what is an answer."""
    if "spawn" in asked:
        try:
            return {"pid": _spawn(asked["spawn"], descriptors)}
        except OSError as error:
            return {"errno": error.errno}
        finally:
            for descriptor in descriptors:
                os.close(descriptor)
    if "reap" in asked:
        try:
            return {"status": current().reap(asked["reap"])}
        except OSError as error:
            return {"errno": error.errno}
    if "is_child" in asked:
        return {"is_child": current().is_child(asked["is_child"])}
    if "adopt" in asked:
        current().adopt()
        return {"adopted": True}
    return None


def _spawn(request: Mapping[str, Any], descriptors: Sequence[int]) -> int:
    """Start a program in its directory, which is this thread's alone (`working_in`)."""
    path, environment = request["program"], request["env"]
    *sent, directory = descriptors
    program = sent.pop(0) if path is None else path
    os.fchdir(directory)
    return current().spawn(
        program,
        request["args"],
        None if environment is None else dict(entry.split("=", 1) for entry in environment),
        [number if number >= 0 else sent[-number - 1] for number in request["streams"]],
        group=request["group"],
    )


def _error(failed: Mapping[str, Any]) -> Exception:
    if failed["errno"] is not None:
        return OSError(failed["errno"], failed["text"])
    kind = getattr(errors, failed["kind"], Unknown)
    error: Exception = kind(failed["text"])
    return error


# -- the maker's side --------------------------------------------------------------------------------------------------


def pair() -> tuple[int, int]:
    """Return two connected descriptors, the shim's and the maker's. Raises OSError."""
    shims, makers = _socket.socketpair(_socket.AF_UNIX, _socket.SOCK_STREAM)
    return shims.detach(), makers.detach()


def serve(descriptor: int, namespace: str, backend: str | None, warn: Callable[[str], None]) -> None:
    """Make a container and start it, for the shim at the other end. Only the descriptors 2 and this one stay open."""
    close_all_but({2, descriptor, held_executor()})
    for _ in range(2):
        os.set_inheritable(os.open("/dev/null", os.O_RDWR), True)  # 0 and 1
    connection = _socket.socket(fileno=descriptor)
    _Making(connection, namespace, backend, warn).run()


class _Making:
    def __init__(
        self, connection: _socket.socket, namespace: str, backend: str | None, warn: Callable[[str], None]
    ) -> None:
        self._connection, self._namespace, self._backend, self._warn = connection, namespace, backend, warn
        self._store: Store | None = None

    def run(self) -> None:
        """Make a container, which may take several attempts; start it; that is all. The shim's end is the end, too."""
        try:
            with contextlib.suppress(Closed):
                runtime, made = self._create()
                self._start(runtime, made)
        finally:
            if self._store is not None:
                namespace.leave(self._store)

    def _create(self) -> tuple[lifecycle.Runtime, Made]:
        while True:
            message, descriptors = receive(self._connection)
            try:
                runtime, made = self._make(message["create"], descriptors)
            except Exception as error:  # noqa: BLE001 (whatever it is, the client is told)
                send(self._connection, _failed(error))
                continue
            finally:
                for descriptor in descriptors:
                    os.close(descriptor)
            told = {"pid": made.pid, "bundle": made.bundle, "shares_pids": made.shares_pids}
            send(self._connection, {"made": told}, () if made.console is None else (made.console,))
            return runtime, made

    def _make(self, request: Mapping[str, Any], streams: Sequence[int]) -> tuple[lifecycle.Runtime, Made]:
        become(Launcher(self._connection, request["shim"], frozenset()))
        os.chdir(request["bundle"])
        options = request["options"]
        message = None if options is None else AnyMessage(type_url=options[0], value=bytes.fromhex(options[1]))
        asked = chosen(message, lambda _: None, self._backend)  # the shim has said what there is to say
        self._store = self._store or namespace.enter(self._namespace)
        runtime = lifecycle.Runtime(store=self._store, warn=self._warn, config=asked.config)
        if request["terminal"]:
            stdio = Stdio(terminal=True)
        else:
            stdin, stdout, stderr = streams
            stdio = Stdio(stdin=stdin, stdout=stdout, stderr=stderr)
        made = make(runtime, request["id"], request["bundle"], stdio, replace(asked.options, warn=self._warn))
        return runtime, made

    def _start(self, runtime: lifecycle.Runtime, made: Made) -> None:
        receive(self._connection)
        assert made.container is not None
        try:
            lifecycle.start(runtime, made.container.id, made.container)
        except Exception as error:  # noqa: BLE001 (as above)
            send(self._connection, _failed(error))
        else:
            send(self._connection, {"started": True})


def _failed(error: Exception) -> dict[str, Any]:
    if isinstance(error, OSError) and error.errno is not None:
        text = error.strerror if error.filename is None else f"{error.strerror}: {error.filename!r}"
        return {"failed": {"kind": "", "text": text, "errno": error.errno}}
    kind = next((each.__name__ for each in type(error).__mro__ if hasattr(errors, each.__name__)), "")
    text = str(error) if isinstance(error, SandboxError) else f"internal error: {type(error).__name__}: {error}"
    return {"failed": {"kind": kind, "text": text, "errno": None}}
