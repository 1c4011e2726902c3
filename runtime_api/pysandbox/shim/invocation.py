"""How containerd calls a shim: flags in Go's syntax, then an action.

`-k v` or `-k=v`, with one dash or two, all before the action. A flag without a value is a switch. What is not known is
left to later versions of containerd.
"""

from __future__ import annotations

from pysandbox.errors import InvalidArgument
from pysandbox.record import dataclass

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Sequence

#: What the program may be called.
PROGRAM, MICROVM_PROGRAM = "containerd-shim-pysandbox-v2", "containerd-shim-pysandbox-microvm-v2"
_WITH_VALUE = {"namespace", "id", "address", "publish-binary", "bundle", "socket", "debug-socket"}
_TRUE, _FALSE = {"1", "t", "true"}, {"0", "f", "false"}


@dataclass(frozen=True, slots=True, kw_only=True)
class Invocation:
    """One call. `action` is start, delete, or empty: serve."""

    program: str = PROGRAM
    action: str = ""
    namespace: str = ""
    id: str = ""
    address: str = ""
    bundle: str = ""
    debug: bool = False
    version: bool = False
    info: bool = False

    @property
    def backend(self) -> str | None:
        """The backend that the program's name says, if it says one."""
        return "microvm" if self.program == MICROVM_PROGRAM else None

    @property
    def runtime_type(self) -> str:
        """What containerd's clients call the program: `containerd-shim-NAME-VERSION` is io.containerd.NAME.VERSION."""
        name, _, version = self.program.removeprefix("containerd-shim-").rpartition("-")
        return f"io.containerd.{name}.{version}"

    def check(self) -> None:
        """Raise InvalidArgument for a call that names no container."""
        for name in ("namespace", "id"):
            if not _is_identifier(getattr(self, name)):
                raise InvalidArgument(f"-{name} {getattr(self, name)!r}: is not a valid identifier")


def _is_identifier(text: str) -> bool:
    """Say whether it is one of containerd's (its pkg/identifiers): letters, digits, single `.`, `_` and `-` between."""
    words = text.replace("_", "-").replace(".", "-").split("-")
    return len(text) <= 76 and text.isascii() and all(word.isalnum() for word in words)


def parse(words: Sequence[str], program: str = PROGRAM) -> Invocation:
    """Read the words after the program's name. Raises InvalidArgument."""
    flags: dict[str, str] = {}
    rest = list(words)
    while rest and rest[0].startswith("-") and rest[0] != "-":
        word = rest.pop(0)
        if word == "--":
            break
        name, equals, value = word[2 if word.startswith("--") else 1 :].partition("=")
        if name in _WITH_VALUE and not equals:
            if not rest:
                raise InvalidArgument(f"flag needs an argument: -{name}")
            value = rest.pop(0)
        flags[name] = value if equals or name in _WITH_VALUE else "true"
    return Invocation(
        program=program,
        action=rest[0] if rest else "",
        namespace=flags.get("namespace", ""),
        id=flags.get("id", ""),
        address=flags.get("address", ""),
        bundle=flags.get("bundle", ""),
        debug=_switch(flags, "debug"),
        version=_switch(flags, "v") or _switch(flags, "version"),
        info=_switch(flags, "info"),
    )


def _switch(flags: dict[str, str], name: str) -> bool:
    value = flags.get(name, "false").lower()
    if value not in _TRUE | _FALSE:
        raise InvalidArgument(f'invalid boolean value "{flags[name]}" for -{name}')
    return value in _TRUE
