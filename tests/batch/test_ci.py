"""The script, the action and the workflow that a team copies: run, and checked."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml

from .conftest import ROOT, Sources, environment, write_manifest

pytestmark = pytest.mark.slow

SCRIPT = ROOT / "scripts" / "ci_convert.sh"
ACTION = ROOT / ".github" / "actions" / "inflate" / "action.yml"
WORKFLOW = ROOT / ".github" / "workflows" / "inflate.yml"


def ci(folder: Path, *arguments: str, **variables: str) -> subprocess.CompletedProcess[str]:
    """Run the script as a step of a workflow."""
    surroundings = {
        **environment(),
        "INFLATE_INSTALLED": "1",
        "PYTHON": sys.executable,
        "GITHUB_STEP_SUMMARY": str(folder / "step.md"),
        "GITHUB_OUTPUT": str(folder / "output"),
        **variables,
    }
    return subprocess.run(
        [SCRIPT, *arguments], cwd=folder, env=surroundings, capture_output=True, text=True
    )


def test_the_script_converts_and_publishes(tmp_path: Path, sources: Sources) -> None:
    sources(3, broken=(1,))
    content = {"defaults": {"device": "cpu"}, "jobs": [{"source": "ckpts/*", "output": "out/"}]}
    write_manifest(tmp_path / "m.yaml", content)
    ran = ci(tmp_path, "m.yaml", "--time-mode", "conv-only", INFLATE_REPORTS="reports")
    assert ran.returncode == 2, ran.stderr
    document = json.loads((tmp_path / "reports/batch.json").read_text(encoding="utf-8"))
    assert document["counts"]["held"] == 2
    assert document["counts"]["failed"] == 1
    assert (tmp_path / "reports/junit.xml").is_file()
    assert (tmp_path / "out/m00.video.safetensors").is_file()
    assert (tmp_path / "step.md").stat().st_size
    assert (tmp_path / "output").read_text() == "reports=reports\nexit-code=2\n"
    (tmp_path / "ckpts/m01.safetensors").unlink()
    ran = ci(tmp_path, "m.yaml", "--time-mode", "conv-only")
    assert ran.returncode == 0, ran.stdout + ran.stderr


def load(path: Path) -> dict[str, Any]:
    """A file of YAML; ``on`` is a word there, and not a truth."""
    found: dict[str, Any] = yaml.load(path.read_text(encoding="utf-8"), Loader=yaml.BaseLoader)
    return found


def test_the_action_and_the_workflow_fit_together() -> None:
    action, workflow = load(ACTION), load(WORKFLOW)
    assert action["runs"]["using"] == "composite"
    text = ACTION.read_text(encoding="utf-8")
    assert set(re.findall(r"inputs\.([\w-]+)", text)) == set(action["inputs"])
    steps = action["runs"]["steps"]
    assert all(("uses" in step) != ("run" in step) for step in steps)
    for step in steps:
        if "run" in step:
            assert step["shell"] == "bash"
            assert "${{" not in step["run"]  # Text of inputs never becomes a program.
    (run,) = [step["run"] for step in steps if "run" in step]
    (script,) = re.findall(r'"\$GITHUB_ACTION_PATH/(\S+)"', run)
    assert (ACTION.parent / script).resolve() == SCRIPT
    assert os.access(SCRIPT, os.X_OK)
    called = workflow["jobs"]["convert"]["steps"][-1]
    assert called["uses"] == f"./{ACTION.parent.relative_to(ROOT)}"
    assert set(called["with"]) <= set(action["inputs"])
    required = {name for name, given in action["inputs"].items() if given.get("required") == "true"}
    assert required <= set(called["with"])
    assert {"workflow_dispatch", "schedule"} <= set(workflow["on"])
    assert workflow["permissions"] == {"contents": "read"}
