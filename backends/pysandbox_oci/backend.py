"""The oci backend: `oci:NAME` is the runtime of that name, `oci:/PATH` the one at that path."""

from __future__ import annotations

import os

from pysandbox.backend import Backend, Finding, Problem
from pysandbox.errors import SandboxError
from pysandbox_oci.container import OciContainer, destroy, end_maker
from pysandbox_oci.program import DIRECTORIES, KNOWN, check_name, find_program
from pysandbox_oci.runtime import STATE, OciRuntime

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from typing import Any, ClassVar

    from pysandbox.backend import Container, ContainerRecord, CreateRequest, Features, Options
    from pysandbox.oci.types import Spec


class OciBackend(Backend):
    """See `pysandbox.backend.Backend`."""

    name: ClassVar[str] = "oci"

    def __init__(self, runtime: str = "") -> None:
        check_name(runtime)
        self._runtime = runtime

    @classmethod
    def of_variant(cls, variant: str) -> OciBackend:
        """Take the runtime's name or path."""
        return cls(variant)

    @classmethod
    def variants(cls, settings: Mapping[str, Any]) -> Sequence[str]:
        """Look for the runtimes that are known by name, and those that the settings have flags for."""
        named = settings.get("args")
        names = dict.fromkeys([*KNOWN, *(named if isinstance(named, dict) else ())])
        return [name for name in names if _is_there(name)]

    def origin(self) -> str:
        """Return the program's path and the first line of its `--version`."""
        from pysandbox_oci.runtime import version

        path = find_program(self._runtime)
        try:
            return f"{path}: {version(self._runtime, path)}"
        except (SandboxError, OSError):
            return path  # why is a problem that `probe` tells

    def probe(self) -> Sequence[Problem]:
        """Look for the program, and whether it may be trusted and runs at all."""
        from pysandbox_oci.runtime import version

        try:
            version(self._runtime, find_program(self._runtime))
        except SandboxError as error:
            return [Problem(what=str(error))]
        except OSError as error:
            return [Problem(what=f"{self._runtime}: {error.strerror}")]
        return []

    def inspect(self, settings: Mapping[str, Any]) -> Sequence[Finding]:
        """Tell which program it is, with which flags; whether it can make a container here, only making one tells."""
        from pysandbox_oci.settings import arguments, check_settings

        check_settings(settings)
        if problems := self.probe():
            return [Finding("problem", "runtime", problem.what, problem.remedy) for problem in problems]
        flags = " ".join(arguments(settings, self._runtime)) or "none"
        unknown = (
            "that it runs is known, whether it can make a container on this host is not: that would change the host"
        )
        return [
            Finding("ok", "runtime", self.origin()),
            Finding("ok", "flags", flags),
            Finding("note", "not tried", unknown),
        ]

    def features(self) -> Features:
        """Report what the runtime is asked to do with each field of the spec."""
        from pysandbox_oci.features import features_of

        return features_of(self._runtime)

    def plan(self, bundle: str, spec: Spec, container_id: str, options: Options) -> Sequence[Mapping[str, Any]]:
        """Say which commands would be run, and which document the runtime would get."""
        from pysandbox_oci.planning import plan

        return plan(self._runtime, bundle, spec, container_id, options)

    def create(self, request: CreateRequest) -> Container:
        """Have the runtime create it."""
        from pysandbox_oci.creation import create

        return create(request, self._runtime)

    def load(self, record: ContainerRecord) -> Container:
        """Take hold of the container that the runtime made for the record."""
        runtime = OciRuntime.load(record.backend_state)
        return OciContainer(record.id, record.state_dir, runtime, record.pid, record.pid_start_time)

    def destroy(self, record: ContainerRecord) -> None:
        """Have the runtime kill and remove it, whatever is left."""
        if record.backend_state:
            runtime = OciRuntime.load(record.backend_state)
            end_maker(*record.backend_state.get("maker", (0, 0)))
        elif record.status != "running" or not os.path.isdir(f"{record.state_dir}/{STATE}"):
            return  # nothing was made that outlives its maker
        else:  # its record was lost
            from pysandbox_oci.runtime import open_runtime

            runtime = open_runtime(self._runtime, {}, record.id, record.state_dir)
        destroy(runtime, record.id, record.state_dir, record.pid, record.pid_start_time)


def _is_there(name: str) -> bool:
    return os.path.exists(name) if "/" in name else any(os.path.exists(f"{path}/{name}") for path in DIRECTORIES)
