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
accelerator = "tcg"                        # or "kvm", "auto"
template = false                           # boot each machine
vcpus = 1                                  # of a machine whose spec says nothing
memory = 512                               # MiB
max_vcpus = 2                              # what a machine can grow to
max_memory = 4096                          # MiB
overhead = 384                             # MiB that the host adds to a memory limit, for the machine itself
silence = 10                               # seconds for which a guest may not answer before its machine is ended
```
"""

from __future__ import annotations

from pysandbox.errors import InvalidArgument

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
_ACCELERATORS = ("auto", "kvm", "tcg")
#: Seconds: under emulation a busy host may leave a machine without processors for a while.
SILENCE = 10


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


def silence(settings: Mapping[str, Any]) -> float:
    """Return the seconds for which a guest may not answer."""
    seconds: int = settings.get("silence", SILENCE)
    return float(seconds)


def overhead(settings: Mapping[str, Any]) -> int:
    """Return the bytes that the host adds to a container's memory limit."""
    megabytes: int = settings.get("overhead", OVERHEAD)
    return megabytes * MIB
