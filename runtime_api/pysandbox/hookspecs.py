"""The two hooks of pysandbox. Hooks discover, methods act: there is none for an operation on a container.

A plugin is a module with functions of these names under `@hookimpl`, announced as an entry point of the group
`pysandbox.backends` whose name is the backend's. Importing this module imports pluggy (32 ms): commands that use a
built-in backend do without.
"""

from __future__ import annotations

import pluggy

TYPE_CHECKING = False
if TYPE_CHECKING:
    from pysandbox.backend import BackendEntry, LifecycleEvent

PROJECT = "pysandbox"
ENTRY_POINT_GROUP = "pysandbox.backends"

hookspec = pluggy.HookspecMarker(PROJECT)
hookimpl = pluggy.HookimplMarker(PROJECT)


@hookspec
def pysandbox_register_backend() -> BackendEntry:  # type: ignore[empty-body]
    """Offer one backend. Called once, before any container exists; must not touch the host."""


@hookspec
def pysandbox_lifecycle_event(event: LifecycleEvent) -> None:
    """Observe a container's life after the fact. What it raises is logged and dropped."""
