"""Signals by name or number, as `runc kill` takes them.

The module `signal` knows the same names, but costs more at start-up than this table.
"""

from __future__ import annotations

from pysandbox.errors import InvalidArgument
from pysandbox.oci.document import quote

_NAMES = """
    HUP INT QUIT ILL TRAP ABRT BUS FPE KILL USR1 SEGV USR2 PIPE ALRM TERM STKFLT CHLD CONT STOP TSTP TTIN TTOU URG XCPU
    XFSZ VTALRM PROF WINCH IO PWR SYS
"""

#: signal(7): the numbers of x86, arm, riscv, s390, powerpc and loongarch.
SIGNALS: dict[str, int] = {name: number for number, name in enumerate(_NAMES.split(), start=1)}
SIGNALS |= {"IOT": 6, "CLD": 17, "POLL": 29}

#: As a program sees them: glibc and musl keep the first of the kernel's real-time signals for themselves.
SIGRTMIN, SIGRTMAX = 34, 64


def parse_signal(text: str) -> int:
    """Return the number that `KILL`, `sigkill`, `9`, `RTMIN+1` or `SIGRTMAX-2` stands for.

    0 only asks whether the process is there. Raises InvalidArgument: `unknown signal "FOO"`.
    """
    number = _number(text)
    if number is None or not 0 <= number <= SIGRTMAX:
        raise InvalidArgument(f"unknown signal {quote(text)}")
    return number


def _number(text: str) -> int | None:
    if _is_decimal(text):
        return int(text)
    name = text.upper().removeprefix("SIG")
    for base, number, sign in (("RTMIN", SIGRTMIN, "+"), ("RTMAX", SIGRTMAX, "-")):
        if name.startswith(base):
            return _real_time(name.removeprefix(base), number, sign)
    return SIGNALS.get(name)


def _real_time(offset: str, base: int, sign: str) -> int | None:
    if not offset:
        return base
    if offset[0] != sign or not _is_decimal(offset[1:]):
        return None
    number = base + int(offset)
    return number if SIGRTMIN <= number <= SIGRTMAX else None


def _is_decimal(text: str) -> bool:
    return text.isascii() and text.isdigit() and len(text) <= 3
