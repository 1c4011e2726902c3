"""The audit of each contender, asked of `pysandbox audit --json`: what its sandbox was observed to protect."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
import tempfile
from typing import TYPE_CHECKING, Any

from pysandbox.compare.gauge import printable

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

#: Seconds for one audit; of a machine under emulation.
LIMIT, MACHINE_LIMIT = 180.0, 420.0
#: Seconds for an audit to clear up after it was interrupted.
ENDING = 15.0
#: Bounds of what is taken from an answer: bytes, findings, letters of a text.
BYTES, FINDINGS = 16 << 20, 5000
VERDICTS = ("ok", "weak", "unknown")
TEXTS = ("probe", "group", "how", "observed", "expected", "why")


def audit(program: Sequence[str], contender: Mapping[str, Any], bundle: str) -> dict[str, Any]:
    """Return what the audit of one contender came to: its findings, or why there are none."""
    backend = backend_of(contender)
    answer: dict[str, Any] = {"contender": contender["name"], "backend": backend, "failure": "", "findings": []}
    limit = MACHINE_LIMIT if contender["name"] == "microvm" else LIMIT
    try:
        answer["findings"] = read(_ask([*program, "audit", "--json", "--backend", backend, bundle], limit))
    except (OSError, ValueError, RecursionError) as error:
        answer["failure"] = printable(str(error), 600) or type(error).__name__
    return answer


def backend_of(contender: Mapping[str, Any]) -> str:
    """Return by which backend of ours a contender is audited: its own, or `oci` with the runtime's program."""
    return contender["name"] if contender["kind"] == "backend" else f"oci:{contender['command'][0]}"


def read(text: str) -> list[dict[str, str]]:
    """Return the findings of an audit's document. Raises ValueError for anything that is none.

    Whatever a finding says was seen in a sandbox: it is text of somebody else's, shortened and made printable.
    """
    document = json.loads(text)
    findings = document.get("findings") if isinstance(document, dict) else None
    if not isinstance(findings, list) or not all(isinstance(each, dict) for each in findings):
        raise ValueError("the audit printed no findings")
    if len(findings) > FINDINGS:
        raise ValueError(f"the audit printed {len(findings)} findings: more than {FINDINGS} are not read")
    return [_finding(each) for each in findings]


def _finding(document: Mapping[str, Any]) -> dict[str, str]:
    verdict = document.get("verdict")
    if verdict not in VERDICTS:
        raise ValueError(f"a finding has the verdict {printable(str(verdict))}")
    return {name: printable(_text(document.get(name)), 400) for name in TEXTS} | {"verdict": verdict}


def _text(value: object) -> str:
    return value if isinstance(value, str) else "" if value is None else json.dumps(value, ensure_ascii=False)


def _ask(argv: Sequence[str], limit: float) -> str:
    """Run the command in a session of its own. Raises ValueError with its words, OSError."""
    with tempfile.TemporaryFile() as output, tempfile.TemporaryFile() as errors:
        process = subprocess.Popen(argv, stdin=subprocess.DEVNULL, stdout=output, stderr=errors, start_new_session=True)
        try:
            code = process.wait(limit)
        except subprocess.TimeoutExpired:
            raise ValueError(f"no audit within {limit:.0f} s") from None
        finally:
            _end(process)
        text = os.pread(output.fileno(), BYTES, 0).decode(errors="replace")
        words = os.pread(errors.fileno(), 4096, 0).decode(errors="replace").strip()
    if not text.lstrip().startswith("{"):
        raise ValueError(words or text.strip()[:600] or f"the audit ended with {code} and without a word")
    return text


def _end(process: subprocess.Popen[bytes]) -> None:
    """End a command that still runs: first as ^C would, so that it removes its containers, then for good."""
    for number in (signal.SIGINT, signal.SIGKILL):
        if process.poll() is None:
            os.killpg(process.pid, number)
            with contextlib.suppress(subprocess.TimeoutExpired):
                process.wait(ENDING)


def counts(findings: Sequence[Mapping[str, str]]) -> dict[str, int]:
    """Return how many findings have each verdict."""
    return {verdict: sum(each["verdict"] == verdict for each in findings) for verdict in VERDICTS}
