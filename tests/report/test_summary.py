"""What a document says in words: the cause of a verdict, and what to do about it."""

from __future__ import annotations

from dataclasses import replace

import pytest

from inflate.parity.result import BisectResult, SelfTestResult, TemporalResult, WeightsResult
from inflate.report.documents import parity_document
from inflate.report.summary import (
    advice,
    causes,
    floor_of,
    guilty_modules,
    learning_counts,
    multiple_text,
    reason,
)

from .building import BARE, CLOSE, EQUAL, FAILED, FIRST, GUILTY, REPORTS, document_of

NUMBERS = {
    "equal": ["8 probes", "69 layers"],
    "close": ["2.4e-06", "atol 1e-05, rtol 1e-05", "1.26 times"],
    "folded": ["0.95"],
    "close to folded": ["2.4e-06", "0.95"],
    "failed": ["0.0731", "atol 1e-05", "two-frames, odd-frames, two-videos and 3 more"],
    "not finite": ["single-frame"],
    "overflow": ["float16", "decoder.up.1.block.2.conv2"],
    "wrong weights": ["2 of 138"],
    "bare": ["1 probe."],
    "hostile": ["0.0731"],
}


@pytest.mark.parametrize("name", REPORTS)
def test_the_reason_has_the_numbers(name: str) -> None:
    for words in NUMBERS[name]:
        assert words in reason(document_of(name))


def test_the_causes_are_layers_modules_and_tensors() -> None:
    assert list(causes(document_of("failed")).values()) == [[FIRST], [GUILTY]]
    (tensors,) = causes(document_of("wrong weights")).values()
    assert tensors == ["encoder.conv_in.bias", "encoder.conv_in.weight"]
    trained = replace(BARE, weights=WeightsResult(3, (), TemporalResult(2, ("mix_factor",))))
    assert list(causes(parity_document(trained)).values()) == [["mix_factor"]]
    assert causes(document_of("bare")) == {}


def test_where_all_is_well_there_is_nothing_to_do() -> None:
    assert advice(document_of("bare")) == []
    assert advice(parity_document(replace(EQUAL, trainability=None))) == []


def test_what_to_do_follows_from_what_was_found() -> None:
    module, self_test, learning = advice(document_of("failed"))
    assert GUILTY in module
    assert "Dirac off centre" in self_test
    assert "14 " in learning
    assert "--merge-strategy learned" in learning
    assert "--dtype bfloat16" in advice(document_of("overflow"))[0]
    plain = replace(FAILED, bisect=None, trainability=None, self_test=None)
    assert "--bisect" in advice(parity_document(plain))[0]
    unknown = replace(plain, bisect=BisectResult(()))
    assert "spatial layers" in advice(parity_document(unknown))[0]
    known = replace(plain, weights=WeightsResult(3, ("decoder.conv_in.bias",)))
    (again,) = advice(parity_document(known))
    assert "decoder.conv_in.bias" in again
    missed = replace(BARE, self_test=SelfTestResult(FAILED.self_test.damages))  # type: ignore[union-attr]
    assert len(advice(parity_document(missed))) == 1, "whatever the verdict"
    assert advice(parity_document(replace(BARE, self_test=CLOSE.self_test))) == []


def test_the_numbers_behind() -> None:
    failed, bare = document_of("failed"), document_of("bare")
    assert guilty_modules(failed) == [GUILTY]
    assert learning_counts(failed) == {"now": 14, "next-step": 14, "never": 14}
    assert floor_of(failed) == 1.9e-6
    assert (multiple_text(failed) or "").startswith("38,474 ")
    assert (guilty_modules(bare), learning_counts(bare), floor_of(bare)) == ([], None, None)
    assert multiple_text(document_of("equal")) is None, "0 is not a multiple of anything"
    assert multiple_text(document_of("not finite")) is None
