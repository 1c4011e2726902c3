"""How pluggy finds this backend."""

from __future__ import annotations

from pysandbox.backend import BackendEntry
from pysandbox.hookspecs import hookimpl

TYPE_CHECKING = False
if TYPE_CHECKING:
    from pysandbox.backend import Backend


def _load() -> type[Backend]:
    from pysandbox_namespaces.backend import NamespacesBackend

    return NamespacesBackend


@hookimpl
def pysandbox_register_backend() -> BackendEntry:
    """Offer the namespaces backend."""
    return BackendEntry(name="namespaces", load=_load, summary="namespaces on the host's kernel, as runc")
