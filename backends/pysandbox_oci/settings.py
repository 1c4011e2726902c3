"""The settings of this backend, `[backends.oci]` of the settings file: which there are, and what each must be.

```toml
[backends.oci]
root = "/run/pysandbox-oci"    # the runtimes' own state, one directory for each container; else below pysandbox's own
timeout = 60                   # seconds for one command of a runtime

[backends.oci.args]            # global flags of a runtime, by the name or path that --backend oci:NAME says
runsc = ["--ignore-cgroups", "--network=none"]
"/opt/bin/runsc" = ["--platform=systrap"]
```
"""

from __future__ import annotations

from pysandbox.errors import InvalidArgument
from pysandbox_oci.program import check_name

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from typing import Any

#: Seconds for one command. runc takes 0.05, a sandbox of gVisor's on a busy host some.
TIMEOUT = 60
_LONGEST_TIMEOUT = 3600
#: Of one runtime: flags, and bytes of each.
_MOST_ARGUMENTS, _LONGEST_ARGUMENT = 64, 4096
_MOST_RUNTIMES = 64
#: Flags that this backend says itself: a second one would make it look elsewhere than the runtime.
_OURS = frozenset({"root", "log", "log-format", "systemd-cgroup", "log-fd"})
WHERE = "backends.oci"


def check_settings(settings: Mapping[str, Any]) -> None:
    """Raise InvalidArgument for a setting that there is not, or that is of another kind."""
    for name, value in settings.items():
        if name == "root":
            _check_root(value)
        elif name == "timeout":
            if not isinstance(value, int) or isinstance(value, bool) or not 1 <= value <= _LONGEST_TIMEOUT:
                raise InvalidArgument(f"{WHERE}.timeout: must be a number from 1 to {_LONGEST_TIMEOUT}, not {value!r}")
        elif name == "args":
            _check_args(value)
        else:
            raise InvalidArgument(f"{WHERE}: unknown setting {name!r}")


def _check_root(value: Any) -> None:
    printable = isinstance(value, str) and value.startswith("/") and value.isprintable()
    if not printable or value == "/" or ".." in value.split("/"):
        raise InvalidArgument(f"{WHERE}.root: must be an absolute path of a directory without '..', not {value!r}")


def _check_args(tables: Any) -> None:
    if not isinstance(tables, dict) or len(tables) > _MOST_RUNTIMES:
        raise InvalidArgument(f"{WHERE}.args: must be a table of at most {_MOST_RUNTIMES} lists, one for each runtime")
    for name, arguments in tables.items():
        try:
            check_name(name)
        except InvalidArgument as error:
            raise InvalidArgument(f"{WHERE}.args: {error}") from None
        _check_list(f"{WHERE}.args.{name}", arguments)


def _check_list(where: str, arguments: Any) -> None:
    if not isinstance(arguments, list) or len(arguments) > _MOST_ARGUMENTS:
        raise InvalidArgument(f"{where}: must be a list of at most {_MOST_ARGUMENTS} strings")
    for argument in arguments:
        _check_argument(where, argument)


def _check_argument(where: str, argument: Any) -> None:
    """Each must be a flag in one word: a bare word would be taken for the runtime's command."""
    if not isinstance(argument, str) or not argument.isprintable() or len(argument.encode()) > _LONGEST_ARGUMENT:
        raise InvalidArgument(f"{where}: {argument!r}: must be printable text of at most {_LONGEST_ARGUMENT} bytes")
    flag = argument.lstrip("-").partition("=")[0]
    if not argument.startswith("-") or not flag:
        raise InvalidArgument(f"{where}: {argument!r}: must be a flag, its value after '=': --flag=value")
    if flag in _OURS:
        raise InvalidArgument(f"{where}: {argument!r}: pysandbox itself gives the runtime this flag")


def arguments(settings: Mapping[str, Any], name: str) -> Sequence[str]:
    """Return the global flags of the runtime that `oci:NAME` says."""
    given: Sequence[str] = settings.get("args", {}).get(name, ())
    return given


def timeout(settings: Mapping[str, Any]) -> float:
    """Return the seconds for one command."""
    seconds: int = settings.get("timeout", TIMEOUT)
    return float(seconds)
