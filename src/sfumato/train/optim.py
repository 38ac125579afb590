"""AdamW and its rate.

    rate(p) = peak · p / warmup                                            while p < warmup
            = peak · (floor + (1 − floor) (1 + cos π q) / 2),  q = (p − warmup) / (1 − warmup)       afterwards

p in [0, 1] is progress, the part of the stage that is done, whether the stage is measured in steps or in minutes.
Weight decay is decoupled (Loshchilov & Hutter 2019, arXiv:1711.05101) and acts on matrices only: gains, biases and
other vectors have no direction to shrink.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

import torch
from torch import Tensor, nn

from sfumato.recipes.plan import Plan
from sfumato.train.shards import fill

MOMENTS = ("exp_avg", "exp_avg_sq", "step")


def rate(plan: Plan, progress: float) -> float:
    """The learning rate at `progress`."""
    if progress < plan.warmup:
        return plan.rate * progress / plan.warmup
    q = (progress - plan.warmup) / (1 - plan.warmup) if plan.warmup < 1 else 1.0
    return plan.rate * (plan.floor + (1 - plan.floor) * (1 + math.cos(math.pi * min(q, 1.0))) / 2)


def adamw(parameters: Sequence[nn.Parameter], plan: Plan) -> torch.optim.AdamW:
    """AdamW over one player's parameters, in one fused kernel a group where torch has one for the device."""
    matrices = [p for p in parameters if p.ndim >= 2]
    vectors = [p for p in parameters if p.ndim < 2]
    groups = [
        {"params": group, "weight_decay": decay} for group, decay in ((matrices, plan.decay), (vectors, 0.0)) if group
    ]
    fused = all(p.is_floating_point() and p.device.type in ("cpu", "cuda") for p in parameters)
    return torch.optim.AdamW(groups, lr=plan.rate, betas=plan.betas, fused=fused)


def set_rate(optimizer: torch.optim.Optimizer, value: float) -> None:
    for group in optimizer.param_groups:
        group["lr"] = value


def moments(optimizer: torch.optim.Optimizer, names: Mapping[Tensor, str]) -> dict[str, Tensor]:
    """The optimiser's memory as flat names: "exp_avg/prior.net.weight". A parameter never stepped has none."""
    return {
        f"{moment}/{names[p]}": state[moment]
        for p, state in optimizer.state.items()
        for moment in MOMENTS
        if moment in state
    }


def load_moments(optimizer: torch.optim.Optimizer, names: Mapping[Tensor, str], values: Mapping[str, Tensor]) -> None:
    """Restores what `moments` gave, exactly: what is absent there is forgotten here."""
    optimizer.state.clear()
    for group in optimizer.param_groups:
        for p in group["params"]:
            if f"step/{names[p]}" not in values:
                continue
            state = optimizer.state[p]
            # The step count stays where fused AdamW wants it: with the parameter, which is also where it was made.
            state["step"] = values[f"step/{names[p]}"].to(p.device if group["fused"] else "cpu").clone()
            for moment in ("exp_avg", "exp_avg_sq"):
                state[moment] = torch.zeros_like(p)
                fill(state[moment], values[f"{moment}/{names[p]}"])
