"""The report on a terminal: the verdict first, then a table, then what to do."""

from __future__ import annotations

from dataclasses import replace

import pytest

from inflate.cli.render_parity import print_document, print_parity
from inflate.parity.result import WeightsResult
from inflate.report.documents import parity_document

from ..report.building import CLOSE, FAILED, FIRST, GUILTY, REPORTS, document_of, shown_verdict


@pytest.fixture
def printed(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> object:
    """Prints a report by its name, as in a pipe 200 columns wide, and gives its lines."""
    monkeypatch.setenv("COLUMNS", "200")
    monkeypatch.setenv("NO_COLOR", "1")

    def lines(name: str) -> list[str]:
        print_parity(REPORTS[name])
        return [line.rstrip() for line in capsys.readouterr().out.splitlines()]

    return lines


@pytest.mark.parametrize("name", REPORTS)
def test_the_verdict_first_then_the_table_then_what_to_do(printed, name: str) -> None:  # type: ignore[no-untyped-def]
    lines = printed(name)
    assert lines[0].startswith(f"parity: {shown_verdict(name)[0]}  (largest error ")
    table = next(n for n, line in enumerate(lines) if line.split()[:2] == ["probe", "latents"])
    assert table == (1 if REPORTS[name].verdict == "bitwise" else 2)
    told = [n for n, line in enumerate(lines) if line.startswith("to do: ")]
    assert told == list(range(len(lines) - len(told), len(lines))), "the last lines"
    assert len(lines) < 35, "short"
    assert not any("\x1b" in line for line in lines)


def test_what_failed_is_told(printed) -> None:  # type: ignore[no-untyped-def]
    lines = printed("failed")
    text = "\n".join(lines)
    assert lines[0].endswith("float32 on cpu, no GPU was found)")
    odd = next(line for line in lines if line.startswith(" odd-frames"))
    assert "first frame, middle frame, last frame, interior" in odd
    assert odd.endswith("video 0, frame 4, channel 1, row 13, column 7")
    assert f"layers: 69 compared, 35 out of tolerance, first {FIRST}" in lines
    assert "noise floor: 1.9e-06; the error is 38,474 times the noise floor" in text
    assert f"bisect: guilty: {GUILTY}" in lines
    assert "temporal layers: 14 tensors learn now, 14 from the next step, 14 never" in lines
    assert "self-test: 4 of 5 damages noticed; not noticed: Dirac off centre" in lines
    assert "weights: 138 compared, 0 different" in lines
    assert "temporal: 64 compared, 0 changed since they were made" in lines
    assert any(line.startswith(f"to do: Look at {GUILTY}:") for line in lines)


def test_what_was_not_asked_for_is_not_told(printed) -> None:  # type: ignore[no-untyped-def]
    lines = printed("bare")
    assert len(lines) == 3
    assert lines[2].split() == ["single-frame", "1", "4", "4", "4", "1", "bitwise", "0"]


def test_within_tolerance_says_how_far(printed) -> None:  # type: ignore[no-untyped-def]
    text = "\n".join(printed("close"))
    assert "within the tolerance of atol 1e-05, rtol 1e-05; that is 1.26 times the noise" in text
    assert "cast: float32 to bfloat16 changes the image decoder's output by up to 0.0121" in text
    assert "temporal: 64 compared, 1 changed" in text


def test_what_a_fold_changes_is_next_to_the_verdict(printed) -> None:  # type: ignore[no-untyped-def]
    for name in ("folded", "close to folded"):
        lines = printed(name)
        assert "changes the images by up to 0.95" in lines[0]
        assert any(line.startswith("fold: ") and "0.4 on the border" in line for line in lines)


def test_an_overflow_names_the_type_to_use(printed) -> None:  # type: ignore[no-untyped-def]
    lines = printed("overflow")
    assert "The image decoder itself overflows in float16" in lines[1]
    assert "to do: Compute in a type that holds its numbers: --dtype bfloat16." in lines


def test_parts_that_all_fail_are_one_word(capsys: pytest.CaptureFixture[str]) -> None:
    print_document(document_of("not finite"))
    rows = [line for line in capsys.readouterr().out.splitlines() if " fail " in line]
    assert rows


def test_many_weights_are_counted(capsys: pytest.CaptureFixture[str]) -> None:
    names = tuple(f"decoder.{n}.weight" for n in range(30))
    print_document(parity_document(replace(FAILED, weights=WeightsResult(138, names))))
    out = capsys.readouterr().out
    assert out.count("differs from its source") == 10
    assert "and 20 more; --json lists them" in out


def test_colours_are_those_of_the_verdict(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("NO_COLOR", raising=False)
    monkeypatch.setenv("TERM", "xterm-256color")
    monkeypatch.setenv("FORCE_COLOR", "1")
    print_parity(CLOSE)
    out = capsys.readouterr().out
    assert "\x1b[1;33mwithin-tolerance" in out
    assert "\x1b[1;33mcpu, no GPU was found" in out, "the CPU stands out"
    print_parity(REPORTS["equal"])
    assert "\x1b[1;32mbitwise\x1b" in capsys.readouterr().out
    print_parity(REPORTS["folded"])
    assert "\x1b[1;33mbitwise with the folded decoder\x1b" in capsys.readouterr().out
