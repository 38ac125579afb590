"""What a training was asked to do, as train.json keeps it, so that `resume` needs the run folder and nothing else."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

from sfumato import recipes

SCHEMA = 1  # of train.json


@dataclass(frozen=True)
class Request:
    """What was asked for, as train.json keeps it. `sample_every` and `save_every` count steps; None: by progress, and
    every ten minutes; 0: never before the end."""

    recipe: str
    data: str
    dials: dict[str, Any]
    size: str = "s"
    side: int | None = None
    channels: int = 3
    steps: int | None = None
    minutes: float | None = None
    batch: int | None = None
    seed: int = 0
    precision: str = "fp32"
    given: dict[str, str] | None = None  # stage → the run that it is taken from
    sample_every: int | None = None
    save_every: int | None = None


def plan_for(request: Request, stage: str) -> recipes.Plan:
    """The recipe's plan of a stage, with what the request says instead."""
    plan = recipes.plan(request.recipe, stage, request.size)
    return replace(plan, steps=request.steps or plan.steps, batch=request.batch or plan.batch)
