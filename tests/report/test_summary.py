"""What a document says in words: the reason of a verdict, and what to do about it."""

from __future__ import annotations

from dataclasses import replace

import pytest

from inflate.parity.result import BisectResult, SelfTestResult, WeightsResult
from inflate.report.documents import parity_document
from inflate.report.summary import (
    advice,
    floor_of,
    guilty_modules,
    learning_counts,
    multiple_text,
    reason,
)

from .building import BARE, CLOSE, EQUAL, FAILED, FIRST, GUILTY, REPORTS, document_of

REASONS = {
    "equal": ["bit for bit", "8 probes and 69 layers"],
    "close": ["2.4e-06", "within the tolerance of atol 1e-05, rtol 1e-05", "1.26 times the noise"],
    "folded": ["equal the folded image decoder's", "changes the images by up to 0.95"],
    "close to folded": ["2.4e-06", "changes the images by up to 0.95"],
    "failed": ["0.0731", "atol 1e-05", "two-frames, odd-frames, two-videos and 3 more", FIRST],
    "not finite": ["not finite", "single-frame", FIRST],
    "overflow": ["image decoder itself overflows in float16", "decoder.up.1.block.2.conv2"],
    "wrong weights": ["outputs agree", "2 of 138 copied tensors differ"],
    "bare": ["bit for bit", "on 1 probe."],
    "hostile": ["0.0731"],
}


@pytest.mark.parametrize("name", REPORTS)
def test_the_reason_is_one_sentence_with_the_numbers(name: str) -> None:
    said = reason(document_of(name))
    assert said.endswith(".")
    for words in REASONS[name]:
        assert words in said


def test_where_all_is_well_there_is_nothing_to_do() -> None:
    assert advice(document_of("bare")) == []
    assert advice(parity_document(replace(EQUAL, trainability=None))) == []


def test_what_to_do_follows_from_what_was_found() -> None:
    told = "\n".join(advice(document_of("failed")))
    assert f"Look at {GUILTY}:" in told
    assert "did not notice Dirac off centre" in told
    assert "To let 14 more temporal tensors learn, choose --merge-strategy learned." in told
    assert "--bisect" not in told, "it was done already"
    assert advice(document_of("overflow"))[0].endswith("--dtype bfloat16.")
    assert "encoder.conv_in.bias, encoder.conv_in.weight differ" in "\n".join(
        advice(document_of("wrong weights"))
    )


def test_bisection_is_proposed_where_it_would_help() -> None:
    plain = replace(FAILED, bisect=None, trainability=None, self_test=None)
    assert "--bisect" in advice(parity_document(plain))[0]
    nobody = replace(plain, bisect=BisectResult(()))
    assert "look at the spatial layers" in advice(parity_document(nobody))[0]
    known = replace(plain, weights=WeightsResult(3, ("decoder.conv_in.bias",)))
    told = advice(parity_document(known))
    assert "decoder.conv_in.bias differs" in told[0]
    assert "--bisect" not in "\n".join(told)


def test_the_numbers_behind() -> None:
    failed = document_of("failed")
    assert guilty_modules(failed) == [GUILTY]
    assert learning_counts(failed) == {"now": 14, "next-step": 14, "never": 14}
    assert floor_of(failed) == 1.9e-6
    assert multiple_text(failed) == "38,474 times the noise floor"
    bare = document_of("bare")
    assert (guilty_modules(bare), learning_counts(bare), floor_of(bare)) == ([], None, None)
    assert multiple_text(document_of("equal")) is None, "0 is no multiple of anything"
    assert multiple_text(document_of("not finite")) is None


def test_a_damage_that_nothing_noticed_is_told_whatever_the_verdict() -> None:
    assert FAILED.self_test is not None
    missed = replace(BARE, self_test=SelfTestResult(FAILED.self_test.damages))
    assert "Do not rely on this verdict" in advice(parity_document(missed))[0]
    assert advice(parity_document(replace(BARE, self_test=CLOSE.self_test))) == []
