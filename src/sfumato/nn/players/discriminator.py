"""From a grid to one number a picture, x (B, C, H, W) and condition.vector (B, E) → (B,): three of them.

    logit = ⟨w, φ(x)⟩ + b + ⟨V c, φ(x)⟩                  projection, arXiv:1802.05637

    Discriminator      1×1, then at each size `blocks` inverted blocks (nn.layers), half the side between;
                       φ = one 4×4 kernel a channel (R3GAN, arXiv:2501.05441)
    SNDiscriminator    blocks of [relu, 3×3, relu, 3×3, mean of 2×2] + 1×1 beside it, half the side until 8×8, then two
                       of one size; φ = Σ over positions of relu; every weight of spectral norm 1 (SNGAN,
                       arXiv:1802.05957)
    DCDiscriminator    4×4 convolutions of stride 2, norm, leaky; φ = all that is left of the grid (DCGAN,
                       arXiv:1511.06434); the norm is over groups of channels, not over the batch

Critics of patches are in nn.critic. No part here is without a second derivative, which gradient penalties need.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from itertools import pairwise
from typing import Any

import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.utils.parametrizations import spectral_norm

from sfumato.core.condition import Condition
from sfumato.core.space import Grid
from sfumato.nn.parts.doors import check_doors
from sfumato.nn.parts.layers import LEAK, Inverted, drawn, group_norm, halved
from sfumato.nn.players.generator import COARSEST, laddered

Norm = Callable[[Any], Any]


def narrowed(x: Tensor) -> Tensor:
    """Half the side, by means; the odd one out at an edge is the mean of what there is."""
    return F.avg_pool2d(x, 2, ceil_mode=True, count_include_pad=False)


def spectral_norms(module: nn.Module) -> nn.Module:
    """Every weight inside divided by its largest singular value, followed by power iteration: one step a call of
    `forward` in training, none in evaluation. u and v are buffers."""
    for part in list(module.modules()):
        if isinstance(part, nn.Linear | nn.Conv2d):
            spectral_norm(part)
    return module


class Projection(nn.Module):
    """φ (B, width) → (B,)."""

    def __init__(self, width: int, vector: int | None, bias: bool = True):
        super().__init__()
        self.vector = vector
        self.plain = nn.Linear(width, 1, bias=bias)
        self.told = None if vector is None else nn.Linear(vector, width, bias=False)

    def forward(self, features: Tensor, condition: Condition) -> Tensor:
        check_doors("critic", condition, vector=self.vector)
        logit = self.plain(features)[:, 0]
        return logit if self.told is None else logit + (self.told(condition.vector) * features).sum(1)


class Discriminator(nn.Module):
    """`widths` from fine to coarse, the last one for all that is coarser; an even `patch` p folds
    p×p pixels into one."""

    def __init__(
        self,
        space: Grid,
        *,
        widths: Sequence[int] = (768,),
        blocks: int = 2,
        group: int = 16,
        patch: int = 1,
        vector: int | None = None,
        spectral: bool = False,
    ):
        super().__init__()
        self.margin = (-space.height % patch, -space.width % patch)
        outer = (-(-space.height // patch), -(-space.width // patch))
        layouts = halved(outer, COARSEST)
        ladder = laddered(widths, len(layouts))
        total = blocks * len(ladder)
        kernel = (1, 1, 0) if patch == 1 else (2 * patch, patch, patch // 2)  # patches overlap, as in the generator
        self.enter = drawn(nn.Conv2d(space.channels, ladder[0], *kernel, bias=False), 1.0)
        self.levels = nn.ModuleList(
            nn.Sequential(*[Inverted(width, group=group, blocks=total) for _ in range(blocks)]) for width in ladder
        )
        self.between = nn.ModuleList(
            nn.Identity() if a == b else drawn(nn.Conv2d(a, b, 1, bias=False), 1.0) for a, b in pairwise(ladder)
        )
        last = ladder[-1]
        self.basis = drawn(nn.Conv2d(last, last, layouts[-1], groups=last, bias=False), 1.0)
        self.head = Projection(last, vector, bias=False)
        drawn(self.head.plain, 1.0)
        if self.head.told is not None:  # ⟨V c, φ⟩ of unit variance, for c and φ of unit variance an entry
            drawn(self.head.told, last**-0.5)
        if spectral:
            for block in self.levels.modules():
                if isinstance(block, Inverted):
                    drawn(block.narrow, 1.0)  # zero has no direction to be scaled along
            spectral_norms(self)

    def forward(self, x: Tensor, condition: Condition) -> Tensor:
        if any(self.margin):
            x = F.pad(x, (0, self.margin[1], 0, self.margin[0]))
        h = self.enter(x)
        for i, level in enumerate(self.levels):
            if i:
                h = self.between[i - 1](narrowed(h))
            h = level(h)
        return self.head(self.basis(h).flatten(1), condition)


class SNDiscriminator(nn.Module):
    def __init__(self, space: Grid, *, width: int = 128, vector: int | None = None, spectral: bool = True):
        super().__init__()
        downs = len(halved((space.height, space.width), 8)) - 1
        self.first = SNBlock(space.channels, width, down=downs > 0, first=True)
        self.rest = nn.ModuleList(SNBlock(width, width, down=i < downs - 1) for i in range(max(downs - 1, 0) + 2))
        self.head = Projection(width, vector)
        for layer in (self.head.plain, self.head.told):
            if layer is not None:
                nn.init.xavier_uniform_(layer.weight)
        if spectral:
            spectral_norms(self)

    def forward(self, x: Tensor, condition: Condition) -> Tensor:
        h = self.first(x)
        for block in self.rest:
            h = block(h)
        return self.head(F.relu(h).sum((2, 3)), condition)


class SNBlock(nn.Module):
    """The first block begins with a convolution, since a relu would throw half of the picture away."""

    def __init__(self, channels: int, width: int, *, down: bool, first: bool = False):
        super().__init__()
        self.down, self.first = down, first
        self.conv1 = nn.Conv2d(channels, width, 3, padding=1)
        self.conv2 = nn.Conv2d(width, width, 3, padding=1)
        self.skip = nn.Conv2d(channels, width, 1) if down or channels != width else None
        for conv, gain in ((self.conv1, 2**0.5), (self.conv2, 2**0.5), (self.skip, 1.0)):
            if conv is not None:
                nn.init.xavier_uniform_(conv.weight, gain)

    def forward(self, x: Tensor) -> Tensor:
        h = self.conv2(F.relu(self.conv1(x if self.first else F.relu(x))))
        beside = x if self.skip is None else self.skip(x)
        return narrowed(h + beside) if self.down else h + beside  # the mean of a sum is the sum of means


class DCDiscriminator(nn.Module):
    """`width` is that of the finest hidden grid, doubled with each halving, 8 × width at most."""

    def __init__(self, space: Grid, *, width: int = 64, vector: int | None = None, spectral: bool = False):
        super().__init__()
        layouts = halved((space.height, space.width), COARSEST)[1:] or [(space.height, space.width)]
        shape = (4, 2, 1) if layouts[0] != (space.height, space.width) else (3, 1, 1)
        widths = [width * min(2**i, 8) for i in range(len(layouts))]
        self.layouts = layouts
        self.convs = nn.ModuleList(nn.Conv2d(a, b, *shape, bias=False) for a, b in pairwise([space.channels, *widths]))
        self.norms = nn.ModuleList(nn.Identity() if spectral else group_norm(c) for c in widths[1:])
        self.head = Projection(widths[-1] * layouts[-1][0] * layouts[-1][1], vector, bias=False)
        for module in self.modules():
            if isinstance(module, nn.Linear | nn.Conv2d):
                nn.init.normal_(module.weight, std=0.02)
        if spectral:
            spectral_norms(self)

    def forward(self, x: Tensor, condition: Condition) -> Tensor:
        h = x
        for i, (conv, (height, width)) in enumerate(zip(self.convs, self.layouts)):
            if conv.stride == (2, 2):  # an odd side is rounded up
                h = F.pad(h, (0, 2 * width - h.shape[-1], 0, 2 * height - h.shape[-2]))
            h = conv(h)
            h = F.leaky_relu(self.norms[i - 1](h) if i else h, LEAK)
        return self.head(h.flatten(1), condition)
