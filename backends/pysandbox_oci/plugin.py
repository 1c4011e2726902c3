"""How pluggy finds this backend."""

from __future__ import annotations

from pysandbox.backend import BackendEntry
from pysandbox.hookspecs import hookimpl

TYPE_CHECKING = False
if TYPE_CHECKING:
    from pysandbox.backend import Backend


def _load() -> type[Backend]:
    from pysandbox_oci.backend import OciBackend

    return OciBackend


@hookimpl
def pysandbox_register_backend() -> BackendEntry:
    """Offer the oci backend."""
    return BackendEntry(name="oci", load=_load, summary="an installed OCI runtime, by its command line")
