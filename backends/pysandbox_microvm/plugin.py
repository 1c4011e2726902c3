"""How pluggy finds this backend."""

from __future__ import annotations

from pysandbox.backend import BackendEntry
from pysandbox.hookspecs import hookimpl

TYPE_CHECKING = False
if TYPE_CHECKING:
    from pysandbox.backend import Backend


def _load() -> type[Backend]:
    from pysandbox_microvm.backend import MicrovmBackend

    return MicrovmBackend


@hookimpl
def pysandbox_register_backend() -> BackendEntry:
    """Offer the microvm backend."""
    return BackendEntry(name="microvm", load=_load, summary="a virtual machine of its own, in QEMU")
