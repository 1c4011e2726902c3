"""A compiled seccomp profile, as a plan carries it."""

from __future__ import annotations

from pysandbox.record import dataclass

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from pysandbox.oci.types import Seccomp


@dataclass(frozen=True, slots=True, kw_only=True)
class Filter:
    """A compiled profile: base64 of struct sock_filter[], the flags for seccomp(2), whether it has a listener.

    `ignored` are the names that libseccomp does not know.
    """

    program: str
    flags: int
    listener: bool
    ignored: Sequence[str] = ()


if TYPE_CHECKING:
    #: What turns `linux.seccomp` into a filter, None where it asks for none.
    Compiler = Callable[[Seccomp], Filter | None]
