"""From noise to a grid, w (B, D) and condition.vector (B, E) → (B, C, H, W): three of them.

    Generator      B ⊙ A[w, E c] on the coarsest grid, then at each size `blocks` inverted blocks (nn.layers), twice the
                   side between; no normalisation, no non-linearity at the end (R3GAN, arXiv:2501.05441)
    SNGenerator    W w on the coarsest grid, then [norm, relu, twice the side, 3×3, norm, relu, 3×3] + 1×1 beside it per
                   doubling; norm, relu, 3×3 (SNGAN, arXiv:1802.05957)
    DCGenerator    W [w, E c] on the coarsest grid, norm, relu, then transposed 4×4 convolutions of stride 2 with norm
                   and relu between (DCGAN, arXiv:1511.06434)

The second and third normalised over the batch, so that a picture depended on those drawn beside it; here a norm is over
groups of channels of one picture, which has as many parameters. A condition reaches SNGenerator by the scale and shift
of its norms, n(h) (1 + s(c)) + b(c); the others read it beside the noise. `bounded` ends in tanh.

The coarsest grid is the layout halved until 4×4, 5×5, 6×6, 7×7 or less, whatever the sides; see nn.layers.halved.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from sfumato.core.condition import Condition
from sfumato.core.space import Grid
from sfumato.nn.parts.doors import check_doors
from sfumato.nn.parts.layers import Inverted, Layout, drawn, group_norm, halved

COARSEST = 4  # a side, DCGAN's and everyone's since


def enlarged(x: Tensor, layout: Layout, mode: str = "nearest") -> Tensor:
    return F.interpolate(x, layout, mode=mode, align_corners=False if mode == "bilinear" else None)


def laddered(widths: Sequence[int], count: int) -> list[int]:
    """The first `count` of widths, from fine to coarse; the last one again and again where there are too few."""
    return [widths[min(i, len(widths) - 1)] for i in range(count)]


def unfolding(channels: int, out: int, patch: int) -> nn.Module:
    """Every position becomes patch × patch pixels, which overlap their neighbours', so that no seam is left between."""
    if patch == 1:
        return drawn(nn.Conv2d(channels, out, 1, bias=False), 1.0)
    made = nn.ConvTranspose2d(channels, out, 2 * patch, stride=patch, padding=patch // 2, bias=False)
    nn.init.normal_(made.weight, std=(4 * channels) ** -0.5)  # each pixel is a sum of 2 × 2 positions
    return made


class Generator(nn.Module):
    """`widths` from fine to coarse, the last one for all that is coarser. With an even `patch` p the finest blocks work
    on p×p pixels at once, which is what a CPU can afford. E c is as wide as the noise. `full`: A has an output for each
    channel at each position of the coarsest grid, and there is no B; few channels, each with one pattern, are few
    patterns."""

    def __init__(
        self,
        space: Grid,
        *,
        noise: int = 64,
        widths: Sequence[int] = (768,),
        blocks: int = 2,
        group: int = 16,
        patch: int = 1,
        vector: int | None = None,
        bounded: bool = False,
        full: bool = False,
    ):
        super().__init__()
        self.noise, self.vector, self.bounded = noise, vector, bounded
        self.size = (space.height, space.width)
        outer = (-(-space.height // patch), -(-space.width // patch))
        self.layouts = halved(outer, COARSEST)[::-1]
        ladder = laddered(widths, len(self.layouts))[::-1]
        self.embed = None if vector is None else drawn(nn.Linear(vector, noise, bias=False), 1.0)
        inputs = noise if vector is None else 2 * noise
        self.basis = None if full else nn.Parameter(torch.randn(ladder[0], *self.layouts[0]))
        base = self.layouts[0][0] * self.layouts[0][1] if full else 1
        self.enter = drawn(nn.Linear(inputs, ladder[0] * base, bias=False), 1.0)
        total = blocks * len(ladder)
        self.levels = nn.ModuleList(
            nn.Sequential(*[Inverted(width, group=group, blocks=total) for _ in range(blocks)]) for width in ladder
        )
        self.between = nn.ModuleList(
            nn.Identity() if a == b else drawn(nn.Conv2d(a, b, 1, bias=False), 1.0) for a, b in pairwise(ladder)
        )
        self.exit = unfolding(ladder[-1], space.channels, patch)

    def forward(self, w: Tensor, condition: Condition) -> Tensor:
        check_doors("generator", condition, vector=self.vector)
        if self.embed is not None:
            w = torch.cat([w, self.embed(condition.vector)], 1)
        h = self.enter(w)
        h = h.unflatten(1, (-1, *self.layouts[0])) if self.basis is None else h[:, :, None, None] * self.basis
        for i, level in enumerate(self.levels):
            if i:
                h = enlarged(self.between[i - 1](h), self.layouts[i], "bilinear")
            h = level(h)
        x = self.exit(h)[..., : self.size[0], : self.size[1]]
        return x.tanh() if self.bounded else x


class Told(nn.Module):
    """n(h), or n(h) (1 + s(c)) + b(c) where a condition of width `vector` modulates it; s and b are zero at the start,
    so that a class differs from another by what it has learned alone."""

    def __init__(self, channels: int, vector: int | None):
        super().__init__()
        self.norm = group_norm(channels)
        self.affine = None if vector is None else drawn(nn.Linear(vector, 2 * channels), 0.0)

    def forward(self, h: Tensor, condition: Condition) -> Tensor:
        h = self.norm(h)
        if self.affine is None:
            return h
        scale, shift = self.affine(condition.vector)[:, :, None, None].chunk(2, 1)
        return h * (1 + scale) + shift


class SNGenerator(nn.Module):
    def __init__(
        self, space: Grid, *, noise: int = 128, width: int = 256, vector: int | None = None, bounded: bool = True
    ):
        super().__init__()
        self.noise, self.vector, self.bounded, self.width = noise, vector, bounded, width
        self.layouts = halved((space.height, space.width), COARSEST)[::-1]
        base = self.layouts[0][0] * self.layouts[0][1]
        self.enter = nn.Linear(noise, width * base)
        self.blocks = nn.ModuleList(SNUp(width, vector) for _ in self.layouts[1:])
        self.norm = group_norm(width)
        self.exit = nn.Conv2d(width, space.channels, 3, padding=1)
        for module in (self.enter, self.exit):
            nn.init.xavier_uniform_(module.weight)

    def forward(self, w: Tensor, condition: Condition) -> Tensor:
        check_doors("generator", condition, vector=self.vector)
        h = self.enter(w).unflatten(1, (self.width, *self.layouts[0]))
        for block, layout in zip(self.blocks, self.layouts[1:]):
            h = block(h, condition, layout)
        x = self.exit(F.relu(self.norm(h)))
        return x.tanh() if self.bounded else x


class SNUp(nn.Module):
    def __init__(self, width: int, vector: int | None):
        super().__init__()
        self.norm1, self.norm2 = Told(width, vector), Told(width, vector)
        self.conv1, self.conv2 = (nn.Conv2d(width, width, 3, padding=1) for _ in range(2))
        self.skip = nn.Conv2d(width, width, 1)
        for conv, gain in ((self.conv1, 2**0.5), (self.conv2, 2**0.5), (self.skip, 1.0)):
            nn.init.xavier_uniform_(conv.weight, gain)

    def forward(self, x: Tensor, condition: Condition, layout: Layout) -> Tensor:
        h = self.conv1(enlarged(F.relu(self.norm1(x, condition)), layout))
        h = self.conv2(F.relu(self.norm2(h, condition)))
        return h + enlarged(self.skip(x), layout)  # a 1×1 convolution may as well come before the side is doubled


class DCGenerator(nn.Module):
    """`width` is that of the finest hidden grid; each coarser one has twice as much, 8 × width at most."""

    def __init__(
        self, space: Grid, *, noise: int = 100, width: int = 64, vector: int | None = None, bounded: bool = True
    ):
        super().__init__()
        self.noise, self.vector, self.bounded = noise, vector, bounded
        self.layouts = halved((space.height, space.width), COARSEST)[::-1]
        inner = max(len(self.layouts) - 1, 1)
        self.widths = [width * min(2**i, 8) for i in range(inner)][::-1]
        base = self.layouts[0][0] * self.layouts[0][1]
        self.embed = None if vector is None else nn.Linear(vector, noise, bias=False)
        self.enter = nn.Linear(noise if vector is None else 2 * noise, self.widths[0] * base, bias=False)
        self.norms = nn.ModuleList(group_norm(c) for c in self.widths)
        outs = [*self.widths[1:], space.channels]
        make = nn.ConvTranspose2d if len(self.layouts) > 1 else nn.Conv2d
        shape = (4, 2, 1) if len(self.layouts) > 1 else (3, 1, 1)  # a grid of 4×4 has nothing to be doubled from
        self.convs = nn.ModuleList(make(a, b, *shape, bias=False) for a, b in zip(self.widths, outs))
        for module in self.modules():
            if isinstance(module, nn.Linear | nn.Conv2d | nn.ConvTranspose2d):
                nn.init.normal_(module.weight, std=0.02)

    def forward(self, w: Tensor, condition: Condition) -> Tensor:
        check_doors("generator", condition, vector=self.vector)
        if self.embed is not None:
            w = torch.cat([w, self.embed(condition.vector)], 1)
        h = self.enter(w).unflatten(1, (self.widths[0], *self.layouts[0]))
        targets = self.layouts[1:] or self.layouts
        for norm, conv, (height, width) in zip(self.norms, self.convs, targets):
            h = conv(F.relu(norm(h)))[..., :height, :width]  # 2n where 2n − 1 was halved
        return h.tanh() if self.bounded else h
