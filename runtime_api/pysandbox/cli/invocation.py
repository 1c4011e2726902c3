"""One run of a command: its flags, the log, and the runtime they describe, made when the command asks for it."""

from __future__ import annotations

import os

from pysandbox.config import load_config
from pysandbox.errors import InvalidArgument, PermissionDenied
from pysandbox.lifecycle import Runtime
from pysandbox.record import dataclass
from pysandbox.state import Store

TYPE_CHECKING = False
if TYPE_CHECKING:
    from pysandbox.cli.flags import Parsed
    from pysandbox.cli.log import Log
    from pysandbox.config import Config


@dataclass(frozen=True, slots=True, kw_only=True)
class Invocation:
    """What a command's `run` gets. `inherited` are the descriptors from 3 on that the caller left open."""

    globals_: Parsed
    parsed: Parsed
    journal: Log
    inherited: frozenset[int]

    def config(self) -> Config:
        """Return the settings."""
        return load_config(self.globals_["config"] or None)

    def runtime(self) -> Runtime:
        """Open the root directory. Raises PermissionDenied for anybody but root."""
        if os.geteuid() != 0:
            raise PermissionDenied("pysandbox has to run as root: rootless containers are not supported")
        return Runtime(
            store=Store(self.globals_["root"]),
            warn=self.journal.warning,
            config=self.config(),
            backend=self.globals_["backend"] or None,
        )

    @property
    def container_id(self) -> str:
        """The first argument of most commands."""
        container_id: str = self.parsed.arguments[0]
        if not container_id:
            raise InvalidArgument("container id cannot be empty")
        return container_id
