"""The caller's half of making a container: what it does at each stop of the executor's plan."""

from __future__ import annotations

from pysandbox_namespaces.conversation import converse, patience
from pysandbox_namespaces.idmap import write_id_maps, write_process_file

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Mapping

    from pysandbox.backend import CreateRequest, Process
    from pysandbox.cgroup.cgroup import Cgroup
    from pysandbox.executor import Launch
    from pysandbox.plan.plan import Plan
    from pysandbox_namespaces.conversation import Answer


class Creation:
    """One container on its way to the stop `ready`, where init waits for `start`."""

    def __init__(self, request: CreateRequest, plan: Plan, cgroup: Cgroup) -> None:
        self._request = request
        self._plan = plan
        self._cgroup = cgroup
        self._linux = request.spec.get("linux") or {}

    def follow(self, launch: Launch) -> Process:
        """Answer every stop; return init."""
        return converse(
            launch,
            self._answers(),
            until="ready",
            on_listener=self._hand_listener,
            trace=self._request.options.trace,
            timeout=patience(self._request.spec, "createContainer"),
        )

    def _answers(self) -> Mapping[str, Answer]:
        return {
            "cgroup": self._cgroup.add,
            "id_maps": self._write_id_maps,
            "time_offsets": self._write_time_offsets,
            "net_devices": self._move_devices,
            "runtime_created": self._runtime_created,
            "ready": lambda _pid: None,  # all that is left to do is to let init go on
        }

    def _write_id_maps(self, pid: int) -> None:
        write_id_maps(pid, self._linux.get("uidMappings") or (), self._linux.get("gidMappings") or ())

    def _write_time_offsets(self, pid: int) -> None:
        write_process_file(pid, "timens_offsets", self._plan.time_offsets.encode())

    def _move_devices(self, pid: int) -> None:
        from pysandbox_namespaces.netdevice import move_devices

        move_devices(self._linux.get("netDevices") or {}, pid)

    def _runtime_created(self, pid: int) -> None:
        """Set the limits only now: the executor's two processes would not fit into a limit of one."""
        self._cgroup.apply(self._linux.get("resources") or {})
        self._request.runtime_created(pid)

    def _hand_listener(self, pid: int, number: int) -> None:
        from pysandbox_namespaces.listener import hand_listener

        hand_listener(self._request.spec, self._request.state, pid, number)
