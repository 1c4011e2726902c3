"""The settings of this backend, `[backends.microvm]` of the settings file: which there are, and what each must be.

```toml
[backends.microvm]
directory = "/var/lib/pysandbox/microvm"   # images and templates
images = "/var/lib/pysandbox/images"       # images elsewhere
kernel = "/path/vmlinux"                   # an own kernel instead of the image's
initrd = "/path/initrd"                    # an own initrd instead of the image's
kernel_parameters = ["quiet", "nokaslr"]   # those that a spec's vm.kernel.parameters may name
qemu = "/usr/bin/qemu-system-x86_64"
virtiofsd = "/usr/lib/qemu/virtiofsd"
cache = "none"                             # or "auto", "always": what a guest keeps of shared files (docs/security.md)
first_uid = 1878982656                     # 65536 user and group ids for QEMU, one for each machine
accelerator = "tcg"                        # or "kvm", "auto"
template = false                           # boot each machine
vcpus = 1                                  # of a machine whose spec says nothing
memory = 512                               # MiB
max_vcpus = 2                              # what a machine can grow to
max_memory = 4096                          # MiB
overhead = 384                             # MiB that the host adds to a memory limit, for the machine itself
silence = 2                                # seconds for which a guest that can run may not answer (heartbeat.py)
```
"""

from __future__ import annotations

from pysandbox.errors import InvalidArgument
from pysandbox_microvm.identity import COUNT, FIRST, Range

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Mapping
    from typing import Any

MIB = 1024 * 1024
#: MiB that a host cgroup's memory limit has beyond the spec's: kernel and agent of the guest, QEMU with its translated
#: code, virtiofsd, the sandbox process.
OVERHEAD = 384

_PATHS = frozenset({"directory", "images", "kernel", "initrd", "qemu", "virtiofsd"})
_NUMBERS = frozenset({"vcpus", "memory", "max_vcpus", "max_memory", "overhead", "silence"})
#: How long a guest may believe what it was told of a shared file: `auto` asks again after a second, and at each open;
#: `none` keeps nothing at all; `always` never asks again, for trees that only the guest changes.
CACHES = ("auto", "none", "always")
_LAST_UID = 2**32 - 2
_ACCELERATORS = ("auto", "kvm", "tcg")
#: Seconds, in which a machine that is kept from running by the host has not begun to be silent.
SILENCE = 2


def check_settings(settings: Mapping[str, Any]) -> None:
    """Raise InvalidArgument for a setting that there is not, or that is of another kind."""
    for name, value in settings.items():
        where = f"backends.microvm.{name}"
        if name in _PATHS:
            absolute = isinstance(value, str) and value.startswith("/") and "\0" not in value
            _check(where, value, absolute, "absolute path")
        elif name in _NUMBERS:
            whole = isinstance(value, int) and not isinstance(value, bool)
            _check(where, value, whole and 1 <= value <= 1 << 24, "number from 1 to 16777216")
        elif name == "cache":
            _check(where, value, value in CACHES, f"word, one of {', '.join(CACHES)}")
        elif name == "first_uid":
            _check(where, value, _is_uid(value), f"number from 1000 to {_LAST_UID - COUNT}")
        elif name == "template":
            _check(where, value, isinstance(value, bool), "truth value")
        elif name == "accelerator":
            _check(where, value, value in _ACCELERATORS, f"word, one of {', '.join(_ACCELERATORS)}")
        elif name == "kernel_parameters":
            words = isinstance(value, list) and all(isinstance(each, str) for each in value)
            _check(where, value, words, "list of strings")
        else:
            raise InvalidArgument(f"backends.microvm: unknown setting {name!r}")


def _check(where: str, value: Any, right: object, what: str) -> None:
    if not right:
        raise InvalidArgument(f"{where}: must be a {what}, not {value!r}".replace("a absolute", "an absolute"))


def _is_uid(value: Any) -> bool:
    """Say whether a range of ids may begin there: beyond the system's own, and not with the one that means none."""
    return isinstance(value, int) and not isinstance(value, bool) and 1000 <= value <= _LAST_UID - COUNT


def uids(settings: Mapping[str, Any]) -> Range:
    """Return the ids that machines run as."""
    return Range(settings.get("first_uid", FIRST))


def silence(settings: Mapping[str, Any]) -> float:
    """Return the seconds for which a guest that can run may not answer."""
    seconds: int = settings.get("silence", SILENCE)
    return float(seconds)


def overhead(settings: Mapping[str, Any]) -> int:
    """Return the bytes that the host adds to a container's memory limit."""
    megabytes: int = settings.get("overhead", OVERHEAD)
    return megabytes * MIB
