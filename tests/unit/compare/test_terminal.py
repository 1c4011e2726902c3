"""The tables of a document, for a person who has never seen one."""

from __future__ import annotations

from typing import Any

import pytest
from benchdocument import bench, contender, finding

from pysandbox.compare import terminal

PATH = "oci:/opt/[/x]/[bold]runc"


def shown(capsys: pytest.CaptureFixture[str], document: dict[str, Any]) -> str:
    terminal.show(document)
    return capsys.readouterr().out


def document(name: str = "runc") -> dict[str, Any]:
    values = {
        "start to exit": {name: [10.0, 11.0]},
        "inside: cpu": {name: [100.0]},
        "create and start, 5 there": {name: [1.0]},
    }
    return bench(values, [contender("host", "host"), contender(name, "backend")], baseline=name)


def test_every_row_says_its_unit_and_every_table_which_way_is_better(capsys: pytest.CaptureFixture[str]) -> None:
    text = shown(capsys, document())

    assert "│ start to exit, ms " in text
    assert "│ cpu, M steps/s, more is better " in text
    assert text.count("less is better") == 3


def test_the_limits_of_growth_are_told(capsys: pytest.CaptureFixture[str]) -> None:
    assert "at most 10 s and 75% of the machine's memory" in shown(capsys, document())


def test_every_group_has_a_title_and_says_what_its_figures_are() -> None:
    assert terminal.CAPTIONS.keys() == terminal.TITLES.keys()


def test_a_path_that_looks_like_markup_is_a_name(capsys: pytest.CaptureFixture[str]) -> None:
    assert PATH in shown(capsys, document(PATH))


def test_so_it_is_in_what_is_told_of_a_comparison(capsys: pytest.CaptureFixture[str]) -> None:
    audits = [{"contender": PATH, "backend": "oci:x", "failure": "", "findings": [finding("uid", "weak")]}]

    terminal.show_audits(audits)
    terminal.show_summary({"bench": document(PATH), "audits": audits})

    assert capsys.readouterr().out.count(PATH) == 3


def test_a_long_name_is_folded_and_not_cut(capsys: pytest.CaptureFixture[str]) -> None:
    name = f"oci:/{'x' * 300}/end"

    text = shown(capsys, document(name))

    assert "…" not in "".join(line for line in text.splitlines() if line.startswith("┃"))


@pytest.mark.parametrize(
    ("value", "text"),
    [(0.0, "0.00"), (0.00004, "4e-05"), (0.00441, "0.0044"), (0.0441, "0.044"), (0.441, "0.44"), (4.41, "4.41"),
     (44.1, "44.1"), (441.2, "441"), (4412.0, "4,412")],
)  # fmt: skip
def test_a_number_has_digits_that_count(value: float, text: str) -> None:
    assert terminal.number(value) == text
