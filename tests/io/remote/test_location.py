"""Which locations are remote, and how they are taken apart."""

from __future__ import annotations

import pytest

from inflate.errors import CheckpointError, OutputError
from inflate.io.location import is_plain, is_remote, parse, shown

URLS = (
    *("s3://bucket/a.ckpt", "gs://bucket/a.ckpt", "https://host/a.ckpt", "memory://a.ckpt"),
    *("hf://owner/repo/a.ckpt", "S3://bucket/a", "abc+d.e-f://x", "simplecache::s3://bucket/a"),
)
PATHS = (
    *("a.ckpt", "/abs/a.ckpt", "./a:b", "a:b", "a::b", r"C:\x\a.ckpt", "C:/x/a.ckpt", "C://x/a"),
    *("./s3://b", "s3:/bucket/a", "://x", ""),
)


@pytest.mark.parametrize("location", [*URLS, *PATHS])
def test_urls_are_remote_and_paths_are_not(location: str) -> None:
    assert is_remote(location) == (location in URLS)


def test_the_parts_of_a_location() -> None:
    place = parse("S3://bucket/a/b.ckpt", CheckpointError)
    assert (place.store, place.folder, place.name) == ("s3", "s3://bucket/a/", "b.ckpt")
    assert place.url("c") == "s3://bucket/a/c"
    assert place.inside("b.ckpt").folder == "s3://bucket/a/b.ckpt/"
    assert parse("s3://bucket", CheckpointError).folder == "s3://bucket/"
    assert parse("memory://b.ckpt", CheckpointError).name == "b.ckpt"
    assert parse("s3://bucket/what?.ckpt", CheckpointError).name == "what?.ckpt"


def test_the_parts_of_a_web_address() -> None:
    place = parse("https://host/a/b%20c.ckpt?token=x&y=/z#part", CheckpointError)
    assert (place.folder, place.name) == ("https://host/a/", "b c.ckpt")
    assert place.url("b c.ckpt") == "https://host/a/b%20c.ckpt?token=x&y=/z"
    assert place.url("d e") == "https://host/a/d%20e?token=x&y=/z"


@pytest.mark.parametrize(
    ("location", "expected"),
    [
        ("https://user:pass@host/b.ckpt?signature=x", "https://user:***@host/b.ckpt"),
        ("sftp://user:pass@host/b", "sftp://user:***@host/b"),
        ("abfs://container@account/b", "abfs://container@account/b"),
        ("s3://bucket/what?.ckpt", "s3://bucket/what?.ckpt"),
        ("a:b@c/what?", "a:b@c/what?"),
    ],
)
def test_a_location_is_shown_without_its_secrets(location: str, expected: str) -> None:
    assert shown(location) == expected
    if is_remote(location):
        assert parse(location, CheckpointError).shown() == expected


@pytest.mark.parametrize(
    "location",
    [
        *("zip://a::s3://b/c", "simplecache::s3://b/c", "s3:///a.ckpt", "s3://b/.."),
        *("https://h/a%2Fb", "https://h/a%00b", "https://user:pass@host/.hidden"),
    ],
)
def test_what_is_not_a_location_is_refused(location: str) -> None:
    for kind in (CheckpointError, OutputError):
        with pytest.raises(kind) as raised:
            parse(location, kind)
        assert "pass" not in str(raised.value)


def test_a_plain_name_leads_nowhere_else() -> None:
    assert all(map(is_plain, ("a", "a.ckpt", "a..b", "a b", "ä", "model-00001-of-2.bin")))
    assert not any(map(is_plain, ("", ".", "..", "a/b", "a\\b", "C:a", "/a", "a/", "a\n", ".a")))
