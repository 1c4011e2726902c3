"""A shim as one sees it who is not containerd: found by its address, or by a container's namespace and id."""

from __future__ import annotations

import contextlib
import json
import os
from threading import Thread

from pysandbox.errors import InvalidArgument, NotFound, Unavailable
from pysandbox.shim import address
from pysandbox.shim.messages import task as messages
from pysandbox.shim.namespace import ROOT
from pysandbox.state import DamagedRecord, check_id
from pysandbox.ttrpc.client import Client
from pysandbox.ttrpc.errors import RpcError
from pysandbox.ttrpc.message import Message
from pysandbox.ttrpc.messages.wellknown import Any as AnyMessage

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Sequence
    from typing import Any, Self

#: Seconds for connecting, and for each call but those that wait for a program.
LIMIT = 10.0
#: Seconds after a program's end for what it wrote to be copied: a process that it left may hold on to the streams.
LAST_OUTPUT = 2.0
PROCESS = "types.containerd.io/opencontainers/runtime-spec/1/Process"
_CHUNK = 64 * 1024


def locate(target: str) -> tuple[str, str]:
    """Return the socket of `unix:///PATH`, `/PATH` or `NAMESPACE/ID`, and the container's id, empty for an address.

    Raises InvalidArgument, NotFound.
    """
    path = target.removeprefix("unix://")
    if path.startswith("/"):
        return path, ""
    namespace, slash, container_id = target.partition("/")
    if not slash or target.startswith("unix:") or "/" in container_id or namespace in ("", ".", ".."):
        raise InvalidArgument(f"{target}: is neither an address, unix:///PATH, nor NAMESPACE/ID of a container")
    check_id(container_id)
    bundle = _bundle(namespace, container_id)
    if not (path := address.read_address(bundle)):
        raise NotFound(f"container {container_id} of namespace {namespace}: {bundle} has no file `address`")
    return path, container_id


def _bundle(namespace: str, container_id: str) -> str:
    try:
        with open(f"{ROOT}/{namespace}/{container_id}/state.json", "rb") as file:
            bundle: str = json.load(file)["bundle"]
    except (FileNotFoundError, NotADirectoryError):
        raise NotFound(f"container {container_id} of namespace {namespace}: no shim of pysandbox has it") from None
    except (ValueError, KeyError, TypeError) as error:
        raise DamagedRecord(f"{ROOT}/{namespace}/{container_id}/state.json: is damaged: {error!r}") from error
    return bundle


class Control:
    """One container of a shim's. Every call raises Unavailable or RpcError."""

    def __init__(self, path: str, container_id: str) -> None:
        self.id = container_id
        try:
            self._client = Client.connect(path, LIMIT)
        except OSError as error:
            raise Unavailable(f"{path}: no shim answers there: {error.strerror or error}") from error

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._client.close()

    def call(self, method: str, kind: type[Message], timeout: float | None = LIMIT, **fields: Any) -> Any:
        """Call one method of the task service, for this container."""
        return self._client.call(messages.Task, method, kind(id=self.id, **fields), timeout=timeout)

    def spec(self) -> dict[str, Any]:
        """Return the process of the container's spec."""
        bundle = self.call("State", messages.StateRequest).bundle
        with open(os.path.join(bundle, "config.json"), "rb") as file:
            process: dict[str, Any] = json.load(file)["process"]
        return process

    def exec(self, args: Sequence[str], streams: tuple[int, int, int]) -> int:
        """Run one more program, as init's user with its environment; return its exit code.

        `streams` are the descriptors that it is to read from and write to, through FIFOs.
        """
        process = {**self.spec(), "args": list(args), "terminal": False}
        exec_id = f"shimctl-{os.urandom(6).hex()}"
        with _Fifos(f"/run/pysandbox-{exec_id}") as fifos:
            spec = AnyMessage(type_url=PROCESS, value=json.dumps(process).encode())
            self.call("Exec", messages.ExecProcessRequest, exec_id=exec_id, spec=spec, **fifos.names)
            return self._run(exec_id, fifos, streams)

    def _run(self, exec_id: str, fifos: _Fifos, streams: tuple[int, int, int]) -> int:
        try:
            self.call("Start", messages.StartRequest, exec_id=exec_id)
            fifos.copy(streams)
            ended = self.call("Wait", messages.WaitRequest, None, exec_id=exec_id)
            fifos.drain()
            return int(ended.exit_status)
        except BaseException:
            with contextlib.suppress(RpcError):
                self.call("Kill", messages.KillRequest, exec_id=exec_id, signal=9)
            raise
        finally:
            with contextlib.suppress(RpcError):
                self.call("Delete", messages.DeleteRequest, exec_id=exec_id)


class _Fifos:
    """Three FIFOs in a directory of their own, and our ends of them."""

    def __init__(self, directory: str) -> None:
        os.mkdir(directory, 0o700)
        self._directory = directory
        self.names: dict[str, Any] = {name: f"{directory}/{name}" for name in ("stdin", "stdout", "stderr")}
        for path in self.names.values():
            os.mkfifo(path, 0o600)
        self._outputs = [
            os.open(self.names[name], os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC) for name in ("stdout", "stderr")
        ]
        both = os.open(self.names["stdin"], os.O_RDWR | os.O_CLOEXEC)  # so that opening for writing waits for nobody
        self._stdin = os.open(self.names["stdin"], os.O_WRONLY | os.O_CLOEXEC)
        os.close(both)
        self._threads: list[Thread] = []

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        for path in self.names.values():
            os.unlink(path)
        os.rmdir(self._directory)
        if not any(thread.is_alive() for thread in self._threads):
            for descriptor in self._outputs:
                os.close(descriptor)

    def copy(self, streams: tuple[int, int, int]) -> None:
        """Begin to copy. To be called when the shim has the FIFOs open."""
        Thread(target=_copy, args=(streams[0], self._stdin, True), daemon=True).start()
        for source, target in zip(self._outputs, streams[1:], strict=True):
            os.set_blocking(source, True)
            self._threads.append(Thread(target=_copy, args=(source, target, False), daemon=True))
            self._threads[-1].start()

    def drain(self) -> None:
        """Wait for the rest of the output."""
        for thread in self._threads:
            thread.join(LAST_OUTPUT)


def _copy(source: int, target: int, last: bool) -> None:  # noqa: FBT001 (a thread's arguments have no names)
    """Copy to the end, or until nobody reads any more."""
    with contextlib.suppress(OSError):
        while piece := os.read(source, _CHUNK):
            while piece:
                piece = piece[os.write(target, piece) :]
    if last:
        os.close(target)


def plain(value: Any) -> Any:
    """Return a message, with all in it, as JSON has it: bytes as text, what is packed unpacked where its type is known.

    Fields that say nothing are left out.
    """
    if isinstance(value, AnyMessage):
        kind = _packed_types().get(value.type_url)
        return {"type": value.type_url} | (plain(kind.decode(value.value)) if kind is not None else {})
    if isinstance(value, Message):
        fields = {name: getattr(value, name) for _, name, *_ in value.FIELDS}
        return {name: plain(each) for name, each in fields.items() if each not in (None, "", b"", [], {})}
    if isinstance(value, bytes):
        return value.decode(errors="replace")
    if isinstance(value, list | tuple):
        return [plain(each) for each in value]
    return value


def _packed_types() -> dict[str, type[Message]]:
    from pysandbox.shim.messages import cgroups_v1, cgroups_v2, runc

    return {kind.NAME: kind for kind in (cgroups_v1.Metrics, cgroups_v2.Metrics, runc.ProcessDetails)}
