"""Glow: a picture to noise of its own shape and back (Kingma & Dhariwal 2018, arXiv:1807.03039).

    level     squeeze · K steps · split: the second half of the channels leaves as noise, the first goes on
    step      mixing (actnorm within) · coupling
    split     ε = (z₂ − μ(z₁)) / σ(z₁);     at the top ε = (z − μ) / σ, a learned number per place

All levels' noises are put back where they came from, so that ε has the shape of x and x ↔ ε is one bijection, whose
log |det| holds the learned priors' −Σ log σ: log p(x) = log N(ε; 0, I) + log |det ∂ε/∂x|.

Sides are halved as often as they can be, at most `levels` times; where they cannot be halved at all, there is one level
without a squeeze. Every number that a network predicts is asked for by `ask(net, z)`, so that whoever holds the
condition decides how it is heard. The state keeps its own precision; networks run in that of their weights.

Shapes: x, ε (B, C, H, W); log-det (B,).
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

from sfumato.core.errors import Misfit
from sfumato.core.space import Grid, check
from sfumato.nn.pictures.coupling import (
    COUPLINGS,
    GAUSSIAN,
    Coupling,
    CouplingNet,
    Mixer,
    Mixing,
    NormConv,
    SplitNet,
    TopNet,
    squeeze,
    unsqueeze,
)

Ask = Callable[[nn.Module, Tensor], Tensor]
FAR = 1e12  # where the way back is cut off: beyond it float32 networks overflow, and no picture has lain there


class Step(nn.Module):
    def __init__(self, channels: int, width: int, *, coupling: Coupling, mixing: Mixer, vector: int | None):
        super().__init__()
        self.kept = channels - channels // 2
        self.map = COUPLINGS[coupling]
        self.mixing = Mixing(channels, mixing)
        self.net = CouplingNet(self.kept, self.map.numbers * (channels - self.kept), width, vector)

    def forward(self, x: Tensor, ask: Ask) -> tuple[Tensor, Tensor]:
        x, mixed = self.mixing(x)
        told, moved = x[:, : self.kept], x[:, self.kept :]
        moved, coupled = self.map.forward(moved, ask(self.net, told))
        return torch.cat([told, moved], 1), coupled + mixed

    def inverse(self, y: Tensor, ask: Ask) -> Tensor:
        told, moved = y[:, : self.kept], y[:, self.kept :]
        x = torch.cat([told, self.map.inverse(moved, ask(self.net, told))], 1)
        return self.mixing.inverse(x.clamp(-FAR, FAR))


class Glow(nn.Module):
    """x ↔ ε. `vector` is the width of condition.vector, None without one. `learned`: the priors of splits and top;
    otherwise they are N(0, I)."""

    ready: Tensor

    def __init__(
        self,
        space: Grid,
        *,
        levels: int,
        steps: int,
        width: int,
        coupling: Coupling = "affine",
        mixing: Mixer = "lu",
        vector: int | None = None,
        learned: bool = True,
    ):
        super().__init__()
        self.space, self.halvings = space, halvings(space, levels)
        channels, layout = space.channels, (space.height, space.width)
        if channels == 1 and not self.halvings:
            raise Misfit(
                f"A coupling moves one half of the channels by the other, and {space} has one channel and sides that "
                "cannot be halved. Choose even sides."
            )
        self.depth, self.learned = steps, learned
        self.steps, self.splits = nn.ModuleList(), nn.ModuleList()  # of all levels, one after the other
        for level in range(max(self.halvings, 1)):
            if level:
                channels //= 2
                if learned:
                    self.splits.append(SplitNet(channels, GAUSSIAN.numbers * channels, vector))
            if self.halvings:
                channels, layout = 4 * channels, (layout[0] // 2, layout[1] // 2)
            parts: dict[str, Any] = {"coupling": coupling, "mixing": mixing, "vector": vector}
            self.steps.extend(Step(channels, width, **parts) for _ in range(steps))
        self.top = TopNet(GAUSSIAN.numbers * channels, layout, vector) if learned else None
        self.register_buffer("ready", torch.zeros((), dtype=torch.bool))  # whether `fit` was done

    @property
    def levels(self) -> list[list[Step]]:
        """The steps of each level."""
        count, steps = max(self.halvings, 1), list(self.steps)
        return [steps[i * self.depth : (i + 1) * self.depth] for i in range(count)]  # type: ignore[misc]

    @torch.no_grad()
    def fit(self, x: Tensor, ask: Ask) -> None:
        """Once, before training: every actnorm sees what reaches it of the batch x, in the order of the network."""
        if bool(self.ready):
            return
        hooks = [
            module.register_forward_pre_hook(lambda module, inputs: module.fit(inputs[0]))
            for module in self.modules()
            if isinstance(module, (NormConv, Mixing))
        ]
        try:
            self(x, ask)
        finally:
            for hook in hooks:
                hook.remove()
        self.ready.fill_(True)

    def forward(self, x: Tensor, ask: Ask) -> tuple[Tensor, Tensor]:
        """(ε, log |det ∂ε/∂x|)."""
        check(self.space, x)
        log_det, away = x.new_zeros(len(x)), []
        for i, steps in enumerate(self.levels):
            if i:
                x, z = x.chunk(2, 1)
                eps, moved = self._normalised(z, self._split(i), x, ask)
                log_det = log_det + moved
                away.append(eps)
            x = squeeze(x) if self.halvings else x
            for step in steps:
                x, moved = step(x, ask)
                log_det = log_det + moved
        eps, moved = self._normalised(x, self.top, x, ask)
        for other in reversed(away):
            eps = torch.cat([unsqueeze(eps), other], 1)
        return unsqueeze(eps) if self.halvings else eps, log_det + moved

    def inverse(self, eps: Tensor, ask: Ask) -> Tensor:
        """x. Finite for any finite ε."""
        check(self.space, eps)
        away, eps = [], eps.clamp(-FAR, FAR)
        for i in range(max(self.halvings, 1)):
            if i:
                eps, z = eps.chunk(2, 1)
                away.append(z)
            eps = squeeze(eps) if self.halvings else eps
        x = self._denormalised(eps, self.top, eps, ask)
        for i, steps in reversed(list(enumerate(self.levels))):
            for step in reversed(steps):
                x = step.inverse(x, ask).clamp(-FAR, FAR)
            x = unsqueeze(x) if self.halvings else x
            if i:
                x = torch.cat([x, self._denormalised(away.pop(), self._split(i), x, ask)], 1)
        return x

    def _split(self, level: int) -> nn.Module | None:
        return self.splits[level - 1] if self.learned else None

    def _normalised(self, z: Tensor, net: nn.Module | None, told: Tensor, ask: Ask) -> tuple[Tensor, Tensor]:
        return (z, z.new_zeros(len(z))) if net is None else GAUSSIAN.forward(z, ask(net, told))

    def _denormalised(self, eps: Tensor, net: nn.Module | None, told: Tensor, ask: Ask) -> Tensor:
        return eps if net is None else GAUSSIAN.inverse(eps, ask(net, told)).clamp(-FAR, FAR)


def halvings(space: Grid, most: int) -> int:
    """How often both sides can be halved, at most `most` times."""
    found, sides = 0, (space.height, space.width)
    while found < most and all(side % 2 == 0 for side in sides):
        found, sides = found + 1, (sides[0] // 2, sides[1] // 2)
    return found
