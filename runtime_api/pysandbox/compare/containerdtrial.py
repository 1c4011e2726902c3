"""Contenders through containerd's gRPC API: Create, Start, Wait, Delete and Exec of its Tasks service.

The bundle's derived spec is given to containerd, and its root by path: no image, no snapshot, no streams.
"""

from __future__ import annotations

import contextlib
import json
import os
import secrets
import time
from typing import TYPE_CHECKING, Any

from pysandbox.compare import processes
from pysandbox.compare.containerd import encode, first_number
from pysandbox.compare.gauge import printable
from pysandbox.compare.measure import Failed
from pysandbox.compare.trial import outside
from pysandbox.errors import Unavailable

if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
    from pathlib import Path
    from typing import Self

    from pysandbox.compare.handler import Handler

#: Seconds for one call; of a machine under emulation, whose template may have to be made.
LIMIT = 150.0
#: Seconds for the first answer.
FIRST = 5.0
#: Seconds without a call until a shim's memory is read: ours becomes smaller when containerd has been quiet (1 to 2 s).
REST = 3.0
SIGKILL = 9
_SPEC = "types.containerd.io/opencontainers/runtime-spec/1/Spec"
_PROCESS = "types.containerd.io/opencontainers/runtime-spec/1/Process"


class Client:
    """containerd at an address, in a namespace of the bench's own, which goes with it."""

    def __init__(self, address: str) -> None:
        self._address = os.path.abspath(address.removeprefix("unix://"))  # gRPC takes no other
        self.namespace = f"pysandbox-bench-{secrets.token_hex(4)}"
        self._calls: dict[str, Callable[..., bytes]] = {}
        self._channel: Any = None

    def __enter__(self) -> Self:
        """Connect. Raises Unavailable where there is no grpcio, or nobody answers."""
        try:
            import grpc  # type: ignore[import-untyped]
        except ImportError:
            raise Unavailable("grpcio is not installed: pip install 'pysandbox[containerd]'") from None
        self._error = grpc.RpcError
        self._channel = grpc.insecure_channel(f"unix://{self._address}")
        try:
            self.call("version.v1.Version/Version", {}, FIRST)
        except Failed as error:
            self._channel.close()
            raise Unavailable(f"containerd at {self._address}: {error}") from None
        return self

    def __exit__(self, *_: object) -> None:
        """Remove the namespace, and close the connection."""
        with contextlib.suppress(Failed):
            self.call("namespaces.v1.Namespaces/Delete", {1: self.namespace}, FIRST)
        self._channel.close()

    def call(self, method: str, fields: Mapping[int, str | bytes | int], limit: float = LIMIT) -> bytes:
        """Call a method of a service of containerd.services. Raises Failed with its words."""
        if method not in self._calls:
            self._calls[method] = self._channel.unary_unary(f"/containerd.services.{method}")
        try:
            metadata = (("containerd-namespace", self.namespace),)
            return self._calls[method](encode(fields), timeout=limit, metadata=metadata)
        except self._error as error:
            words = error.details() if hasattr(error, "details") else str(error)
            raise Failed(f"{method.rpartition('/')[2]}: {printable(words, 600) or type(error).__name__}") from None


class Api:
    """One contender: a container whose task ends at once, and one whose task waits for execs.

    `prefix` begins the ids of its containers, and names their cgroups: no other bench has it.
    """

    def __init__(self, client: Client, name: str, prefix: str, bundles: Mapping[str, Path]) -> None:
        self._client, self.name = client, name
        self._ids = {kind: f"{prefix}-{kind}" for kind in ("hello", "wait", "memory")}
        specs = {"hello": "hello", "wait": "wait", "memory": "wait"}
        self._specs = {kind: _spec(bundles[specs[kind]], self._ids[kind]) for kind in self._ids}
        process = json.loads(self._specs["hello"])["process"]
        self._process = encode({1: _PROCESS, 2: json.dumps(process)})
        self._made: list[str] = []

    def prepare_any(self, handlers: Sequence[Handler]) -> tuple[str, str]:
        """Prepare with the first handler that works; return how, and why not with the first. Raises Failed with all."""
        reasons: list[str] = []
        for each in handlers:
            try:
                self.prepare(each)
                return each.how, "; ".join(reasons)
            except Failed as error:
                reasons.append(f"{each.how}: {error}")
        raise Failed("; ".join(reasons))

    def prepare(self, handler: Handler) -> None:
        """Make the containers, run the first once, and start the second. Raises Failed; nothing is left of it then."""
        try:
            for kind, name in self._ids.items():
                spec = encode({1: _SPEC, 2: self._specs[kind]})
                container = encode({1: name, 4: handler.encoded(), 5: spec})
                self._made.append(name)  # first: an interrupted call may have made it
                self._client.call("containers.v1.Containers/Create", {1: container})
            for _ in self.life():
                pass
            self._task("Create", {1: self._ids["wait"]})
            self._task("Start", {1: self._ids["wait"]})
        except Failed:
            self.close()
            raise

    def life(self) -> Iterator[tuple[str, float]]:
        """Create, start and delete a task; its end in between is waited for."""
        name = self._ids["hello"]
        begin = time.perf_counter()
        steps = {"api: create": self._task("Create", {1: name}), "api: start": self._task("Start", {1: name})}
        self._wait({1: name})
        ended = (time.perf_counter() - begin) * 1000
        steps["api: delete"] = self._task("Delete", {1: name})
        yield from steps.items()
        yield "api: create to exit", ended

    def exec(self) -> Iterator[tuple[str, float]]:
        """Add a process to the task that waits, start it, and wait for its end."""
        name, exec_id = self._ids["wait"], secrets.token_hex(6)
        begin = time.perf_counter()
        self._task("Exec", {1: name, 6: self._process, 7: exec_id})
        self._task("Start", {1: name, 2: exec_id})
        self._wait({1: name, 2: exec_id})
        yield "api: exec to exit", (time.perf_counter() - begin) * 1000
        self._task("DeleteProcess", {1: name, 2: exec_id})

    def memory(self) -> Iterator[tuple[str, float]]:
        """Create and start a task that waits; read the memory of its shim and of all that it started."""
        name, before = self._ids["memory"], processes.everybody()
        try:
            self._task("Create", {1: name})
            pid = first_number(self._client.call("tasks.v1.Tasks/Start", {1: name}))
            time.sleep(REST)
            yield "api: memory", outside(self._started(pid, before)).proportional
        finally:
            self._end(name)

    def _started(self, pid: int, before: Collection[processes.Process]) -> set[processes.Process]:
        """Return the shim of a task's init, which is its parent, all below it, and all in the task's cgroup.

        Of our own shim that is the keeper, and who serves for it is at first its parent (`pysandbox.shim.keeper`).

        Raises Failed for an older one: the API tells no shim's pid; that it and init are new is the proof that the pids
        are of our namespace, and that this is neither containerd nor a shim that has other tasks.
        """
        shim = processes.parent(pid)
        if shim is None or shim in before:
            raise Failed(f"process {pid} of the task is no child of a shim that was started for it")
        serving = {processes.parent(shim[0])} - {None, *before}
        return processes.descendants(shim[0]) | {shim, *filter(None, serving)} | processes.beside(pid)

    def close(self) -> None:
        """End and remove what was made, as far as that can be."""
        while self._made:
            name = self._made.pop()
            self._end(name)
            with contextlib.suppress(Failed):
                self._client.call("containers.v1.Containers/Delete", {1: name})

    def _end(self, name: str) -> None:
        with contextlib.suppress(Failed):
            self._task("Kill", {1: name, 3: SIGKILL, 4: 1})
            self._client.call("tasks.v1.Tasks/Wait", {1: name})
        with contextlib.suppress(Failed):
            self._task("Delete", {1: name})

    def _task(self, method: str, fields: Mapping[int, str | bytes | int]) -> float:
        begin = time.perf_counter()
        self._client.call(f"tasks.v1.Tasks/{method}", fields)
        return (time.perf_counter() - begin) * 1000

    def _wait(self, fields: Mapping[int, str | bytes | int]) -> None:
        """Wait for the end of a process. Raises Failed unless it is 0."""
        code = first_number(self._client.call("tasks.v1.Tasks/Wait", fields))
        if code != 0:
            raise Failed(f"the program ended with {code}")


def _spec(bundle: Path, name: str) -> str:
    """Return the spec of a derived bundle, with a cgroup of this name, as clients of containerd give one."""
    spec = json.loads((bundle / "config.json").read_text())
    spec.setdefault("linux", {})["cgroupsPath"] = f"/{name}"
    return json.dumps(spec)
