"""The settings file, /etc/pysandbox/config.toml, which need not exist.

```toml
backend = "namespaces"                 # used where neither flag nor annotation says otherwise
plugins = ["example"]                  # the only backends, beside the built-in ones, that may be loaded
observers = ["example"]                # entry points whose pysandbox_lifecycle_event is called
annotation_backends = ["namespaces"]   # values of the annotation io.pysandbox.backend that count
warm = false                           # for the launcher: start every command cold
binary_stdio = false                   # for the shim: no program takes output (`binary://` streams)
require = ["group:escape"]             # no container without this having been observed: docs/audit.md

[backends.microvm]                     # settings of one backend, which checks them itself
template = false
```

It names code that runs as root, so it must be root's. `tomllib` (16 ms) is imported only when there is a file.
"""

from __future__ import annotations

import os

from pysandbox.errors import InvalidArgument, PermissionDenied
from pysandbox.record import dataclass, field

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Mapping
    from typing import Any

DEFAULT_PATH = "/etc/pysandbox/config.toml"
SIZE_LIMIT = 1024 * 1024
_SETTINGS = {"backend", "plugins", "observers", "annotation_backends", "warm", "binary_stdio", "require", "backends"}


@dataclass(frozen=True, slots=True, kw_only=True)
class Config:
    """Settings. `plugins` is None where any plugin may be loaded by name."""

    path: str = DEFAULT_PATH
    backend: str | None = None
    plugins: tuple[str, ...] | None = None
    observers: tuple[str, ...] = ()
    annotation_backends: tuple[str, ...] = ()
    binary_stdio: bool = True
    require: tuple[str, ...] = ()
    backends: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)


def load_config(path: str | None) -> Config:
    """Read the settings; without a path, the default file if there is one. Raises InvalidArgument, PermissionDenied."""
    where = path or DEFAULT_PATH
    try:
        descriptor = os.open(where, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
    except FileNotFoundError:
        if path is None:
            return Config()
        raise InvalidArgument(f"{where}: no such file or directory") from None
    except OSError as error:
        raise InvalidArgument(f"{where}: {error.strerror}") from error
    try:
        status = os.fstat(descriptor)
        if status.st_mode & 0o170000 != 0o100000 or status.st_size > SIZE_LIMIT:
            raise InvalidArgument(f"{where}: must be a regular file of at most {SIZE_LIMIT} bytes")
        if status.st_uid not in (0, os.geteuid()) or status.st_mode & 0o022:
            raise PermissionDenied(f"{where}: must be owned by root and writable by nobody else")
        with open(descriptor, "rb", closefd=False) as file:
            return _parse(file.read(SIZE_LIMIT), where)
    finally:
        os.close(descriptor)


def overlaid(base: Config, document: dict[str, Any], where: str) -> Config:
    """Return settings with those of a table in their places; `where` is what errors call it. Raises InvalidArgument."""
    return _checked(document, where, base)


def _parse(text: bytes, where: str) -> Config:
    return _checked(read_document(text, where), where, Config(path=where))


def read_document(text: bytes, where: str) -> dict[str, Any]:
    """Read TOML. Raises InvalidArgument."""
    import tomllib

    try:
        return tomllib.loads(text.decode())
    except RecursionError:
        raise InvalidArgument(f"{where}: nested too deeply") from None
    except ValueError as error:
        raise InvalidArgument(f"{where}: {error}") from error


def _checked(document: dict[str, Any], where: str, base: Config) -> Config:
    unknown = document.keys() - _SETTINGS
    if unknown:
        raise InvalidArgument(f"{where}: unknown setting {min(unknown)!r}")
    backend = document.get("backend", base.backend)
    if not isinstance(backend, str | None):
        raise InvalidArgument(f"{where}: backend should be a string")
    for name in ("warm", "binary_stdio"):
        if not isinstance(document.get(name, True), bool):
            raise InvalidArgument(f"{where}: {name} should be true or false")
    return Config(
        path=base.path,
        backend=backend,
        binary_stdio=document.get("binary_stdio", base.binary_stdio),
        plugins=_names(document, "plugins", where) if "plugins" in document else base.plugins,
        observers=_names(document, "observers", where) if "observers" in document else base.observers,
        annotation_backends=(
            _names(document, "annotation_backends", where)
            if "annotation_backends" in document
            else base.annotation_backends
        ),
        # What is required stays so: who may add settings may add demands.
        require=(*base.require, *(_names(document, "require", where) if "require" in document else ())),
        backends=_tables(document["backends"], where) if "backends" in document else base.backends,
    )


def _tables(tables: Any, where: str) -> Mapping[str, Mapping[str, Any]]:
    if not isinstance(tables, dict) or not all(isinstance(table, dict) for table in tables.values()):
        raise InvalidArgument(f"{where}: backends should be a table with one table for each backend")
    return tables


def _names(document: dict[str, Any], key: str, where: str) -> tuple[str, ...]:
    names = document[key]
    if not isinstance(names, list) or not all(isinstance(name, str) for name in names):
        raise InvalidArgument(f"{where}: {key} should be a list of strings")
    return tuple(names)
