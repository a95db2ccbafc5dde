"""How the tests come from weights to a plan."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from torch import Tensor

from inflate.config.schema import Architecture, Config, Temporal
from inflate.formats.source import Source
from inflate.inflation.plan import InflationPlan, make_plan
from tests.io.opening import opened


def config_of(**arguments: Any) -> Config:
    """The configuration of what ``VideoDecoder`` takes as arguments."""
    given = {k: tuple(v) if isinstance(v, list) else v for k, v in arguments.items()}
    temporal = {k: v for k, v in given.items() if k in Temporal.__dataclass_fields__}
    architecture = {k: v for k, v in given.items() if k not in temporal}
    return Config(Architecture(**architecture), Temporal(**temporal))


@contextmanager
def planned(
    weights: Mapping[str, Tensor], folder: Path, *layers: Mapping[str, Any]
) -> Iterator[tuple[InflationPlan, Source]]:
    """The plan for a file of these weights under layers of settings, and the opened file."""
    with opened(weights, folder, *layers) as source:
        yield make_plan(source.located, source.config, source.checkpoint.path), source


def plan_of(
    weights: Mapping[str, Tensor], folder: Path, *layers: Mapping[str, Any]
) -> InflationPlan:
    """The plan for a file of these weights under layers of settings."""
    with planned(weights, folder, *layers) as (plan, _):
        return plan
