"""The public names of ``inflate``, and that they cost nothing before they are used."""

from __future__ import annotations

import inspect
import subprocess
import sys
from pathlib import Path

import pytest

import inflate

PUBLIC = {
    "InflateError",
    "VideoDecoder",
    "__version__",
    "convert",
    "inspect",
    "load_video_autoencoder",
    "load_video_decoder",
    "save_report",
    "save_video_autoencoder",
    "verify",
}


def test_the_public_names_are_explicit() -> None:
    assert set(inflate.__all__) == PUBLIC
    assert len(inflate.__all__) == len(PUBLIC)
    assert inflate.__all__ == sorted(inflate.__all__)


@pytest.mark.parametrize("name", sorted(PUBLIC))
def test_every_public_name_can_be_imported(name: str) -> None:
    value = getattr(inflate, name)
    if name == "__version__":
        assert value.count(".") >= 2
    else:
        assert value.__name__ == name
        assert value.__module__.startswith("inflate.")
        assert inspect.getdoc(value)


def test_all_names_come_with_a_star() -> None:
    names: dict[str, object] = {}
    exec("from inflate import *", names)
    assert names.keys() >= PUBLIC


def test_an_unknown_name_is_an_attribute_error() -> None:
    with pytest.raises(AttributeError, match="module 'inflate' has no attribute 'invert'"):
        _ = inflate.invert  # type: ignore[attr-defined]
    assert not hasattr(inflate, "convrt")


def test_names_are_imported_when_they_are_used() -> None:
    code = (
        "import inflate, sys\n"
        "assert 'torch' not in sys.modules\n"
        "assert issubclass(inflate.InflateError, Exception)\n"
        "assert 'torch' not in sys.modules\n"
        "inflate.VideoDecoder\n"
        "assert 'torch' in sys.modules\n"
    )
    subprocess.run([sys.executable, "-c", code], check=True, cwd=Path(inflate.__file__).parents[1])
