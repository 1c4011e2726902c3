"""An installed runtime as it is called for one container: program, flags, its state directory, what it understands."""

from __future__ import annotations

import contextlib
import json
import os

from pysandbox.errors import PermissionDenied
from pysandbox.record import dataclass
from pysandbox_oci.call import Running, RuntimeFailed, ask
from pysandbox_oci.complaint import clean
from pysandbox_oci.dialect import DIALECTS, Dialect, by_name, by_version
from pysandbox_oci.program import find_program, trusted
from pysandbox_oci.settings import arguments, check_settings, timeout

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from typing import Any

#: Below the container's directory: the runtime's own state.
STATE = "oci"
#: Seconds for `--version`.
VERSION_LIMIT = 10.0


@dataclass(frozen=True, slots=True, kw_only=True)
class OciRuntime:
    """`flags` are global ones; `root` is the directory of its state, for one container alone; `limit` is in seconds."""

    name: str
    program: str
    flags: Sequence[str]
    root: str
    dialect: Dialect
    limit: float

    def argv(self, command: str, *words: str, log: str = "") -> list[str]:
        """Return a command's words. Where its standard error is the container's, it tells its troubles to a `log`."""
        logging = ["--log", log] if log else []
        return [self.program, "--root", self.root, *logging, "--log-format", "json", *self.flags, command, *words]

    def ask(self, command: str, *words: str, stdin: bytes = b"") -> bytes:
        """Run a command that gets nothing of the container's and return its answer: see `call.ask`."""
        return ask(self.argv(command, *words), f"{self.name} {command}", self.limit, stdin)

    def ask_json(self, command: str, *words: str) -> Any:
        """Return a command's answer, which must be one JSON document."""
        answer = self.ask(command, *words)
        try:
            return json.loads(answer)
        except (ValueError, RecursionError):
            said = clean(answer[:1000].decode(errors="replace"))
            raise RuntimeFailed(f"{self.name} {command}", "", f"no JSON document: {said!r}") from None

    def begin(self, command: str, words: Sequence[str], streams: Sequence[int], log: str) -> Running:
        """Start a command whose streams the container's process takes over."""
        return Running(self.argv(command, *words, log=log), streams, f"{self.name} {command}")

    def saved(self) -> dict[str, Any]:
        """Return what `load` needs."""
        return {
            "name": self.name,
            "program": self.program,
            "flags": list(self.flags),
            "root": self.root,
            "dialect": self.dialect.name,
            "limit": self.limit,
        }

    @staticmethod
    def load(saved: Mapping[str, Any]) -> OciRuntime:
        """Return what was saved. Raises LookupError or TypeError for what was not, PermissionDenied, Unavailable."""
        flags, limit = saved["flags"], saved["limit"]
        texts = [saved["name"], saved["program"], saved["root"], *flags]
        if not isinstance(flags, list) or not all(isinstance(text, str) for text in texts):
            raise TypeError("flags should be a list of strings")
        return OciRuntime(
            name=saved["name"],
            program=trusted(saved["program"], f"backend 'oci:{saved['name']}'"),
            flags=tuple(flags),
            root=saved["root"],
            dialect=DIALECTS[saved["dialect"]],
            limit=float(limit),
        )


def version(name: str, program: str) -> str:
    """Return the first line of what a runtime says of its version. Raises RuntimeFailed, DeadlineExceeded, OSError."""
    said = ask([program, "--version"], f"{name} --version", VERSION_LIMIT).decode(errors="replace").strip()
    return clean(said.splitlines()[0] if said else "")


def open_runtime(name: str, settings: Mapping[str, Any], container_id: str, state_dir: str) -> OciRuntime:
    """Find the runtime of a new container. Makes nothing. Raises InvalidArgument, Unavailable, PermissionDenied."""
    check_settings(settings)
    program = find_program(name)
    root = f"{state_dir}/{STATE}"
    if "root" in settings:  # a name of its own: who shares the directory shares no container
        root = f"{settings['root'].rstrip('/')}/{container_id}.{os.urandom(8).hex()}"
    return OciRuntime(
        name=name,
        program=program,
        flags=tuple(arguments(settings, name)),
        root=root,
        dialect=by_name(program) or by_version(version(name, program)),
        limit=timeout(settings),
    )


def make_root(runtime: OciRuntime) -> None:
    """Make the directory of the runtime's state. One that the settings name must be root's alone."""
    above = os.path.dirname(runtime.root)
    with contextlib.suppress(FileExistsError):
        os.mkdir(above, 0o700)
    status = os.stat(above, follow_symlinks=False)
    if status.st_uid != os.geteuid() or status.st_mode & 0o170022 != 0o040000:
        raise PermissionDenied(f"{above}: must be a directory of root's that nobody else can write")
    os.mkdir(runtime.root, 0o700)
