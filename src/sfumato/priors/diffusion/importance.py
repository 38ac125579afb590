"""Which times to train on, so that the loss varies least.

    t ~ p(k) in bucket k,   p(k) ∝ √E[cost² | k],   the cost weighed by 1 / (K p(k)): its mean is that of uniform times

√E[cost²] is the proposal of least variance. It is estimated by a running mean of the squares that each bucket has seen,
over accepted steps only; every bucket keeps a thousandth of the probability, so that none is forgotten.
Source: Nichol & Dhariwal 2021, arXiv:2102.09672 (§3.3).
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from sfumato.core.tensors import over_processes

KEEP = 0.99  # of the running mean, a picture
LEAST = 0.001


class Importance(nn.Module):
    square: Tensor

    def __init__(self, buckets: int):
        super().__init__()
        self.register_buffer("square", torch.ones(buckets))
        self._seen: list[tuple[Tensor, Tensor]] = []

    def probability(self) -> Tensor:
        p = self.square.sqrt()
        return (1 - LEAST) * p / p.sum() + LEAST / len(p)

    def draw(self, u: Tensor) -> tuple[Tensor, Tensor]:
        """Uniform numbers → (the quantiles of p at them, their weights), both (B,)."""
        p = self.probability().to(u)
        reach = p.cumsum(0)
        k = torch.searchsorted(reach, u * reach[-1], right=True).clamp(max=len(p) - 1)
        inside = (u * reach[-1] - (reach[k] - p[k])) / p[k]
        return ((k + inside.clamp(0, 1 - 1e-6)) / len(p)), 1 / (len(p) * p[k])

    def see(self, u: Tensor, cost: Tensor, training: bool) -> None:
        if training and torch.is_grad_enabled():
            self._seen.append((u.detach(), cost.detach()))

    @torch.no_grad()
    def settle(self) -> None:
        if not self._seen:
            return
        u, cost = (torch.cat(parts).to(self.square) for parts in zip(*self._seen))
        k = (u * len(self.square)).long().clamp(max=len(self.square) - 1)
        zero = torch.zeros_like(self.square)
        seen = torch.stack([zero.index_add(0, k, torch.ones_like(cost)), zero.index_add(0, k, cost.square())])
        count, total = over_processes(seen)
        keep = KEEP**count
        self.square.copy_(keep * self.square + (1 - keep) * total / count.clamp(min=1))
        self.forget()

    def forget(self) -> None:
        self._seen.clear()
