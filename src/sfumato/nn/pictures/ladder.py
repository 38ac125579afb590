"""A ladder: from a fine grid up to a single cell, and down again with something new on every rung.

    up      a ← W x;  per resolution: blocks [attention], keep a, then mean over cells to the next coarser one
    down    h ← b₁;   per rung i:     (m, s, r) = prior_i(h),   (m′, s′) = posterior_i([h, a])     a of this resolution
                                      h ← shared_i(h + r + W_z z) [attention]
                      between resolutions h ← nearest cells of h [+ b], at the end W (g h + b)

What z is, and what m, s, m′, s′ say of it, is the caller's affair. A block is x ↦ x + W₄ φ W₃ φ W₂ φ W₁ φ(x + V e),
where e is the condition's vector; without the first x in prior and posterior, whose outputs have another width.

    style        hidden widths    kernels    φ     posterior reads    biases b                 weights at the start
    bottleneck   ρw, ρw, ρw       1 k k 1    GELU  [h, a]             everywhere, and g        torch's
    expansion    w, w, ρw         k k 1 1    SiLU  W [h, a]           at the coarsest          Xavier

"bottleneck" is VDVAE's (Child 2021, arXiv:2011.10650; ρ = ¼), "expansion" that of deep VAEs over latents (Luhman &
Luhman 2023, arXiv:2303.13714; ρ = 4 … 12). There is no normalisation: the last W of every residual path and every W_z
starts smaller by √(1/n), n the number of rungs (going up: of blocks), and the prior's last W is zero, so that
m = s = r = 0. k is 3, and 1 where a grid has two cells a side or fewer.

Attention is to all cells, and to condition.sequence where the ladder was built with `context`. In the code of the
second paper several heads hand on the queries instead of what was attended, so that cells do not meet; here they do.
Queries and keys are normalised, since nothing else keeps them in bounds.
Shapes: x (B, C, H, W) of any H and W; a, h (B, width, h_l, w_l); z (B, z, h_l, w_l); out (B, out, H, W).
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Literal, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from sfumato.core.condition import Condition
from sfumato.core.errors import Misfit
from sfumato.nn.parts.attention import Attention
from sfumato.nn.parts.doors import check_doors
from sfumato.nn.parts.layers import zero

Style = Literal["bottleneck", "expansion"]
Side = tuple[int, int]


def resolutions(height: int, width: int) -> tuple[Side, ...]:
    """From coarse to fine: halves, rounded up, down to four cells a side or fewer, and from there to one.
    32 → 1 4 8 16 32; 28 → 1 4 7 14 28; 7 → 1 4 7. For powers of two these are the resolutions of both papers."""
    sides = [(height, width)]
    while sides[0] != (1, 1):
        h, w = sides[0]
        sides.insert(0, (1, 1) if max(h, w) <= 4 else (math.ceil(h / 2), math.ceil(w / 2)))
    return tuple(sides)


@dataclass(frozen=True)
class Level:
    """One resolution: `rungs` going down, `blocks` going up, `ratio` ρ, and after how many of each attention stands."""

    side: Side
    rungs: int
    blocks: int
    ratio: float
    attention: int = 0
    heads: int = 1


class Heard(NamedTuple):
    """A condition as all blocks want it: e (B, width), and the sequence with its mask."""

    vector: Tensor | None
    sequence: Tensor | None
    mask: Tensor | None


def spots(count: int, among: int) -> set[int]:
    """After which of `among` blocks (counted from 1) `count` attention layers stand: evenly, none at the ends."""
    return {round(among / (count + 1) * i) for i in range(1, count + 1)} - {0}


class Leading(nn.Conv2d):
    """A convolution that knows its largest singular value, as a matrix (out, in · k · k): ‖W‖ ≈ uᵀ W v, where v = Wᵀu
    and then u = W v, both of unit length, are turned once a call while training. The gradient goes through W alone."""

    u: Tensor

    def __init__(self, channels: int, out: int, kernel: int):
        super().__init__(channels, out, kernel, padding=kernel // 2)
        self.register_buffer("u", F.normalize(torch.randn(out), dim=0))

    def norm(self) -> Tensor:
        """An estimate from below, by one power iteration."""
        matrix, learning = self.weight.flatten(1), self.training and torch.is_grad_enabled()
        with torch.no_grad():
            v = F.normalize(self.u @ matrix, dim=0)
            u = F.normalize(matrix @ v, dim=0)
            u = torch.where(u.norm() > 0.5, u, self.u)  # of a matrix of zeros, as at the start, there is no direction
            if learning:
                self.u.copy_(u)
            u = u.clone()
        return u @ matrix @ v


class Block(nn.Module):
    """(B, channels, h, w), e (B, width) → (B, out, h, w). `gain` scales the last weight at the start; `leading` makes
    the last convolution a Leading one, and the block one that adds nothing to its input."""

    def __init__(
        self,
        channels: int,
        width: int,
        out: int,
        *,
        style: Style,
        ratio: float,
        side: Side,
        embedding: int | None,
        gain: float = 1.0,
        leading: bool = False,
    ):
        super().__init__()
        hidden = int(width * ratio)
        k = 3 if max(side) > 2 else 1  # in a grid of one or two cells a wider kernel sees the margin's zeros
        narrow = style == "bottleneck"
        widths = (channels, hidden, hidden, hidden) if narrow else (channels, width, width, hidden)
        kernels = (1, k, k, 1) if narrow else (k, k, 1, 1)
        self.phi = F.gelu if narrow else F.silu
        self.residual = not leading
        self.embed = None if embedding is None else nn.Linear(embedding, channels)
        convs = [nn.Conv2d(a, b, kernel, padding=kernel // 2) for a, b, kernel in zip(widths, widths[1:], kernels)]
        last = Leading(widths[-1], out, kernels[-1]) if leading else nn.Conv2d(widths[-1], out, kernels[-1])
        self.convs = nn.ModuleList([*convs, last])
        for conv in self.convs:
            _start(conv, style)
        with torch.no_grad():
            last.weight *= gain

    @property
    def last(self) -> nn.Conv2d:
        return self.convs[-1]  # type: ignore[return-value]

    def forward(self, x: Tensor, e: Tensor | None) -> Tensor:
        h = x if self.embed is None or e is None else x + self.embed(e)[:, :, None, None]
        for conv in self.convs:
            h = conv(self.phi(h))
        return x + h if self.residual else h


def _start(conv: nn.Module, style: Style) -> None:
    assert isinstance(conv, nn.Conv2d)
    if style == "expansion":
        nn.init.xavier_uniform_(conv.weight)
    if conv.bias is not None:
        nn.init.zeros_(conv.bias)


class Look(nn.Module):
    """x + attention to all cells [+ attention to the sequence], both zero at the start."""

    def __init__(self, width: int, heads: int, context: int | None):
        super().__init__()
        self.cells = Attention(width, heads, qk_norm=True)
        self.words = None if context is None else Attention(width, heads, context=context, qk_norm=True)
        for part in (self.cells, self.words):
            if part is not None:
                zero(part.out)

    def forward(self, x: Tensor, said: Heard) -> Tensor:
        h = x.flatten(2).transpose(1, 2)
        h = h + self.cells(h)
        if self.words is not None:
            h = h + self.words(h, said.sequence, mask=said.mask)
        return h.transpose(1, 2).reshape(x.shape)


class Rise(nn.Module):
    """One resolution going up."""

    def __init__(self, level: Level, width: int, style: Style, embedding: int | None, context: int | None, gain: float):
        super().__init__()
        looks = spots(level.attention, level.blocks)
        shape = {"style": style, "ratio": level.ratio, "side": level.side, "embedding": embedding}
        self.blocks = nn.ModuleList(Block(width, width, width, gain=gain, **shape) for _ in range(level.blocks))  # type: ignore[arg-type]
        self.looks = nn.ModuleDict({str(i): Look(width, level.heads, context) for i in sorted(looks)})

    def forward(self, a: Tensor, said: Heard) -> Tensor:
        for i, block in enumerate(self.blocks, 1):
            a = block(a, said.vector)
            if str(i) in self.looks:
                a = self.looks[str(i)](a, said)
        return a


class Rung(nn.Module):
    """One step going down. `up` (side) leads to the next resolution; `bias` whether something is added there."""

    def __init__(
        self,
        level: Level,
        width: int,
        other: int,
        z: int,
        style: Style,
        embedding: int | None,
        gain: float,
        look: nn.Module | None,
    ):
        super().__init__()
        shape = {"style": style, "ratio": level.ratio, "side": level.side, "embedding": embedding}
        both = width + other
        if style == "expansion":
            self.meet: nn.Module = nn.Conv2d(both, width, 1)
            _start(self.meet, style)
            both = width
        else:
            self.meet = nn.Identity()
        self.prior = Block(width, width, 2 * z + width, gain=0.0, leading=True, **shape)  # type: ignore[arg-type]
        self.posterior = Block(both, width, 2 * z, leading=True, **shape)  # type: ignore[arg-type]
        self.place = nn.Conv2d(z, width, 1, bias=False)
        _start(self.place, style)
        with torch.no_grad():
            self.place.weight *= gain
        self.shared = Block(width, width, width, gain=gain, **shape)  # type: ignore[arg-type]
        self.look = look


class Ladder(nn.Module):
    """`levels` from coarse to fine. `width` is that of the way down, `other` that of the way up (the same when None),
    `z` the channels of what is added on a rung; `vector` and `context` the widths of condition.vector and .sequence.

    `of[i]` is the level of rung i and `shapes[i]` the shape of its z; rungs are counted from the coarsest.
    """

    def __init__(
        self,
        levels: tuple[Level, ...],
        channels: int,
        out: int,
        *,
        style: Style,
        width: int,
        other: int | None = None,
        z: int = 16,
        vector: int | None = None,
        context: int | None = None,
    ):
        super().__init__()
        if levels[0].side != (1, 1) or any(level.rungs < 1 for level in levels):
            raise Misfit(f"A ladder starts at one cell and has a rung at every resolution, not {levels}.")
        other = width if other is None else other
        looks = any(spots(level.attention, level.rungs) for level in levels)
        self.sides = [level.side for level in levels]
        self.vector_width, self.context_width = vector, context if looks else None
        embedding = None if vector is None else width
        rungs, blocks = sum(v.rungs for v in levels), sum(v.blocks for v in levels)
        gain, up_gain = rungs**-0.5, max(blocks, 1) ** -0.5
        self.vector = None if vector is None else nn.Linear(vector, width)
        self.enter = nn.Conv2d(channels, other, 3, padding=1)
        _start(self.enter, style)
        self.rises = nn.ModuleList(Rise(v, other, style, embedding, self.context_width, up_gain) for v in levels)
        self.of = [i for i, level in enumerate(levels) for _ in range(level.rungs)]
        self.shapes = [(z, *levels[i].side) for i in self.of]
        self.rungs = nn.ModuleList(
            Rung(v, width, other, z, style, embedding, gain, Look(width, v.heads, self.context_width) if look else None)
            for v in levels
            for look in [i in spots(v.attention, v.rungs) for i in range(1, v.rungs + 1)]
        )
        everywhere = style == "bottleneck"
        self.biases = nn.ParameterList(
            nn.Parameter(torch.zeros(width, *side)) for side in (self.sides if everywhere else self.sides[:1])
        )
        self.gain = nn.Parameter(torch.ones(width, 1, 1)) if everywhere else None
        self.bias = nn.Parameter(torch.zeros(width, 1, 1)) if everywhere else None
        self.leave = nn.Conv2d(width, out, 1)
        _start(self.leave, style)

    def hear(self, condition: Condition) -> Heard:
        """What the other methods call `said`."""
        check_doors("ladder", condition, vector=self.vector_width, sequence=self.context_width)
        e = None if self.vector is None else self.vector(condition.vector)
        return Heard(e, condition.sequence, condition.mask)

    def encode(self, x: Tensor, said: Heard) -> list[Tensor]:
        """The way up: a of every level, from coarse to fine."""
        kept = [self.rises[-1](self.enter(x), said)]
        for side, rise in zip(self.sides[-2::-1], list(self.rises)[-2::-1]):
            kept.append(rise(F.adaptive_avg_pool2d(kept[-1], side), said))
        return kept[::-1]

    def start(self, rows: int) -> Tensor:
        # a copy: made under no_grad, a view of a parameter claims to need a gradient, and torch's counter believes it
        return self.biases[0].repeat(rows, 1, 1, 1)

    def prior(self, i: int, h: Tensor, said: Heard) -> tuple[Tensor, Tensor, Tensor]:
        """(m, s, r) of rung i."""
        z, rung = self.shapes[i][0], self._rung(i)
        m, s, r = rung.prior(h, said.vector).split([z, z, h.shape[1]], 1)
        return m, s, r

    def posterior(self, i: int, h: Tensor, a: Tensor, said: Heard) -> tuple[Tensor, Tensor]:
        """(m′, s′) of rung i, with a of its level."""
        rung = self._rung(i)
        m, s = rung.posterior(rung.meet(torch.cat([h, a], 1)), said.vector).chunk(2, 1)
        return m, s

    def join(self, i: int, h: Tensor, z: Tensor, r: Tensor, said: Heard) -> Tensor:
        """h after rung i, at the resolution of the rung that follows."""
        rung, level = self._rung(i), self.of[i]
        h = rung.shared(h + r + rung.place(z), said.vector)
        if rung.look is not None:
            h = rung.look(h, said)
        if i + 1 < len(self.of) and self.of[i + 1] != level:
            h = F.interpolate(h, size=self.sides[level + 1], mode="nearest")
            h = h + self.biases[level + 1] if len(self.biases) > 1 else h
        return h

    def exit(self, h: Tensor) -> Tensor:
        return self.leave(h if self.gain is None or self.bias is None else self.gain * h + self.bias)

    def norms(self) -> Iterator[tuple[int, Tensor]]:
        """(cells a side, largest singular value) of the last convolution of every prior and posterior block."""
        for i, level in enumerate(self.of):
            rung = self._rung(i)
            for block in (rung.prior, rung.posterior):
                assert isinstance(block.last, Leading)
                yield max(self.sides[level]), block.last.norm()

    def _rung(self, i: int) -> Rung:
        return self.rungs[i]  # type: ignore[return-value]
