"""Valid files of every format, mutated: each ends in a valid result, or in exit code 2."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from .fuzzing import FORMATS, MARK, Subject, check, clear, make_subject
from .mutating import EDITS, Edit, edited

pytestmark = pytest.mark.slow

EXAMPLES = 80

NUMBERS = [0, 1, 8, 255, *((1 << bits) - 1 for bits in (15, 16, 31, 32, 63, 64)), 1 << 32, -1]
WORDS = [
    b"", b"\x00", b"\xff" * 8, b"\x80\x02", b"PK\x03\x04", b"PK\x05\x06", b"{", b"}", b"[" * 2000,
    b'"', b",", b":", b"null", b"NaN", b"-1", b"1e999", b"9" * 30, b"\\ud800", b"\n", b"\x1b[2J",
    b"cposix\nsystem\n", b"cbuiltins\nbytearray\n", b"ctorch\nSize\n", b"R", b"\x81", b"b", b"Q",
    b"t", b"(", b".", b"0", b"q\x00", b"h\x00", b"decoder.", b"up.9.", b".weight", b"F64", b"I8",
    b"../", b"/", MARK,
]  # fmt: skip

WHERE = st.floats(0, 1, exclude_max=True)
INSERTED = st.one_of(
    st.sampled_from(WORDS),
    st.binary(max_size=8),
    st.sampled_from(NUMBERS).map(lambda n: n.to_bytes(9, "little", signed=True)[:8]),
    st.sampled_from(NUMBERS).map(lambda n: n.to_bytes(9, "little", signed=True)[:4]),
    st.sampled_from(NUMBERS).map(lambda n: str(n).encode()),
)
EDITED = st.lists(
    st.tuples(
        st.sampled_from(EDITS),
        WHERE,
        WHERE,
        INSERTED,
    ),
    min_size=1,
    max_size=4,
)


@pytest.fixture(scope="module", params=FORMATS)
def subject(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Subject:
    """A valid checkpoint of each format."""
    return make_subject(request.param, tmp_path_factory.mktemp(request.param) / "in")


@pytest.mark.slow
def test_whatever_becomes_of_a_file(subject: Subject, tmp_path: Path) -> None:
    ends: Counter[bool] = Counter()
    output = tmp_path / "out" / "video.safetensors"
    output.parent.mkdir()

    @settings(
        max_examples=EXAMPLES,
        deadline=None,
        derandomize=True,
        database=None,
        suppress_health_check=list(HealthCheck),
    )
    @given(which=st.integers(0, len(subject.files) - 1), edits=EDITED, full=st.booleans())
    def mutate(which: int, edits: list[Edit], full: bool) -> None:
        subject.put(which, edited(subject.skeletons()[which], edits))
        ends[check(subject, output, full=full)] += 1
        clear(output)

    mutate()
    # Neither is a formality: some mutations go unnoticed, most do not.
    assert ends[True] > 0
    assert ends[False] > EXAMPLES // 4


@pytest.mark.parametrize("full", [False, True])
def test_the_files_are_valid_before_they_are_mutated(
    full: bool, subject: Subject, tmp_path: Path
) -> None:
    subject.put(0, subject.skeletons()[0])
    assert check(subject, tmp_path / "video.safetensors", full=full)
    for path, (skeleton, numbers) in subject.files.items():
        assert skeleton.count(MARK) == 1
        assert path.stat().st_size == len(skeleton) - len(MARK) + len(numbers)


@pytest.mark.parametrize("share", [0.0, 0.3, 0.9, 0.999])
def test_the_numbers_may_be_anything(share: float, subject: Subject, tmp_path: Path) -> None:
    subject.put(0, subject.skeletons()[0])
    for path, (_, numbers) in subject.files.items():
        content = bytearray(path.read_bytes())
        at = content.find(numbers[:1000]) + int(len(numbers) * share)
        content[at : at + 64] = b"\xff" * len(content[at : at + 64])
        if numbers:
            path.write_bytes(content)
    check(subject, tmp_path / "video.safetensors", full=True)
