"""The agent without a machine: on this host, as the first process of namespaces of its own, over a socket pair."""

from __future__ import annotations

import os
import shutil
import socket
import subprocess
import tempfile
import threading
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

import busybox

from pysandbox.backend import ExecRequest, Options, Stdio
from pysandbox.oci.default import default_spec
from pysandbox_microvm import planning
from pysandbox_microvm.agent import Agent
from pysandbox_microvm.messages import agent as messages
from pysandbox_microvm.place import Place

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from pysandbox_microvm.agent import ProcessStream

REPOSITORY = Path(__file__).parent.parent
PROGRAMS = Path(os.environ.get("PYSANDBOX_TEST_AGENT", REPOSITORY / "guest_agent/target/release"))
#: What the agent finds at /run/storage/test.
PLACE = Place("test")
WAIT = 20.0
CGROUPS = Path("/sys/fs/cgroup/unified")


class Host:
    """One agent, and the socket that is its host."""

    def __init__(self, *, listening: bool = False) -> None:
        self.directory = Path(tempfile.mkdtemp(prefix="psb-agent-"))
        busybox.build(self.directory / "rootfs")
        self.socket, theirs = self._listen() if listening else socket.socketpair()
        self.cgroup = CGROUPS / self.directory.name
        self.cgroup.mkdir()
        self.program = subprocess.Popen(
            [
                *("sh", "-c", 'echo $$ > "$0" && exec "$@"', str(self.cgroup / "cgroup.procs")),
                *("unshare", "--pid", "--fork", "--mount", "--net", "--uts", "--ipc", "--cgroup", "--kill-child"),
                *(
                    str(PROGRAMS / "pysandbox-agent"),
                    "--listener" if listening else "--descriptor",
                    str(theirs.fileno()),
                ),
                *("--executor", str(REPOSITORY / "guest_agent/target/release/pysandbox-executor")),
                *("--storage", str(self.directory)),
            ],
            pass_fds=[theirs.fileno()],
        )
        theirs.close()
        self.listening = listening

    def _listen(self) -> tuple[socket.socket, socket.socket]:
        listener = socket.socket(socket.AF_UNIX)
        listener.bind(str(self.directory / "socket"))
        listener.listen()
        return self.connect(), listener

    def connect(self) -> socket.socket:
        """Return a connection to an agent that listens."""
        connected = socket.socket(socket.AF_UNIX)
        connected.connect(str(self.directory / "socket"))
        return connected

    def find_pid(self) -> int:
        """Return the agent's pid on the host, as soon as it is there."""
        path = Path(f"/proc/{self.program.pid}/task/{self.program.pid}/children")
        deadline = time.monotonic() + WAIT
        while not (children := path.read_text().split()):
            assert time.monotonic() < deadline, "no agent was started"
            time.sleep(0.005)
        return int(children[0])

    def close(self) -> None:
        """Hang up: the agent ends, and all that is in its pid namespace with it. One that listens is killed."""
        self.socket.close()
        try:
            if not self.listening:
                self.program.wait(WAIT)
        finally:
            self.program.kill()
            self.program.wait(WAIT)
            self._remove_cgroups()
            shutil.rmtree(self.directory)

    def _remove_cgroups(self) -> None:
        """Remove what the agent has made: it ended without a word, as a guest does."""
        (self.cgroup / "cgroup.kill").write_text("1")
        for directory, _, _ in os.walk(self.cgroup, topdown=False):
            deadline = time.monotonic() + WAIT
            while "populated 1" in Path(directory, "cgroup.events").read_text():
                assert time.monotonic() < deadline, f"{directory} has processes that do not end"
                time.sleep(0.01)
            Path(directory).rmdir()


class Listener:
    """Events of an agent, in a thread of their own."""

    def __init__(self, agent: Agent) -> None:
        self.events: list[messages.Event] = []
        self._changed = threading.Condition()
        self._agent = agent
        self._thread = threading.Thread(target=self._listen, daemon=True)
        self._thread.start()

    def _listen(self) -> None:
        for event in self._agent.events():
            with self._changed:
                self.events.append(event)
                self._changed.notify_all()

    def exit_code(self, container: str, exec_id: str = "") -> int:
        """Wait for the exit of a process."""

        def find() -> messages.Event | None:
            ours = (event for event in self.events if (event.container, event.exec_id) == (container, exec_id))
            return next((event for event in ours if not event.oom), None)

        with self._changed:
            assert self._changed.wait_for(lambda: find() is not None, WAIT), f"{container}/{exec_id} has not ended"
            event = find()
            assert event is not None
            self.events.remove(event)
        return event.code


def spec(args: Sequence[str], change: Callable[[Any], object] | None = None, **process: Any) -> Any:
    """Return a spec for the guest."""
    made: Any = default_spec(cgroup_namespace=True)
    made["process"].update({"args": list(args), "terminal": False, **process})
    made["root"]["readonly"] = False
    made["hostname"] = "inside"
    if change is not None:
        change(made)
    return made


def create_request(
    container: str, document: Any, *, stdin: bool = False, place: Place = PLACE
) -> messages.CreateRequest:
    """Return what makes a container of a spec, as the sandbox process asks for it."""
    state = {"ociVersion": "1.0.2", "id": container, "status": "creating", "bundle": "/"}
    planned = planning.plan_init("/", document, container, Options(), state, place)
    return messages.CreateRequest(
        container=container,
        plan=planned.plan.to_json(),
        cgroup=planned.cgroup,
        limits=[messages.FileWrite(file=file, value=value) for file, value in planned.limits],
        device_program=planned.device_program,
        stdio=_stdio(document["process"], stdin=stdin),
        uid_map=planned.uid_map,
        gid_map=planned.gid_map,
        time_offsets=planned.time_offsets,
    )


def exec_request(
    container: str, exec_id: str, document: Any, args: Sequence[str], *, stdin: bool = False, **process: Any
) -> messages.ExecRequest:
    """Return what runs one more process in a container of a spec."""
    asked: Any = {**document["process"], "args": list(args), **process}
    request: Any = ExecRequest(
        process=asked,
        stdio=Stdio(stdin=0, stdout=1, stderr=2, terminal=asked["terminal"]),
        exec_id=exec_id,
        options=Options(),
        state={},
    )
    plan = planning.plan_exec(request, "/", container, document, PLACE)
    return messages.ExecRequest(
        container=container, exec_id=exec_id, plan=plan.to_json(), stdio=_stdio(asked, stdin=stdin)
    )


def _stdio(process: Any, *, stdin: bool) -> messages.Stdio:
    return messages.Stdio(terminal=process["terminal"], stdin=stdin)


def read_all(stream: ProcessStream) -> dict[int, bytes]:
    """Take all output of a process."""
    output = {1: b"", 2: b""}
    while (part := stream.receive()) is not None:
        output[part.stream] += part.data
        stream.give_back(part)
    return output
