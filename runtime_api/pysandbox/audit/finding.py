"""What was observed, what was expected, and what follows."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

#: What a probe reported: names and raw values. Whoever reads them checks their types: a container has sent them.
Facts = Mapping[str, Any]

OK, WEAK, UNKNOWN = "ok", "weak", "unknown"
VERDICTS = (OK, WEAK, UNKNOWN)


@dataclass(frozen=True, slots=True)
class Judgement:
    """A verdict, and what was seen in a few words. `why` says why nothing could be observed, of an unknown one."""

    verdict: str
    observed: str
    why: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Finding:
    """One row of an audit. `why` is one sentence: what the expectation is good for, or why nothing was observed."""

    probe: str
    group: str
    how: str
    observed: str
    expected: str
    verdict: str
    why: str

    def document(self) -> dict[str, str]:
        """Return it as it stands in the JSON document."""
        return asdict(self)


def ok(observed: str) -> Judgement:
    """Say that it was as expected."""
    return Judgement(OK, observed)


def weak(observed: str) -> Judgement:
    """Say that it was not."""
    return Judgement(WEAK, observed)


def unknown(why: str, observed: str = "") -> Judgement:
    """Say why it could not be observed."""
    return Judgement(UNKNOWN, observed or "nothing", why)
