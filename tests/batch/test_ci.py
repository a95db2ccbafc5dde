"""The script and the workflow that a team uses in CI, and the workflow of this repository."""

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

SCRIPT = ROOT / "examples" / "ci" / "inflate.sh"
TEMPLATE = ROOT / "examples" / "ci" / "inflate.yml"
WORKFLOWS = [TEMPLATE, ROOT / ".github" / "workflows" / "test.yml"]


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


@pytest.mark.parametrize("path", WORKFLOWS, ids=lambda path: path.name)
def test_a_workflow_is_sound(path: Path) -> None:
    workflow = load(path)
    assert workflow["permissions"] == {"contents": "read"}
    for job in workflow["jobs"].values():
        assert int(job["timeout-minutes"]) <= 360
        for step in job["steps"]:
            assert ("uses" in step) != ("run" in step)
            # Text of inputs never becomes a program.
            assert "${{" not in step.get("run", "")
            programs = re.findall(r"(?m)^\s*(?:\.inflate/)?([\w./]+/[\w.]+)", step.get("run", ""))
            assert all(os.access(ROOT / program, os.X_OK) for program in programs), programs


def test_the_template_keeps_the_ledger_and_no_checkpoints() -> None:
    workflow = load(TEMPLATE)
    steps = [step for step in workflow["jobs"]["convert"]["steps"] if "with" in step]
    used = {step["uses"].split("@")[0]: step["with"] for step in steps}
    assert used["actions/cache/restore"]["path"] == used["actions/cache/save"]["path"] == "out"
    (upload,) = (
        step for step in steps if "upload" in step["uses"] and step["with"]["path"] == "out"
    )
    assert "inputs.upload-outputs" in upload["if"]
    inputs = workflow["on"]["workflow_dispatch"]["inputs"]
    assert inputs["upload-outputs"]["default"] == "false"
