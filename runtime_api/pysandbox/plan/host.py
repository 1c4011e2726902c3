"""Facts of the host that planning depends on, gathered outside so that planning stays pure."""

from __future__ import annotations

import os

from pysandbox.record import dataclass, field

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from pysandbox.oci.types import Spec


@dataclass(frozen=True, slots=True, kw_only=True)
class Host:
    """What the kernel has.

    `limits` maps RLIMIT_* numbers to (soft, hard) of this process; it is gathered only for a spec with a user
    namespace, where a limit must be raised before the namespace is entered. `cpus` are all that the kernel may ever
    have, where this process is bound to fewer: the container is not, whoever ran us under taskset(1) (runc's rule).
    """

    apparmor: bool = False
    selinux: bool = False
    last_capability: int = 40
    kcore: bool = True
    limits: Mapping[int, tuple[int, int]] = field(default_factory=dict)
    cpus: Sequence[int] = ()


def host_facts(spec: Spec | None = None) -> Host:
    """Read the facts: five small files, no subprocess."""
    return Host(
        apparmor=_read("/sys/module/apparmor/parameters/enabled")[:1] == b"Y",
        selinux=os.path.exists("/sys/fs/selinux/enforce"),
        last_capability=int(_read("/proc/sys/kernel/cap_last_cap") or b"40"),
        kcore=os.path.exists("/proc/kcore"),
        cpus=_cpus_beyond_ours(),
        limits=_limits() if spec is not None and _has_user_namespace(spec) else {},
    )


def _has_user_namespace(spec: Spec) -> bool:
    linux = spec.get("linux") or {}
    return any(namespace.get("type") == "user" for namespace in linux.get("namespaces") or ())


def _cpus_beyond_ours() -> Sequence[int]:
    """Return all possible CPUs if some of them are not this process's. /sys names them `0` or `0-N`."""
    last = _read("/sys/devices/system/cpu/possible").rpartition(b"-")[2]
    count = int(last) + 1 if last.isdigit() else 0
    return range(count) if count > len(os.sched_getaffinity(0)) else ()


def _limits() -> dict[int, tuple[int, int]]:
    import resource

    infinity = 2**64 - 1

    def unsigned(value: int) -> int:
        return infinity if value < 0 else value

    limits = {number: resource.getrlimit(number) for number in range(16)}
    return {number: (unsigned(soft), unsigned(hard)) for number, (soft, hard) in limits.items()}


def _read(path: str) -> bytes:
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    except OSError:
        return b""
    try:
        return os.read(descriptor, 64).strip()
    finally:
        os.close(descriptor)
