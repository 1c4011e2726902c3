"""What is taken of the words of a program in a sandbox, which may say anything."""

from __future__ import annotations

import json

import pytest

from pysandbox.compare import gauge


def lines(*documents) -> str:
    return "\n".join(json.dumps(document) for document in documents)


def test_known_figures_and_errors_are_taken() -> None:
    found = gauge.read(
        lines(
            {"gauge": "begin", "kernel": "6.1"},
            {"gauge": "cpu", "value": 12.5, "unit": "M steps/s", "better": "higher"},
            {"gauge": "TCP stream", "error": "no route"},
            {"gauge": "end", "milliseconds": 500.5},
        )
    )

    assert found.values == {"cpu": 12.5}
    assert found.errors == {"TCP stream": "no route"}
    assert (found.kernel, found.milliseconds) == ("6.1", 500.5)


@pytest.mark.parametrize(
    "line",
    [
        "not json", "[]", "3", "[" * 100_000, '{"gauge": "cpu", "value": NaN}', '{"gauge": "cpu", "value": Infinity}',
        '{"gauge": "cpu", "value": -1}', '{"gauge": "cpu", "value": 0}', '{"gauge": "cpu", "value": true}',
        '{"gauge": "cpu", "value": "12"}', '{"gauge": "cpu", "value": 1e400}', '{"gauge": "cpu"}',
        '{"gauge": "unheard of", "value": 1}', '{"gauge": ["cpu"], "value": 1}', '{"value": 1}',
        '{"gauge": "cpu", "value": 1' + "0" * 400 + "}",
    ],
)  # fmt: skip
def test_anything_else_is_left_out(line: str) -> None:
    found = gauge.read(f"{line}\n{json.dumps({'gauge': 'cpu', 'value': 3})}")

    assert found.values == {"cpu": 3.0}
    assert found.errors == {}


def test_a_sandbox_that_talks_without_end_is_not_listened_to() -> None:
    many = [{"gauge": "cpu", "value": number} for number in range(1, 1000)]

    assert gauge.read(lines(*many)).values == {"cpu": gauge.LINES}


def test_text_cannot_move_a_cursor_and_has_an_end() -> None:
    text = gauge.printable("a\x1b[2Jb\n\u202ec" + "x" * 10_000)

    assert text.startswith("a?[2Jb ?c")
    assert len(text) == gauge.TEXT
