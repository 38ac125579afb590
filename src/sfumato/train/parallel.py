"""One process or many: the objective behind a module whose forward is its loss.

Data parallelism works through hooks on that forward and its backward, so an objective, whose method is `loss`, stands
behind `Turn`. Each process sees its own rows of the global batch and the gradients are averaged (DDP: Li et al. 2020,
arXiv:2006.15704); with `shard` the parameters are spread as well (FSDP2; Zhao et al. 2023, arXiv:2304.11277).

DDP counts one backward pass for every forward pass, so it bears no player that sits a step out. With two players the
gradients are therefore averaged by hand, in one message a player when its backward passes are done.
"""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import AbstractContextManager, nullcontext
from typing import Any

import torch
from accelerate import Accelerator
from accelerate.state import AcceleratorState
from accelerate.utils import DistributedDataParallelKwargs, broadcast
from torch import Tensor, distributed, nn
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import FSDPModule, fully_shard

from sfumato.core.contracts import Batch, Objective, Terms
from sfumato.core.errors import Misfit, UsageError
from sfumato.core.noise import Noise
from sfumato.core.registry import nearest

PRECISIONS = {"fp32": "no", "bf16": "bf16"}


def leave() -> None:
    """Parts from the peers, where there are any, before a process ends: threads of gloo that outlive the interpreter
    abort it now and then."""
    if distributed.is_available() and distributed.is_initialized():
        distributed.destroy_process_group()


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
    if not shard and len(objective.players()) == 1:
        return accelerator.prepare_model(turn)
    if not shard:
        turn.to(accelerator.device)
        if accelerator.num_processes > 1:  # as DDP does: all start from the main process's weights
            broadcast([t.detach() for t in (*turn.parameters(), *turn.buffers()) if t.numel()])
        return turn
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


def exchange(turn: nn.Module, parameters: Sequence[nn.Parameter], accelerator: Accelerator) -> None:
    """Averages one player's gradients over processes, where no hook has done so. A parameter that had a gradient in one
    process has one in all; one that had none anywhere keeps none."""
    if accelerator.num_processes == 1 or isinstance(turn, nn.parallel.DistributedDataParallel | FSDPModule):
        return
    used = torch.tensor([float(p.grad is not None) for p in parameters], device=accelerator.device)
    share = [p for p, n in zip(parameters, accelerator.reduce(used, "sum").tolist()) if n]
    for dtype in {p.dtype for p in share}:
        members = [p for p in share if p.dtype == dtype]
        grads = [torch.zeros_like(p) if p.grad is None else p.grad for p in members]
        flat = accelerator.reduce(torch.cat([g.reshape(-1) for g in grads]), "mean")
        for p, part in zip(members, flat.split([p.numel() for p in members])):
            p.grad = part.view_as(p)


def agreed(value: float, accelerator: Accelerator) -> float:
    """The main process's value, in all processes."""
    if accelerator.num_processes == 1:
        return value
    return float(broadcast(torch.tensor([value], dtype=torch.float64, device=accelerator.device))[0])


def averaged(values: Tensor, accelerator: Accelerator) -> Tensor:
    """The mean over processes."""
    return values if accelerator.num_processes == 1 else accelerator.reduce(values, "mean")
