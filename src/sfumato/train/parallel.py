"""One process or many: the objective behind a module whose forward is its loss.

Data parallelism works through hooks on that forward and its backward, so an objective, whose method is `loss`, stands
behind `Turn`. Each process sees its own rows of the global batch and the gradients are averaged (Li et al. 2020,
arXiv:2006.15704); with `shard` the parameters are spread as well (FSDP2; Zhao et al. 2023, arXiv:2304.11277).
"""

from __future__ import annotations

from contextlib import AbstractContextManager, nullcontext
from typing import Any

import torch
from accelerate import Accelerator
from accelerate.state import AcceleratorState
from accelerate.utils import DistributedDataParallelKwargs, broadcast
from torch import Tensor, nn
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import fully_shard

from sfumato.core.contracts import Batch, Objective, Terms
from sfumato.core.errors import Misfit, UsageError
from sfumato.core.noise import Noise
from sfumato.core.registry import nearest

PRECISIONS = {"fp32": "no", "bf16": "bf16"}


def accelerator_for(precision: str = "fp32", device: str | None = None) -> Accelerator:
    """accelerate's view of this process and its peers. `device` "cpu" ignores a GPU."""
    if precision not in PRECISIONS:
        raise UsageError(f"No precision is called {precision!r}. {nearest(precision, PRECISIONS)}")
    # accelerate keeps one state per process, and would hold on to the precision of an earlier training.
    AcceleratorState._reset_state(reset_partial_state=False)
    return Accelerator(
        mixed_precision=PRECISIONS[precision],
        cpu=device == "cpu",
        # With two players each pass leaves the other's parameters unused, and some objectives leave some of their own.
        kwargs_handlers=[DistributedDataParallelKwargs(find_unused_parameters=True)],
    )


class Turn(nn.Module):
    """forward = objective.loss."""

    def __init__(self, objective: nn.Module):
        super().__init__()
        self.objective = objective

    def forward(self, batch: Batch, player: int, noise: Noise, progress: float) -> Terms:
        return self.objective.loss(batch, player, noise, progress)  # type: ignore[operator]


def spread(objective: Objective, accelerator: Accelerator, shard: bool) -> nn.Module:
    """The objective on the accelerator's device, ready for the loop: call it as (batch, player, noise, progress)."""
    if not isinstance(objective, nn.Module):
        raise Misfit(f"{type(objective).__name__} is no nn.Module, so it has no weights to place and to save.")
    turn = Turn(objective)
    if not shard:
        return accelerator.prepare_model(turn)
    if accelerator.num_processes < 2:
        raise UsageError("Sharding spreads the weights over processes, and there is one. Start it with torchrun.")
    turn.to(accelerator.device)
    mesh = init_device_mesh(accelerator.device.type, (accelerator.num_processes,))
    for blocks in [m for m in turn.modules() if isinstance(m, nn.ModuleList)]:
        for block in blocks:  # gathered one at a time, so that no process ever holds all of the weights
            if any(True for _ in block.parameters()):
                fully_shard(block, mesh=mesh)
    fully_shard(turn, mesh=mesh)
    return turn


def quiet(turn: nn.Module, accelerator: Accelerator, last: bool) -> AbstractContextManager[Any]:
    """Gradients are exchanged once a step, at the last part of the accumulated batch."""
    if last or accelerator.num_processes == 1 or not isinstance(turn, nn.parallel.DistributedDataParallel):
        return nullcontext()
    return turn.no_sync()


def agreed(value: float, accelerator: Accelerator) -> float:
    """The main process's value, in all processes."""
    if accelerator.num_processes == 1:
        return value
    return float(broadcast(torch.tensor([value], dtype=torch.float64, device=accelerator.device))[0])


def averaged(values: Tensor, accelerator: Accelerator) -> Tensor:
    """The mean over processes."""
    return values if accelerator.num_processes == 1 else accelerator.reduce(values, "mean")
