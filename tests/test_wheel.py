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


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The wheel, built without a network."""
    pytest.importorskip("hatchling", reason="it builds the wheel")
    folder = tmp_path_factory.mktemp("wheel")
    command = [sys.executable, "-m", "hatchling", "build", "-t", "wheel", "-d", str(folder)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    (path,) = folder.glob("inflate_video-*.whl")
    return path


def test_the_wheel_holds_the_package_and_its_presets(wheel: Path) -> None:
    with zipfile.ZipFile(wheel) as archive:
        names = set(archive.namelist())
    assert len(PRESETS) > 10
    assert {f"inflate/configs/{name}" for name in PRESETS} <= names
    assert {"inflate/py.typed", "inflate/assets/demo.ckpt", "inflate/cli/app.py"} <= names
    assert {name.split("/")[0] for name in names if ".dist-info/" not in name} == {"inflate"}


def test_the_presets_are_found_after_a_plain_install(wheel: Path, tmp_path: Path) -> None:
    # A pure wheel unpacked is what an installer makes of it.
    with zipfile.ZipFile(wheel) as archive:
        archive.extractall(tmp_path / "site")
    code = (
        "import inflate, sys\n"
        "from inflate.config.presets import load_presets, preset_folder\n"
        "print(inflate.__file__)\n"
        "print(preset_folder())\n"
        "print(*sorted(p.path.name for p in load_presets().values()))\n"
        "from inflate.cli.app import main\n"
        "sys.exit(main(['presets']))\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", code],
        cwd=tmp_path,
        env=os.environ | {"PYTHONPATH": str(tmp_path / "site")},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    package, folder, names, *listed = done.stdout.splitlines()
    assert Path(package) == tmp_path / "site" / "inflate" / "__init__.py"
    assert Path(folder) == tmp_path / "site" / "inflate" / "configs"
    assert names.split() == PRESETS
    assert len(listed) >= len(PRESETS)
