"""The tree of errors, and what they say."""

from __future__ import annotations

from typing import Any

import pytest

from inflate.errors import CheckpointError, ConfigError, InflateError, PlanError, nearest


@pytest.mark.parametrize("error", [ConfigError, PlanError])
def test_an_error_of_many_problems_says_and_keeps_them_all(error: Any) -> None:
    raised = error("it does not fit:", ["one", "two"])
    assert raised.problems == ("one", "two")
    assert str(raised) == "it does not fit:\n  - one\n  - two"


@pytest.mark.parametrize("error", [InflateError, CheckpointError, ConfigError])
def test_what_an_error_quotes_adds_no_line(error: type[InflateError]) -> None:
    assert len(str(error("a\nerror: b\r\u2028 does not exist")).splitlines()) == 1


@pytest.mark.parametrize(
    ("word", "known", "close"),
    [
        ("alhpa", ["seed", "alpha", "dtype"], "alpha"),
        ("zcha", ["z_channels", "ch", "zch"], "zch"), ("fp16", ["float32", "float16"], "float16"),
        ("GPU", ["auto", "cpu", "cuda"], "cuda"), ("fp16", ["auto", "cpu"], None),
        ("xyzzy", ["alpha", "seed"], None), ("alpha", [], None),
    ],
)  # fmt: skip
def test_the_nearest_word_is_suggested(word: str, known: list[str], close: str | None) -> None:
    expected = "" if close is None else f" (did you mean '{close}'?)"
    assert nearest(word, known) == nearest(word, iter(known)) == expected


def test_a_suggestion_is_quoted_as_its_file_calls_it() -> None:
    assert "'model.alpha'" in nearest("alhpa", ["seed", "alpha"], {"alpha": "model.alpha"})
