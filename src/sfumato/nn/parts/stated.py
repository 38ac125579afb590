"""A denoiser of pictures that works on their components, and is told how noisy each of them is.

    z → x = Uᵀ z → net(x, t̄, condition with the state) → U

The net sees a picture and answers with one, whatever the basis U, since convolutions understand pictures. What it is
told of the noise γ (B, latent's shape) is no time, so that any schedule over the same components speaks to it alike:

    t̄          the mean of γ, scaled to [0, 1] between `low` and `high`
    painted    local bases: γ scaled to [−1, 1], on the pixels that each component touches, beside condition.grid
    tokens     others: the mean γ of each of at most 64 groups of neighbouring rank, as a sinusoid and a learned vector
               of the group, through two layers; appended to condition.sequence and so attended to

Source: GUD, arXiv:2410.02667 (conditioning on the whole noise state).
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from sfumato.core.condition import Condition
from sfumato.nn.parts.embed import sinusoid

MOST = 64  # tokens


class Stated(nn.Module):
    """z, γ, condition → the shape of z. `basis` has turn, back, group, groups, and where it is local, painted; it
    belongs to a codec and is not registered here a second time. `net` is a UNet whose door is condition.grid of
    basis.layers more channels (local), or condition.sequence of width `context` (others)."""

    def __init__(
        self, net: nn.Module, basis: Any, *, low: float = -13.3, high: float = 5.0, context: int | None = None
    ):
        super().__init__()
        self.net, self.low, self.high = net, low, high
        self._basis = (basis,)
        if not basis.local:
            assert context is not None, "components without a place are told of in tokens"
            self.frequency = context
            self.rank = nn.Parameter(0.02 * torch.randn(min(MOST, basis.group.numel()), context))
            self.inner, self.outer = nn.Linear(context, context), nn.Linear(context, context)

    def forward(self, z: Tensor, gamma: Tensor, condition: Condition) -> Tensor:
        basis = self._basis[0]
        gamma = gamma.clamp(-50.0, 50.0)  # at data and at pure noise it is infinite
        scaled = ((gamma - self.low) / (self.high - self.low)).float()
        told = self._paint(scaled, condition) if basis.local else self._attend(scaled, condition)
        return basis.turn(self.net(basis.back(z), scaled.flatten(1).mean(1), told))

    def _paint(self, scaled: Tensor, condition: Condition) -> Condition:
        painted = self._basis[0].painted(2 * scaled - 1)
        return replace(condition, grid=painted if condition.grid is None else torch.cat([condition.grid, painted], 1))

    def _attend(self, scaled: Tensor, condition: Condition) -> Condition:
        basis = self._basis[0]
        n = len(self.rank)
        place = (basis.group.flatten() * n) // basis.groups
        count = torch.zeros(n, device=scaled.device).index_add(0, place, torch.ones(len(place), device=scaled.device))
        means = torch.zeros(len(scaled), n, device=scaled.device).index_add(1, place, scaled.flatten(1)) / count.clamp(
            1
        )
        e = sinusoid(1000 * means, self.frequency).to(self.rank.dtype) + self.rank
        tokens = self.outer(F.silu(self.inner(e)))
        if condition.sequence is None:
            return replace(condition, sequence=tokens)
        mask = condition.mask
        if mask is not None:
            mask = F.pad(mask.bool(), (0, n), value=True)
        return replace(condition, sequence=torch.cat([condition.sequence, tokens], 1), mask=mask)


class Fine(nn.Module):
    """Lets a net see the last bits of a picture: sin and cos of 2ⁿ π z for each n of `waves` are concatenated to z
    (VDM, arXiv:2107.00630, n = 6, 7 for 8-bit values on [−1, 1]). The net has 1 + 2 · |waves| times z's channels."""

    def __init__(self, net: nn.Module, waves: tuple[int, ...] = (6, 7)):
        super().__init__()
        self.net, self.waves = net, waves

    def forward(self, z: Tensor, t: Tensor, condition: Condition) -> Tensor:
        angles = [z * (2.0**n * torch.pi) for n in self.waves]
        return self.net(torch.cat([z, *(f(a) for a in angles for f in (torch.sin, torch.cos))], 1), t, condition)
