"""What the sandbox process does for those who come to its socket: one thread for each, one request, one answer."""

from __future__ import annotations

import contextlib
import os
import signal
import threading
import time

from pysandbox.errors import InvalidArgument, SandboxError
from pysandbox.warm.wire import Closed, receive, send
from pysandbox_microvm import service
from pysandbox_microvm.agent import GuestError
from pysandbox_microvm.proxy import Proxy
from pysandbox_microvm.task import GuestProcess

TYPE_CHECKING = False
if TYPE_CHECKING:
    import _socket
    from collections.abc import Callable, Mapping
    from typing import Any

    from pysandbox_microvm.sandbox import Sandbox
    from pysandbox_microvm.task import Task

    Answer = tuple[dict[str, Any], list[int]]

#: Seconds for a request to come in whole.
REQUEST_TIMEOUT = 10.0
#: Seconds after which somebody who waits for out-of-memory kills is looked after.
_OOM_PATIENCE = 30.0
#: Seconds before the next try to take a connection, where one could not be taken.
_PAUSE = 0.1
#: Requests that are served at a time.
MOST = 64


class Server:
    """Serves until the process ends."""

    def __init__(self, sandbox: Sandbox, listener: _socket.socket) -> None:
        self._sandbox, self._listener = sandbox, listener
        self._room = threading.BoundedSemaphore(MOST)

    def serve(self) -> None:
        """Take connections, for ever."""
        while True:
            self._room.acquire()
            try:
                connection = service.accept(self._listener)
            except OSError:  # no descriptor is left, or the client has gone already
                time.sleep(_PAUSE)
                self._room.release()
                continue
            if connection is None:
                self._room.release()
                continue
            threading.Thread(target=self._attend, args=(connection,), daemon=True).start()

    def _attend(self, connection: _socket.socket) -> None:
        try:
            with contextlib.closing(connection), contextlib.suppress(Closed, OSError):
                request, descriptors = receive(connection, REQUEST_TIMEOUT)
                connection.settimeout(None)
                self._answer(connection, request, descriptors)
        finally:
            self._room.release()

    def _answer(self, connection: _socket.socket, request: Mapping[str, Any], descriptors: list[int]) -> None:
        sent: list[int] = []
        try:
            if "oom" in request:
                self._tell_oom(connection, request["oom"]["container"])
                return
            answer, sent = self._do(request, descriptors)
            message: dict[str, Any] = {"answer": answer}
        except GuestError as error:
            self._sandbox.distrust(error)
            message = {"error": service.error_document(error)}
        except (SandboxError, OSError) as error:
            message = {"error": service.error_document(error)}
        except Exception as error:  # noqa: BLE001 (the command that asked reports it)
            import traceback

            traceback.print_exc()
            message = {"error": service.error_document(error)}
        finally:
            for descriptor in descriptors:  # those that are left: what was taken is out of the list
                os.close(descriptor)
        try:
            send(connection, message, sent)
        finally:
            for descriptor in sent:
                os.close(descriptor)

    def _do(self, request: Mapping[str, Any], descriptors: list[int]) -> Answer:
        (name, arguments), *_ = request.items()
        handlers: dict[str, Callable[[Mapping[str, Any], list[int]], Answer | None]] = {
            "start": self._start,
            "kill": self._kill,
            "exec": self._exec,
            "pause": lambda *_: self._sandbox.pause(),
            "resume": lambda *_: self._sandbox.resume(),
            "update": self._update,
            "read": self._read,
            "resize": self._resize,
            "close_stdin": self._close_stdin,
            "console": self._console,
            "peers": self._peers,
            "create": self._create,
            "remove": self._remove,
            "freeze": self._freeze,
        }
        if name not in handlers:
            raise InvalidArgument(f"no request {name!r}")
        return handlers[name](arguments, descriptors) or ({}, [])

    # -- requests ------------------------------------------------------------------------------------------------------

    def _start(self, arguments: Mapping[str, Any], _: list[int]) -> None:
        self._sandbox.task(arguments["container"]).start()

    def _kill(self, arguments: Mapping[str, Any], _: list[int]) -> None:
        task = self._sandbox.task(arguments["container"])
        task.signal(arguments["signal"], arguments["exec_id"], everyone=arguments["everyone"])

    def _exec(self, arguments: Mapping[str, Any], descriptors: list[int]) -> Answer:
        """Run one more process. Descriptors: its proxy's socket, then 0, 1 and 2."""
        task = self._sandbox.task(arguments["container"])
        proxy = Proxy(descriptors.pop(0))
        process = GuestProcess(
            arguments["container"],
            arguments["exec_id"],
            list(descriptors),
            terminal=arguments["terminal"],
            ended=proxy.tell,
        )
        descriptors.clear()
        try:
            task.execute(process, arguments["plan"])
        except BaseException:
            proxy.close()
            raise
        proxy.follow(lambda number: self._signalled(task, process, number))
        return {"pid": process.pid}, []

    def _signalled(self, task: Task, process: GuestProcess, number: int) -> None:
        """Pass on what a proxy was sent."""
        if number == signal.SIGWINCH:
            process.follow_size(self._sandbox.agent)
        else:
            with contextlib.suppress(SandboxError, OSError):
                task.signal(number, process.exec_id, everyone=False)

    def _update(self, arguments: Mapping[str, Any], _: list[int]) -> None:
        writes = [(str(file), str(value)) for file, value in arguments["limits"]]
        program = bytes.fromhex(arguments["device_program"])
        self._sandbox.host.resize(arguments["resources"])
        self._sandbox.agent.write(arguments["container"], writes, program)

    def _read(self, arguments: Mapping[str, Any], _: list[int]) -> Answer:
        return {"contents": self._sandbox.agent.read(arguments["container"], arguments["files"])}, []

    def _resize(self, arguments: Mapping[str, Any], _: list[int]) -> None:
        container, exec_id = arguments["container"], arguments["exec_id"]
        self._sandbox.agent.resize(container, exec_id, arguments["width"], arguments["height"])

    def _close_stdin(self, arguments: Mapping[str, Any], _: list[int]) -> None:
        self._sandbox.task(arguments["container"]).process(arguments["exec_id"]).close_input()

    def _console(self, _arguments: Mapping[str, Any], _: list[int]) -> Answer:
        return {"console": self._sandbox.host.machine.console().decode(errors="replace")}, []

    # -- further containers --------------------------------------------------------------------------------------------

    def _peers(self, _arguments: Mapping[str, Any], _: list[int]) -> Answer:
        """Tell the pids of the containers' inits: on the host (this process's, or a proxy's), and in the guest."""
        return {
            "pid": self._sandbox.pid,
            "peers": {str(task.host_pid): task.guest_pid for task in self._sandbox.tasks()},
        }, []

    def _create(self, arguments: Mapping[str, Any], descriptors: list[int]) -> Answer:
        """Make one more container. Descriptors: its proxy's socket, then 0, 1 and 2."""
        proxy, streams = Proxy(descriptors[0]), descriptors[1:]
        descriptors.clear()
        process = GuestProcess(arguments["id"], "", streams, terminal=arguments["terminal"], ended=proxy.tell)
        try:
            task = self._sandbox.join(process, arguments)
        except BaseException:
            proxy.close()
            process.discard()
            raise
        proxy.follow(lambda number: self._signalled(task, process, number))
        return {"pid": process.pid}, []

    def _remove(self, arguments: Mapping[str, Any], _: list[int]) -> None:
        self._sandbox.leave(arguments["container"])

    def _freeze(self, arguments: Mapping[str, Any], _: list[int]) -> None:
        value = "1" if arguments["frozen"] else "0"
        self._sandbox.agent.write(arguments["container"], [("cgroup.freeze", value)])

    def _tell_oom(self, connection: _socket.socket, container: str) -> None:
        task = self._sandbox.task(container)
        known: int | None = task.oom_kills
        send(connection, {"answer": {"kills": 0}})
        while True:
            before = known
            known = task.wait_oom(before or 0, _OOM_PATIENCE)
            if known is None:
                return
            send(connection, {"answer": {"kills": known - (before or 0)}})  # 0 finds out whether somebody listens
