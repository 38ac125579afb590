"""What a training says before its first step, on one screen, and keeps in data.json: what it will learn from, on what,
for how long, and every doubt about it.

    pictures …          as `sfumato data` tells them (data/told.py)
    shown at            the side that is trained, beside the sizes that the pictures have
    held-out loss       on which pictures
    stages              steps, batch, and how often each picture will be seen
    device, precision   and a word where bf16 is slower than fp32
    about               a first estimate, from two steps of each stage on a copy of the system; minutes are as asked

The estimate leaves the system, its random numbers and the run's as they were.
"""

from __future__ import annotations

import copy
import logging
import time
from collections.abc import Iterator
from typing import Any

import torch
from accelerate import Accelerator
from torch import nn

from sfumato.core.contracts import Objective
from sfumato.core.noise import Noise
from sfumato.core.space import Tokens
from sfumato.data import Set
from sfumato.data.told import told
from sfumato.train.donors import given_stages, kept
from sfumato.train.held import NONE
from sfumato.train.request import Request, plan_for

log = logging.getLogger("sfumato")
MOST = 200_000_000  # parameters of what is copied for an estimate
USUAL = 4  # characters of a token
REAL_BF16 = "AVX512"  # processors without it compute bf16 by way of fp32: here ten times as slowly


def opening(
    request: Request, system: Any, source: Set, held_out: str, accelerator: Accelerator, estimate: bool
) -> dict[str, Any]:
    """The facts of a training that is about to begin, for data.json: {"device", "precision", "stages", "seconds",
    "held_out", "warnings"}; `held_out` is what `split` says of it, `seconds` is None where it cannot be told."""
    given = given_stages(system, kept(system, request))
    names = [name for name in system.stages() if name not in given]
    plans = {name: plan_for(request, name) for name in names}
    seconds: float | None = None
    if request.minutes is not None:
        seconds = 60 * request.minutes
    elif estimate:
        each = step_seconds(system, names, plans, source, accelerator.device)
        seconds = None if each is None else sum(each[name] * plans[name].steps for name in names)
    stages = {
        name: {
            "steps": None if request.minutes is not None else plan.steps,
            "batch": plan.batch,
            "times_each": None if request.minutes is not None else round(plan.steps * plan.batch / len(source), 2),
        }
        for name, plan in plans.items()
    }
    return {
        "device": _device(accelerator.device),
        "precision": request.precision,
        "stages": stages,
        "seconds": None if seconds is None else round(seconds, 1),
        "held_out": held_out,
        "warnings": [
            *_doubts(request, plans, source, accelerator.device),
            *_doubts_of_texts(system, source),
            *_doubts_of_patience(request, {name: system.stages()[name] for name in names}, held_out),
        ],
    }


def say(facts: dict[str, Any], source: Set, request: Request) -> None:
    """Logs the screen: a line a topic, then every warning of the set and of the training."""
    shown = ("shown at", f"{source.side}×{source.side}, the largest middle square of each")
    rows = [*told(source), *[shown] * bool(source.side)]
    for name, stage in facts["stages"].items():
        one = source.noun.removesuffix("s")
        seen = "" if stage["times_each"] is None else f", each {one} {stage['times_each']:g} times"
        steps = "as many steps as its minutes allow" if stage["steps"] is None else f"{stage['steps']:,} steps"
        rows.append((f"stage {name}", f"{steps} of {stage['batch']} {source.noun}{seen}"))
    rows += [("begins", sentence) for sentence in facts.get("from", ())]
    rows.append(("held-out loss", facts["held_out"] if facts["held_out"] == NONE else f"on {facts['held_out']}"))
    rows.append(("computed", f"on {facts['device']}, in {facts['precision']}"))
    if request.minutes is not None:
        rows.append(("takes", f"{request.minutes:g} minutes, as asked"))
    elif facts["seconds"] is not None:
        rows.append(("takes about", f"{duration(facts['seconds'])}, by the first steps; scores come after"))
    wide = max(len(topic) for topic, _ in rows)
    for topic, words in rows:
        log.info("%s  %s", topic.ljust(wide), words)
    for warning in (*source.report["warnings"], *facts["warnings"]):
        log.warning("%s", warning)


def duration(seconds: float) -> str:
    """Seconds as a person says them: 40 seconds, 12 minutes, 3.5 hours."""
    if seconds < 90:
        return f"{max(seconds, 1):.0f} seconds"
    if seconds < 90 * 60:
        return f"{seconds / 60:.0f} minutes"
    return f"{seconds / 3600:.1f} hours" if seconds < 48 * 3600 else f"{seconds / 86400:.1f} days"


def step_seconds(
    system: Any, names: list[str], plans: dict[str, Any], source: Set, device: torch.device
) -> dict[str, float] | None:
    """What a step of each stage takes: the second of two, forward and backward, on a copy. None where it is not had."""
    if sum(p.numel() for p in system.parameters()) > MOST:
        return None
    devices = [device] if device.type == "cuda" else []
    try:
        with torch.random.fork_rng(devices):
            trial = copy.deepcopy(system).to(device)
            return {name: _timed(trial.stages()[name], plans[name].batch, source, device) for name in names}
    except Exception:  # an estimate less is no reason not to train; what is wrong will be said by the training itself
        log.debug("The time of a step could not be measured.", exc_info=True)
        return None


def _timed(objective: Objective, batch: int, source: Set, device: torch.device) -> float:
    rows = source.batch([i % len(source) for i in range(batch)])
    rows = {key: value.to(device) if isinstance(value, torch.Tensor) else value for key, value in rows.items()}
    objective.prepare(lambda: [rows])
    assert isinstance(objective, nn.Module)
    objective.train()
    seconds = 0.0
    for _ in range(2):  # the first pays for what is done once
        started = time.monotonic()
        for player in range(len(objective.players())):
            terms = objective.loss(rows, player, Noise.shared(0, batch, device=device), 0.5)
            if terms:
                sum(terms.values()).backward()  # type: ignore[union-attr]
        if device.type == "cuda":
            torch.cuda.synchronize(device)
        seconds = time.monotonic() - started
    return seconds


def _device(device: torch.device) -> str:
    if device.type == "cuda":
        return f"{device} ({torch.cuda.get_device_name(device)})"
    return f"{device} ({torch.get_num_threads()} threads)" if device.type == "cpu" else str(device)


def _doubts(request: Request, plans: dict[str, Any], source: Set, device: torch.device) -> Iterator[str]:
    if largest := max((plan.batch for plan in plans.values() if plan.batch > len(source)), default=0):
        yield (
            f"A batch of {largest} is more than the {len(source)} {source.noun} of the set, so each step sees some of "
            "them several times. A smaller --batch makes more steps of the same time."
        )
    if request.precision == "bf16" and device.type == "cpu":
        kind = torch.backends.cpu.get_cpu_capability()
        if not kind.startswith(REAL_BF16):
            yield (
                f"This processor ({kind}) does not compute in bf16: torch goes through fp32 and back, several times as "
                "slowly. Leave --precision out."
            )


def _doubts_of_texts(system: Any, source: Set) -> Iterator[str]:
    """Texts that are longer than what is read of them, as far as their letters tell before there is an alphabet."""
    if not isinstance(system.data, Tokens) or "characters" not in source.report:
        return
    mean, read = source.report["characters"]["mean"], system.data.length
    if mean > (most := USUAL * read):
        yield (
            f"The texts have {mean:,.0f} characters in the mean, and of each {read} tokens are read, some {most}: "
            f"the rest is not learned. Take a larger --context, or cut them: DATA:window={most}."
        )


def _doubts_of_patience(request: Request, stages: dict[str, Objective], held_out: str) -> Iterator[str]:
    if request.patience is None:
        return
    if held_out == NONE:
        yield "Patience has nothing to wait for: no part of the set is held out. --held-out P holds one out."
        return
    for name, objective in stages.items():
        if len(objective.players()) > 1:
            yield (
                f"Patience does not end the stage {name}: of two players the loss of neither says which weights are "
                "better, so none is looked at."
            )
