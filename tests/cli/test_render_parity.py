"""A parity report on a terminal and in a pipe: the verdict and its cause first."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest

from inflate.cli.render_parity import print_document
from inflate.parity.result import TemporalResult, WeightsResult
from inflate.report.documents import parity_document

from ..report.building import FAILED, FIRST, GUILTY, REPORTS, document_of, shown_verdict

FAILING = [name for name, report in REPORTS.items() if report.verdict == "fail"]
Print = Callable[..., list[str]]


@pytest.fixture
def printed(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> Print:
    """Prints a report, by default as in a pipe, and returns its lines."""

    def lines(report: str | dict[str, Any], terminal: int = 0) -> list[str]:
        monkeypatch.setenv("NO_COLOR", "1")
        monkeypatch.setenv("COLUMNS", str(terminal or 200))
        monkeypatch.setenv("TERM", "xterm")
        if terminal:
            monkeypatch.setenv("FORCE_COLOR", "1")
        print_document(document_of(report) if isinstance(report, str) else report)
        return [line.rstrip() for line in capsys.readouterr().out.splitlines()]

    return lines


def labelled(lines: list[str]) -> dict[str, str]:
    """The lines of a failure by their labels."""
    return dict(line.split(":", 1) for line in lines if ":" in line)


@pytest.mark.parametrize("name", REPORTS)
def test_the_verdict_first_then_the_table_then_what_to_do(printed: Print, name: str) -> None:
    lines = printed(name)
    table = next(n for n, line in enumerate(lines) if line.split()[:1] == ["probe"])
    if name in FAILING:
        labels = [line.split(":")[0] for line in lines[:table]]
        assert labels in (["parity", "cause", "first", "next"], ["parity", "cause", "next"])
    else:
        assert lines[0].startswith(f"parity: {shown_verdict(name)[0]}  (largest error ")
        assert table == (1 if REPORTS[name].verdict == "bitwise" else 2)
    advised = [n for n, line in enumerate(lines) if line.startswith("to do: ")]
    assert advised == list(range(len(lines) - len(advised), len(lines))), "the last lines"
    assert len(lines) < 40


def test_the_quality_of_both_decoders_is_one_line(printed: Print) -> None:
    (line,) = [line for line in printed("equal") if line.startswith("quality of real, ")]
    assert "PSNR (dB) 30.5 -> 32.25, SSIM 0.9 -> 0.9, " in line
    assert not any(line.startswith("quality") for line in printed("bare"))


@pytest.mark.parametrize("name", sorted({*REPORTS} - {"hostile"}))
def test_no_line_is_broken_within_a_word(printed: Print, name: str) -> None:
    words = {word for line in printed(name) for word in line.split()}
    lines = printed(name, terminal=80)
    assert {word for line in lines for word in line.split()} <= words
    assert all(len(line) <= 80 or len(line.split()) <= 2 for line in lines)


@pytest.mark.parametrize(
    ("name", "cause", "advice"),
    [
        ("failed", GUILTY, GUILTY),
        ("not finite", "unknown", "--bisect"),
        ("overflow", "float16", "--dtype bfloat16"),
        ("wrong weights", "2 copied tensors", "Convert the source"),
    ],
)
def test_the_cause_and_the_next_step(printed: Print, name: str, cause: str, advice: str) -> None:
    found = labelled(printed(name))
    assert cause in found["cause"]
    assert advice in found["next"]


def test_what_changed_or_is_not_finite_is_the_cause(printed: Print) -> None:
    changed = WeightsResult(152, (), TemporalResult(64, (f"{GUILTY}.weight",)))
    document = parity_document(replace(FAILED, weights=changed, bisect=None))
    lines = printed(document)
    found = labelled(lines)
    assert found["cause"].split() == [f"{GUILTY}.weight", "changed", "since", "conversion"]
    assert found["first"].split() == f"layer {FIRST} | spatial weights: all 152 equal".split()
    paths = (document["reference"]["path"], document["candidate"]["path"])
    assert found["next"].split() == ["inflate", "verify", *paths, "--bisect"]
    assert f"  changed since conversion: {GUILTY}.weight" in lines
    document["not_finite"] = ["decoder.a", "decoder.b"]
    lines = printed(document)
    assert labelled(lines)["cause"].split()[:3] == ["2", "tensors", "(decoder.a,"]
    assert "decoder.a" in labelled(lines)["next"]
    assert "  holds NaN or infinity: decoder.b" in lines


def test_a_failure_in_numbers(printed: Print) -> None:
    lines = printed("failed")
    assert "FAIL   largest error 0.0731 (limit 1e-05 + 1e-05 |ref|), 38,474 x" in lines[0]
    odd = next(line for line in lines if line.startswith(" odd-frames")).split()
    assert odd[:4] == ["odd-frames", "fail", "0.0731", "0,4,1,13,7"]
    assert " ".join(odd[4:]) == "first frame, middle frame, last frame, interior"
    assert "computed: float32 on cpu, no GPU was found" in lines
    for start, numbers in (
        ("layers", (69, 35)), ("weights", (138, 0)), ("temporal", (64, 0)), ("self-test", (4, 5)),
        ("temporal layers", (14, 14, 14)),
    ):  # fmt: skip
        (line,) = (line for line in lines if line.startswith(f"{start}: "))
        assert tuple(int(word) for word in line.split() if word.isdigit()) == numbers
    assert any(line.startswith("bisect: ") and GUILTY in line for line in lines)


def test_all_parts_that_fail_are_one_word(printed: Print) -> None:
    document = document_of("not finite")
    for probe in document["probes"]:
        for part in probe["parts"]:
            part["verdict"] = probe["verdict"]
    rows = [line for line in printed(document) if " fail " in line]
    assert rows
    assert all(row.endswith(" all") for row in rows)


def test_what_was_not_measured_is_left_out(printed: Print) -> None:
    lines = printed("bare")
    assert len(lines) == 3
    assert lines[2].split() == ["single-frame", "1", "4", "4", "4", "1", "bitwise", "0"]


def test_a_close_verdict_has_its_distance(printed: Print) -> None:
    text = "\n".join(printed("close"))
    assert "within the tolerance of atol 1e-05, rtol 1e-05; that is 1.26 times the noise" in text
    assert "up to 0.0121" in text
    for name in ("folded", "close to folded"):
        assert "0.95" in printed(name)[0]


def test_many_weights_are_counted(printed: Print) -> None:
    names = tuple(f"decoder.{n}.weight" for n in range(30))
    out = printed(parity_document(replace(FAILED, weights=WeightsResult(138, names))))
    assert sum("differs from its source" in line for line in out) == 10
    assert any("20 more" in line for line in out)


@pytest.mark.parametrize(
    ("name", "styled"),
    [
        ("close", "\x1b[1;33mwithin-tolerance"),
        ("close", "\x1b[1;33mfloat32 on cpu, no GPU was found"),
        ("equal", "\x1b[1;32mbitwise\x1b"),
        ("folded", "\x1b[1;33mbitwise with the folded decoder\x1b"),
        ("failed", "\x1b[1;31mFAIL"),
    ],
)
def test_colours_are_those_of_the_verdict(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, name: str, styled: str
) -> None:
    monkeypatch.delenv("NO_COLOR", raising=False)
    monkeypatch.setenv("TERM", "xterm-256color")
    monkeypatch.setenv("FORCE_COLOR", "1")
    monkeypatch.setenv("COLUMNS", "200")
    print_document(document_of(name))
    assert styled in capsys.readouterr().out
