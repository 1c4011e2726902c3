"""Flags are read as Go's flag package reads them."""

from __future__ import annotations

import pytest

from pysandbox.cli.flags import Command, Flag, UsageError, check_arguments, parse

FLAGS = (
    Flag("force", "", alias="f"),
    Flag("bundle", "", "string", "b"),
    Flag("env", "", "strings", "e"),
    Flag("preserve-fds", "", "int"),
)


@pytest.mark.parametrize(
    "words", [["--bundle", "/b"], ["--bundle=/b"], ["-bundle", "/b"], ["-bundle=/b"], ["-b", "/b"], ["--b=/b"]]
)
def test_a_value_comes_in_six_spellings(words: list[str]) -> None:
    assert parse(FLAGS, words, ordered=False)["bundle"] == "/b"


@pytest.mark.parametrize(
    ("word", "value"), [("--force", True), ("-f", True), ("--force=false", False), ("--force=T", True), ("-f=0", False)]
)
def test_a_bool_takes_its_value_after_an_equals_sign_only(word: str, value: bool) -> None:
    parsed = parse(FLAGS, [word, "id"], ordered=False)

    assert parsed["force"] is value
    assert parsed.arguments == ["id"]


def test_lists_grow_and_an_empty_value_is_a_value() -> None:
    assert parse(FLAGS, ["-e", "A=1", "--env=", "-e", "--force"], ordered=False)["env"] == ["A=1", "", "--force"]


def test_flags_may_follow_arguments() -> None:
    parsed = parse(FLAGS, ["id", "--force", "x"], ordered=False)

    assert (parsed["force"], parsed.arguments) == (True, ["id", "x"])


def test_with_order_everything_after_the_first_argument_is_the_commands() -> None:
    parsed = parse(FLAGS, ["-f", "id", "ls", "-f", "--", "--unknown"], ordered=True)

    assert parsed.arguments == ["id", "ls", "-f", "--", "--unknown"]


def test_two_dashes_end_the_flags() -> None:
    assert parse(FLAGS, ["--", "--force"], ordered=False).arguments == ["--force"]


def test_a_dash_alone_is_an_argument() -> None:
    assert parse(FLAGS, ["-"], ordered=False).arguments == ["-"]


def test_a_negative_number_after_an_argument_is_an_argument() -> None:
    assert parse(FLAGS, ["id", "-9"], ordered=False).arguments == ["id", "-9"]


@pytest.mark.parametrize(
    ("words", "text"),
    [
        (["--nonsense"], "flag provided but not defined: -nonsense"),
        (["-x=1"], "flag provided but not defined: -x"),
        (["---force"], "flag provided but not defined: -force"),
        (["--bundle"], "flag needs an argument: -bundle"),
        (["--force=maybe"], 'invalid boolean value "maybe" for -force: parse error'),
        (["--preserve-fds", "x"], 'invalid value "x" for flag -preserve-fds: parse error'),
        (["--preserve-fds", "99999999999999999999"], "value out of range"),
    ],
)
def test_a_wrong_flag_is_named(words: list[str], text: str) -> None:
    with pytest.raises(UsageError, match=text):
        parse(FLAGS, words, ordered=False)


@pytest.mark.parametrize(
    ("least", "most", "count", "text"),
    [
        (1, 1, 0, 'pysandbox: "start" requires exactly 1 argument(s)'),
        (1, 1, 2, 'pysandbox: "start" requires exactly 1 argument(s)'),
        (1, None, 0, 'pysandbox: "start" requires a minimum of 1 argument(s)'),
        (1, 2, 3, 'pysandbox: "start" requires a maximum of 2 argument(s)'),
    ],
)
def test_the_number_of_arguments_is_checked_in_runcs_words(least: int, most: int | None, count: int, text: str) -> None:
    with pytest.raises(UsageError) as raised:
        check_arguments(Command("start", "", "", at_least=least, at_most=most), count)

    assert str(raised.value) == text
