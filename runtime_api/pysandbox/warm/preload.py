"""What the server imports before it forks, and whether any of it has changed since."""

from __future__ import annotations

import contextlib
import fcntl
import os
import select
import sys
from importlib import import_module

from pysandbox.linux import watch

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator
    from types import ModuleType

    from pysandbox.warm.second import Keep
    from pysandbox.warm.spare import Command

#: Packages of which every module is imported.
PACKAGES = (
    "pysandbox", "pysandbox.cli", "pysandbox.oci", "pysandbox.plan", "pysandbox.cgroup", "pysandbox.warm",
    "pysandbox.shim", "pysandbox.shim.messages", "pysandbox.ttrpc", "pysandbox.ttrpc.messages",
)  # fmt: skip
#: What a launcher is called → what runs its command: module and function.
PROGRAMS = {
    "pysandbox": ("pysandbox.cli.main", "command"),
    "containerd-shim-pysandbox-v2": ("pysandbox.shim.main", "command"),
    "containerd-shim-pysandbox-microvm-v2": ("pysandbox.shim.main", "microvm_command"),
}
#: The same of backends; one that cannot be imported has none.
BACKEND_PROGRAMS = {"pysandbox-sandbox": ("pysandbox_microvm.sandbox", "command")}
#: What keeps a shim's descriptors and children: module and function.
KEEPER = ("pysandbox.shim.keeper", "keep")
#: But for these: they import what is large and seldom needed.
LEFT_OUT = frozenset(
    {
        "pysandbox.cgroup.dbus",
        "pysandbox.cgroup.systemd",
        "pysandbox.hookspecs",
        "pysandbox.ttrpc.generate",
        "pysandbox_namespaces.netdevice",
        "pysandbox_namespaces.plugin",
    }
)
#: What hashlib would use if it did not load OpenSSL: for a shim's socket and the filter cache.
_DIGESTS = ("_sha256" if sys.version_info < (3, 12) else "_sha2", "_blake2")
#: Of the standard library, what functions import when they are called.
LIBRARY = ("ctypes", "select", "termios", "tty", *_DIGESTS)


def preload() -> None:
    """Import what commands use. A backend that cannot be imported here will fail in the command that wants it."""
    from pysandbox.plugins import BUILT_IN

    for name in LIBRARY:
        import_module(name)
    for name in PACKAGES:
        _import_all(name)
    for module, _ in BUILT_IN.values():
        with contextlib.suppress(Exception):  # one backend that is broken should not slow the others down
            _import_all(module.rpartition(".")[0])


def _import_all(package: str) -> None:
    for name in _wanted(import_module(package)):
        import_module(name)


def commands() -> dict[str, Command]:
    """Return what runs the command of each program."""
    found = {name: getattr(import_module(module), function) for name, (module, function) in PROGRAMS.items()}
    for name, (module, function) in BACKEND_PROGRAMS.items():
        with contextlib.suppress(Exception):  # as above
            found[name] = getattr(import_module(module), function)
    return found


def keeper() -> Keep:
    """Return what a fork runs that stays when a command has ended."""
    module, function = KEEPER
    keep: Keep = getattr(import_module(module), function)
    return keep


def _wanted(package: ModuleType) -> Iterator[str]:
    """Yield the modules of a package that commands use: those it names in `PRELOADED`, else all."""
    named = getattr(package, "PRELOADED", None)
    if named is not None:
        yield from (f"{package.__name__}.{name}" for name in named)
    else:
        yield from (name for name in _modules(package) if name not in LEFT_OUT)


def _modules(package: ModuleType) -> Iterator[str]:
    for directory in package.__path__:
        for name in sorted(os.listdir(directory)):
            if name.endswith(".py") and not name.startswith("__"):
                yield f"{package.__name__}.{name[:-3]}"


class Files:
    """The files that this process has loaded: told by the kernel when one of them becomes another, by inotify(7).

    To ask costs one system call, where looking at each would cost a hundred.
    """

    def __init__(self, at_least: int, *others: str) -> None:
        """Watch the modules outside the standard library, the interpreter, its library's directory, and `others`.

        The descriptor that tells has a number from `at_least` on: those below are the callers'.
        """
        library = os.path.dirname(os.__file__)
        files = {os.path.realpath(sys.executable), library, *others}
        for module in list(sys.modules.values()):
            path = getattr(module, "__file__", None) or ""
            if path and not path.startswith(library + "/"):
                files.add(path)
        # Looked at before and after it is watched: what changes meanwhile is not missed.
        before = [_stamp(path) for path in sorted(files)]
        descriptor = watch(sorted(files))
        self.descriptor = fcntl.fcntl(descriptor, fcntl.F_DUPFD_CLOEXEC, at_least)
        os.close(descriptor)
        self._poll = select.poll()
        self._poll.register(self.descriptor, select.POLLIN)
        self._moved = before != [_stamp(path) for path in sorted(files)]

    def changed(self) -> bool:
        """Say whether one of them has been written to, replaced, renamed or removed."""
        return self._moved or bool(self._poll.poll(0))


def _stamp(path: str) -> tuple[int, int, int] | None:
    try:
        status = os.stat(path)
    except OSError:
        return None
    return status.st_ino, status.st_size, status.st_mtime_ns
