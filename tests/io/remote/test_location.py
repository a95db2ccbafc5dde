"""Which locations are remote, and how they are taken apart."""

from __future__ import annotations

from pathlib import Path

import pytest
from inflate.io.location import is_plain, parse

from inflate.errors import CheckpointError, InflateError, OutputError
from inflate.io.remote import is_remote, local_path, shown


@pytest.mark.parametrize(
    "location",
    [
        "s3://bucket/a.ckpt",
        "gs://bucket/a.ckpt",
        "https://host/a.ckpt",
        "memory://a.ckpt",
        "hf://owner/repo/a.ckpt",
        "S3://bucket/a.ckpt",
        "abc+d.e-f://x",
        "simplecache::s3://bucket/a",
    ],
)
def test_urls_are_remote(location: str) -> None:
    assert is_remote(location)


@pytest.mark.parametrize(
    "location",
    [
        "a.ckpt",
        "/abs/a.ckpt",
        "./a:b",
        "a:b",
        "a::b",
        r"C:\x\a.ckpt",
        "C:/x/a.ckpt",
        "C://x/a.ckpt",
        "file:///x/a.ckpt",
        "FILE:///x/a.ckpt",
        "local:///x/a.ckpt",
        "./s3://bucket",
        "s3:/bucket/a",
        "://x",
        "",
    ],
)
def test_paths_are_not(location: str) -> None:
    assert not is_remote(location)


def test_a_file_url_becomes_a_path() -> None:
    assert local_path("file:///x/a%20b.ckpt") == Path("/x/a b.ckpt")
    assert local_path("file://localhost/x/a.ckpt") == Path("/x/a.ckpt")
    assert local_path("x/a%20b.ckpt") == Path("x/a%20b.ckpt")


def test_a_file_url_of_another_machine_is_refused() -> None:
    with pytest.raises(InflateError, match="machine 'host'; expected three slashes"):
        local_path("file://host/x")


def test_the_parts_of_a_location() -> None:
    place = parse("S3://bucket/a/b.ckpt", CheckpointError)
    assert (place.scheme, place.folder, place.name) == ("s3", "s3://bucket/a/", "b.ckpt")
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


def test_what_is_secret_is_not_shown() -> None:
    place = parse("https://user:pass@host/b.ckpt?signature=x", CheckpointError)
    assert place.shown() == "https://user:***@host/b.ckpt"
    with pytest.raises(CheckpointError) as raised:
        parse("https://user:pass@host/.b", CheckpointError)
    assert "pass" not in str(raised.value)


@pytest.mark.parametrize(
    ("location", "message"),
    [
        ("zip://a::s3://b/c", "is a chain of locations; expected one"),
        ("simplecache::s3://b/c", "is a chain of locations; expected one"),
        ("s3:///a.ckpt", "lacks a host or bucket; expected s3://BUCKET-OR-HOST/PATH"),
        ("s3://b/..", "ends in '..', which cannot name a file"),
        ("https://h/a%2Fb", "ends in 'a/b', which cannot name a file"),
        ("https://h/a%00b", "which cannot name a file"),
        ("s3://b/.hidden", "does not begin with a dot"),
    ],
)
def test_what_is_no_location_is_refused(location: str, message: str) -> None:
    for kind in (CheckpointError, OutputError):
        with pytest.raises(kind, match=message):
            parse(location, kind)


@pytest.mark.parametrize("name", ["", ".", "..", "a/b", "a\\b", "C:a", "/a", "a/", "a\n", ".a"])
def test_names_that_lead_elsewhere_are_not_plain(name: str) -> None:
    assert not is_plain(name)


@pytest.mark.parametrize("name", ["a", "a.ckpt", "a..b", "a b", "ä", "model-00001-of-2.bin"])
def test_names_of_files_are_plain(name: str) -> None:
    assert is_plain(name)
