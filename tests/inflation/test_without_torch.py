"""Plans need no torch."""

from __future__ import annotations

import subprocess
import sys

import pytest

from inflate.config.presets import load_presets

PLANS = """
import math, sys
sys.modules["torch"] = None
from inflate.io.index import TensorInfo
from inflate.formats.locate import locate
from inflate.formats.spec import image_shapes
from inflate.config.loading import build_config, read_config
from inflate.config.presets import load_presets
from inflate.config.schema import Architecture
from inflate.inflation import initializers, plan, targets
from inflate.vocabulary import TIME_MODES

preset = sys.argv[1]
known = load_presets()[preset].content["architecture"]
seen = Architecture(**{k: tuple(v) if isinstance(v, list) else v for k, v in known.items()})
for mode in TIME_MODES if seen.attn_type != "none" else ("all", "conv-only"):
    config = build_config(seen, {**read_config(preset), "temporal.time_mode": mode})
    shapes = {k: s for part in image_shapes(config.architecture).values() for k, s in part.items()}
    index = {k: TensorInfo(k, s, "float32", 4 * math.prod(s)) for k, s in shapes.items()}
    planned = plan.make_plan(locate(index, preset), config, preset)
    assert len(planned.of("spatial")) + len(planned.of("passed-through")) == len(shapes)
    assert targets.fit(
        planned, "decoder", attention_is_identity=True, copying=False
    ).plan.of("temporal")
    for tensor in planned.of("temporal"):
        if tensor.origin.rule.name != "uniform" or len(tensor.shape) == 1:
            initializers.make_array(tensor.origin.rule, tensor.shape, tensor.key, config.seed)
"""


@pytest.mark.parametrize("preset", load_presets())
def test_a_preset_is_planned_where_torch_cannot_be_imported(preset: str) -> None:
    command = [sys.executable, "-c", PLANS, preset]
    ran = subprocess.run(command, capture_output=True, text=True)
    assert ran.returncode == 0, ran.stderr
