"""The wheel: what is in it, and that the presets are found after a plain install."""

from __future__ import annotations

import os
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

pytestmark = pytest.mark.slow

ROOT = Path(__file__).resolve().parent.parent
PRESETS = sorted(path.name for path in (ROOT / "configs").glob("*.yaml"))


def test_the_wheel_holds_the_package_and_finds_its_presets(tmp_path: Path) -> None:
    pytest.importorskip("hatchling", reason="it builds the wheel")
    command = [sys.executable, "-m", "hatchling", "build", "-t", "wheel", "-d", str(tmp_path)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    (wheel,) = tmp_path.glob("inflate_video-*.whl")
    # A pure wheel unpacked is what an installer makes of it.
    site = tmp_path / "site"
    with zipfile.ZipFile(wheel) as archive:
        archive.extractall(site)
        names = set(archive.namelist())
    assert len(PRESETS) > 10
    assert {f"inflate/configs/{name}" for name in PRESETS} <= names
    assert {"inflate/py.typed", "inflate/assets/demo.ckpt", "inflate/cli/app.py"} <= names
    assert {name.split("/")[0] for name in names if ".dist-info/" not in name} == {"inflate"}

    code = (
        "from inflate.config.presets import load_presets\n"
        "print(*sorted(str(p.path) for p in load_presets().values()), sep='\\n')\n"
    )
    env = os.environ | {"PYTHONPATH": str(site)}
    command = [sys.executable, "-c", code]
    found = subprocess.check_output(command, cwd=tmp_path, env=env, text=True).splitlines()
    assert found == [str(site / "inflate" / "configs" / name) for name in PRESETS]
