"""Runtime options: what a client of containerd asks for beyond the task itself.

`runtimeoptions.v1.Options` names a settings file, or has the settings: CRI sends the table `options` of a runtime as
TOML, which is laid over /etc/pysandbox/config.toml. `containerd.runc.v1.Options` come from clients that think of runc;
containerd's default handler has their names in its table, whatever its `runtime_type`. Options of other types are for
another runtime, and ignored with a line in the log.
"""

from __future__ import annotations

from pysandbox.backend import Options
from pysandbox.config import load_config, overlaid, read_document
from pysandbox.errors import InvalidArgument
from pysandbox.record import dataclass, replace
from pysandbox.shim.messages.runc import Options as RuncOptions
from pysandbox.shim.messages.runtimeoptions import Options as RuntimeOptions
from pysandbox.ttrpc.message import DecodeError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Any

    from pysandbox.config import Config
    from pysandbox.ttrpc.messages.wellknown import Any as AnyMessage

#: What errors call settings that come with the request.
_BODY = "runtime options"

#: Names of `containerd.runc.v1.Options` in a runtime's table (containerd's default configuration writes them all out).
_RUNC_NAMES = {
    "NoPivotRoot": "no_pivot_root",
    "NoNewKeyring": "no_new_keyring",
    "ShimCgroup": "shim_cgroup",
    "IoUid": "io_uid",
    "IoGid": "io_gid",
    "SystemdCgroup": "systemd_cgroup",
    "BinaryName": "binary_name",
    "Root": "root",
    "CriuPath": "criu_path",
    "CriuImagePath": "criu_image_path",
    "CriuWorkPath": "criu_work_path",
    "TaskApiAddress": "task_api_address",
    "TaskApiVersion": "task_api_version",
}
#: Those that have no meaning here: they say where runc, its state and CRIU are.
_IN_VAIN = ("BinaryName", "Root", "CriuPath", "CriuImagePath", "CriuWorkPath")
_SAID = {bool: "true or false", str: "a string", int: "a number below 2^32"}


@dataclass(frozen=True, slots=True, kw_only=True)
class Chosen:
    """Settings, the backend's options, the uid and gid that are to own the streams, and the shim's own cgroup."""

    config: Config
    options: Options
    owner: tuple[int, int] = (0, 0)
    shim_cgroup: str = ""


def settings(path: str | None, backend: str | None) -> Config:
    """Read a settings file, the default one without a path. Raises InvalidArgument, PermissionDenied.

    `backend` is the one that the shim's name says: a file that the runtime's options name may say another.
    """
    config = load_config(path)
    if backend is None or (path is not None and config.backend is not None):
        return config
    return replace(config, backend=backend)


def chosen(message: AnyMessage | None, warn: Callable[[str], None], backend: str | None = None) -> Chosen:
    """Return what a request's options ask for; `backend` as in `settings`. Raises InvalidArgument, PermissionDenied."""
    try:
        if message is not None and message.type_url == RuntimeOptions.NAME:
            return _generic(RuntimeOptions.decode(message.value), warn, backend)
        if message is not None and message.type_url == RuncOptions.NAME:
            return _runc(RuncOptions.decode(message.value), settings(None, backend), warn)
    except DecodeError as error:
        raise InvalidArgument(f"{_BODY}: {error}") from error
    if message is not None and message.type_url:
        warn(f"{_BODY} of type {message.type_url} are not known and ignored")
    return Chosen(config=settings(None, backend), options=Options(warn=warn))


def _generic(options: RuntimeOptions, warn: Callable[[str], None], backend: str | None) -> Chosen:
    if options.config_path or not options.config_body:
        return Chosen(config=settings(options.config_path or None, backend), options=Options(warn=warn))
    table = read_document(options.config_body, _BODY)
    table.pop("TypeUrl", None)  # of the same table, for containerd
    flags = _runc_flags(table, warn)
    config = overlaid(settings(None, backend), table, _BODY)
    return _runc(flags, config, warn)


def _runc_flags(table: dict[str, Any], warn: Callable[[str], None]) -> RuncOptions:
    """Take runc's options out of a runtime's table. Raises InvalidArgument."""
    given = {name: table.pop(name) for name in _RUNC_NAMES if name in table}
    for name in _IN_VAIN:
        if given.get(name):
            warn(f"{_BODY}: {name}: ignored")
    flags = RuncOptions()
    for name, value in given.items():
        kind = type(getattr(flags, _RUNC_NAMES[name]))
        if type(value) is not kind or (kind is int and not 0 <= value < 2**32):
            raise InvalidArgument(f"{_BODY}: {name} should be {_SAID[kind]}")
        setattr(flags, _RUNC_NAMES[name], value)
    return flags


def _runc(flags: RuncOptions, config: Config, warn: Callable[[str], None]) -> Chosen:
    options = Options(
        systemd_cgroup=flags.systemd_cgroup,
        no_pivot=flags.no_pivot_root,
        no_new_keyring=flags.no_new_keyring,
        warn=warn,
    )
    owner = flags.io_uid, flags.io_gid
    return Chosen(config=config, options=options, owner=owner, shim_cgroup=flags.shim_cgroup)
