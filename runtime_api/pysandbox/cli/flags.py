"""Read flags as runc's do (Go's `flag` under urfave/cli): `--flag v`, `--flag=v`, `-flag v`, `--bool`, `--bool=false`.

Not argparse: its import costs 17 ms, and it knows neither `-flag` nor `--bool=false`.
"""

from __future__ import annotations

from pysandbox.errors import InvalidArgument
from pysandbox.record import dataclass, field

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Sequence
    from typing import Any

_TRUE = frozenset({"1", "t", "T", "TRUE", "true", "True"})
_FALSE = frozenset({"0", "f", "F", "FALSE", "false", "False"})


class UsageError(InvalidArgument):
    """The command line is wrong: the usage is shown before the error."""


@dataclass(frozen=True, slots=True)
class Flag:
    """One flag. `kind`: bool, string, int, strings (may be given more than once)."""

    name: str
    help: str
    kind: str = "bool"
    alias: str = ""
    default: Any = None
    hidden: bool = False

    def empty(self) -> Any:
        """Return the value of a flag that was not given."""
        if self.default is not None:
            return self.default
        return {"bool": False, "strings": [], "int": 0}.get(self.kind, "")

    def label(self) -> str:
        """Return how help shows the flag."""
        value = "" if self.kind == "bool" else " value"
        return ", ".join(f"{'--' if len(name) > 1 else '-'}{name}{value}" for name in (self.name, self.alias) if name)


@dataclass(frozen=True, slots=True)
class Command:
    """What a command takes. `at_most` None: no upper limit. `ordered`: flags stand before the first argument only.

    `raw`: any word is an argument, whatever it begins with.
    """

    name: str
    summary: str
    usage: str
    flags: tuple[Flag, ...] = ()
    at_least: int = 1
    at_most: int | None = 1
    ordered: bool = False
    raw: bool = False
    details: str = ""


@dataclass(slots=True)
class Parsed:
    """A command line, read: values by flag name, which of them were given, and the arguments."""

    values: dict[str, Any]
    given: set[str] = field(default_factory=set)
    arguments: list[str] = field(default_factory=list)

    def __getitem__(self, name: str) -> Any:
        return self.values[name]


def parse(flags: Sequence[Flag], words: Sequence[str], *, ordered: bool) -> Parsed:
    """Read flags and arguments. With `ordered` everything from the first argument on is an argument.

    Otherwise flags may follow arguments; an unknown word that begins with a dash is then an argument if it comes after
    one (`kill ID -9`), as under runc.
    """
    known = {name: flag for flag in flags for name in (flag.name, flag.alias) if name}
    parsed = Parsed({flag.name: flag.empty() for flag in flags})
    rest = list(words)
    while rest:
        word = rest.pop(0)
        if word == "--":
            parsed.arguments += rest
            break
        name, equals, value = word.lstrip("-").partition("=") if word.startswith("-") and word != "-" else ("", "", "")
        flag = known.get(name) if word[:3] != "---" else None
        if flag is not None:
            _take(parsed, flag, name, value if equals else None, rest)
        elif name and not parsed.arguments:
            raise UsageError(f"flag provided but not defined: -{name}")
        else:
            parsed.arguments.append(word)
            if ordered:
                parsed.arguments += rest
                break
    return parsed


def _take(parsed: Parsed, flag: Flag, name: str, value: str | None, rest: list[str]) -> None:
    """Store one flag's value, taken from the next word where it needs one."""
    if flag.kind == "bool":
        if value is not None and value not in _TRUE | _FALSE:
            raise UsageError(f'invalid boolean value "{value}" for -{name}: parse error')
        parsed.values[flag.name] = value is None or value in _TRUE
    else:
        if value is None:
            if not rest:
                raise UsageError(f"flag needs an argument: -{name}")
            value = rest.pop(0)
        if flag.kind == "strings":
            parsed.values[flag.name] = [*parsed.values[flag.name], value]
        else:
            parsed.values[flag.name] = _number(value, name) if flag.kind == "int" else value
    parsed.given.add(flag.name)


def _number(text: str, name: str) -> int:
    try:
        number = int(text, 0)
    except ValueError:
        raise UsageError(f'invalid value "{text}" for flag -{name}: parse error') from None
    if not -(2**63) <= number < 2**63:
        raise UsageError(f'invalid value "{text}" for flag -{name}: value out of range')
    return number


def check_arguments(command: Command, count: int) -> None:
    """Refuse too few or too many arguments, in runc's words."""
    if command.at_least == command.at_most != count:
        raise UsageError(f'pysandbox: "{command.name}" requires exactly {command.at_least} argument(s)')
    if count < command.at_least:
        raise UsageError(f'pysandbox: "{command.name}" requires a minimum of {command.at_least} argument(s)')
    if command.at_most is not None and count > command.at_most:
        raise UsageError(f'pysandbox: "{command.name}" requires a maximum of {command.at_most} argument(s)')


def usage(command: Command) -> str:
    """Return a command's help."""
    lines = ["NAME:", f"   pysandbox {command.name} - {command.summary}", "", "USAGE:"]
    lines += [f"   pysandbox {command.name} {'[command options] ' if command.flags else ''}{command.usage}".rstrip()]
    if command.details:
        lines += ["", "DESCRIPTION:", *(f"   {line}".rstrip() for line in command.details.strip().splitlines())]
    if command.flags:
        lines += ["", "OPTIONS:", *flag_lines(command.flags)]
    return "\n".join(lines) + "\n"


def flag_lines(flags: Sequence[Flag]) -> list[str]:
    """Return one line of help for each flag that is not hidden."""
    shown = [flag for flag in flags if not flag.hidden]
    width = max((len(flag.label()) for flag in shown), default=0)
    return [f"   {flag.label():{width}}  {flag.help}{_default(flag)}" for flag in shown]


def _default(flag: Flag) -> str:
    return f" (default: {flag.default!r})" if flag.default else ""
