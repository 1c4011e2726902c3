"""What `create` and `start` would do, for `run --plan`: the runtime's commands, and the document it would get."""

from __future__ import annotations

from pysandbox_oci.creation import flags_of, prepared
from pysandbox_oci.handover import BUNDLE, derived, needs_gate

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from typing import Any

    from pysandbox.backend import Options
    from pysandbox.oci.types import Spec

#: Stands for the container's directory, which does not exist yet.
PLACE = "STATE"


def plan(name: str, bundle: str, spec: Spec, container_id: str, options: Options) -> Sequence[Mapping[str, Any]]:
    """Return one operation for each file that would be written and each command that would be run."""
    runtime = prepared(name, container_id, PLACE, options)
    words = ["--bundle", f"{PLACE}/{BUNDLE}", "--pid-file", f"{PLACE}/pid", *flags_of(options, runtime.dialect)]
    gate = {"path": "the front end's hooks run here"} if needs_gate(spec) else None
    return [
        {"op": "write", "path": f"{PLACE}/{BUNDLE}/config.json", "document": derived(spec, bundle, gate)},
        {"op": "run", "args": runtime.argv("create", *words, container_id, log=f"{PLACE}/log")},
        {"op": "run", "args": runtime.argv("start", container_id)},
    ]
