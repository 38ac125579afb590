"""The U-Net that denoises: down to a coarse grid, back up, and at every size a bridge from the way down to the way up.

    e = time(t) + W condition.vector                        given to every residual block
    level i:  `blocks` × [residual block, attention?], then half the side          width · mults[i] channels
    middle:   residual block, attention, residual block
    level i:  (blocks + 1) × [residual block on (h, bridge), attention?], then twice the side
    out = W₀ · φ(n(h)),  W₀ = 0 at the start                                       of `patch`² pixels at each place

Attention looks at its own grid; where the net has `context`, it is a transformer block that also looks at
condition.sequence (latent diffusion's "spatial transformer", arXiv:2112.10752). condition.grid is concatenated to z.
Sources: arXiv:2006.11239 (DDPM), arXiv:2105.05233 (ADM: heads, attention at several sizes, scaled blocks).
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from sfumato.core.condition import Condition
from sfumato.core.errors import Misfit
from sfumato.nn.parts.attention import GridAttention
from sfumato.nn.parts.doors import check_doors
from sfumato.nn.parts.embed import TimeEmbedding
from sfumato.nn.parts.layers import Down, Padding, ResBlock, Up, group_norm, zero
from sfumato.nn.rows.transformer import Transformer


class GridTransformer(nn.Module):
    """x + W₂ · transformer(W₁ n(x), context) over all pixels; W₂ starts at zero. (B, C, H, W) → the same."""

    def __init__(self, channels: int, context: int, head: int | None, groups: int | None, depth: int = 1):
        super().__init__()
        heads = 1 if head is None else max(channels // head, 1)
        self.norm = group_norm(channels, groups, 1e-6)
        self.enter = nn.Linear(channels, channels)
        self.trunk = Transformer(
            channels, depth, heads, context=context, activation="geglu", qkv_bias=False, final=False
        )
        self.exit = zero(nn.Linear(channels, channels))

    def forward(self, x: Tensor, context: Tensor | None, mask: Tensor | None) -> Tensor:
        y = self.enter(self.norm(x).flatten(2).transpose(1, 2))
        y = self.exit(self.trunk(y, context=context, context_mask=mask))
        return x + y.transpose(1, 2).reshape(x.shape)


class Level(nn.Module):
    """Residual blocks, each with the attention that follows it, and a change of size: one floor of the U."""

    def __init__(self, blocks: list[ResBlock], attentions: list[nn.Module], resample: nn.Module | None = None):
        super().__init__()
        self.blocks = nn.ModuleList(blocks)
        self.attentions = nn.ModuleList(attentions)
        self.resample = resample

    def stage(self, i: int, h: Tensor, e: Tensor, condition: Condition) -> Tensor:
        """Block i, and the attention behind it where there is one."""
        h = self.blocks[i](h, e)
        if i >= len(self.attentions):
            return h
        attention = self.attentions[i]
        if isinstance(attention, GridTransformer):
            return attention(h, condition.sequence, condition.mask)
        return attention(h)


@dataclass(frozen=True)
class Parts:
    """What all floors of one U-Net have in common."""

    embedding: int
    head: int | None
    context: int | None
    scaled: bool
    dropout: float
    groups: int | None
    eps: float
    padding: Padding

    def floor(self, inputs: list[int], out: int, attended: int, resample: nn.Module | None = None) -> Level:
        """Blocks from each of `inputs` channels to `out`, the first `attended` of them followed by attention."""
        blocks = [
            ResBlock(
                c,
                out,
                self.embedding,
                scaled=self.scaled,
                dropout=self.dropout,
                groups=self.groups,
                eps=self.eps,
            )
            for c in inputs
        ]
        return Level(blocks, [self.attend(out) for _ in range(attended)], resample)

    def attend(self, channels: int) -> nn.Module:
        if self.context is None:
            return GridAttention(channels, self.head, self.groups, self.eps)
        return GridTransformer(channels, self.context, self.head, self.groups)

    def descend(self, width: int, widths: list[int], blocks: int, attention: tuple[bool, ...]) -> list[Level]:
        levels, channels = [], width
        for i, out in enumerate(widths):
            inputs = [channels] + [out] * (blocks - 1)
            resample = None if i == len(widths) - 1 else Down(out, self.padding)
            levels.append(self.floor(inputs, out, blocks if attention[i] else 0, resample))
            channels = out
        return levels

    def ascend(self, width: int, widths: list[int], blocks: int, attention: tuple[bool, ...]) -> list[Level]:
        """From coarse to fine; every block takes one more bridge, the last that was laid."""
        bridges = [width]
        for i, out in enumerate(widths):
            bridges += [out] * (blocks if i == len(widths) - 1 else blocks + 1)
        levels, channels = [], widths[-1]
        for i, out in reversed(list(enumerate(widths))):
            inputs = [c + bridges.pop() for c in [channels] + [out] * blocks]
            levels.append(self.floor(inputs, out, blocks + 1 if attention[i] else 0, None if i == 0 else Up(out)))
            channels = out
        return levels


class UNet(nn.Module):
    """z (B, in_channels, H, W), t (B,) in [0, 1] → (B, out_channels, H, W). Sides that 2^(levels − 1)
    does not divide get a margin of zeros on the right and below for the way through.

    width       channels at the first level; level i has width · mults[i]
    attention   per level, from fine to coarse
    head        channels per head; None: one head
    vector, context, grid   widths of condition.vector, .sequence, and the channels of .grid; None: no such door
    scaled      the embedding scales as well as shifts (ADM)
    groups      of the group norms; None: chosen by width
    patch       pixels a side that enter as one, and leave so: four times the width for the time that a picture takes
    """

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        *,
        width: int,
        mults: tuple[int, ...],
        blocks: int,
        attention: tuple[bool, ...],
        head: int | None = None,
        vector: int | None = None,
        context: int | None = None,
        grid: int | None = None,
        middle_attention: bool = True,
        scaled: bool = False,
        dropout: float = 0.0,
        groups: int | None = None,
        eps: float = 1e-6,
        padding: Padding = "both",
        cosine_first: bool = True,
        shift: float = 0.0,
        patch: int = 1,
    ):
        super().__init__()
        if len(attention) != len(mults):
            raise Misfit(f"{len(mults)} levels need as many answers to 'attention here?', not {len(attention)}.")
        if context is not None and not (middle_attention or any(attention)):
            raise Misfit("A net with a context needs attention somewhere to look at it.")
        self.patch, self.factor = patch, patch * 2 ** (len(mults) - 1)
        self.in_channels, self.out_channels = in_channels, out_channels
        self.vector_width, self.context_width, self.grid_channels = vector, context, grid
        widths = [width * m for m in mults]
        parts = Parts(4 * width, head, context, scaled, dropout, groups, eps, padding)
        self.time = TimeEmbedding(4 * width, width, cosine_first=cosine_first, shift=shift)
        self.vector = None if vector is None else nn.Linear(vector, 4 * width)
        self.enter = nn.Conv2d((in_channels + (grid or 0)) * patch**2, width, 3, padding=1)
        self.down = nn.ModuleList(parts.descend(width, widths, blocks, attention))
        self.middle = parts.floor([widths[-1]] * 2, widths[-1], 1 if middle_attention else 0)
        self.up = nn.ModuleList(parts.ascend(width, widths, blocks, attention))
        self.norm = group_norm(widths[0], groups, eps)
        self.exit = zero(nn.Conv2d(widths[0], out_channels * patch**2, 3, padding=1))

    def forward(self, z: Tensor, t: Tensor, condition: Condition) -> Tensor:
        check_doors("U-Net", condition, vector=self.vector_width, sequence=self.context_width, grid=self.grid_channels)
        high, wide = z.shape[-2:]
        if condition.grid is not None and self.grid_channels is not None:
            z = torch.cat([z, condition.grid], dim=1)
        if high % self.factor or wide % self.factor:  # a latent of 7 × 7, say: a margin of zeros, cut off at the end
            z = F.pad(z, (0, -wide % self.factor, 0, -high % self.factor))
        e = self.time(t)
        if self.vector is not None:
            e = e + self.vector(condition.vector)
        h = self.enter(F.pixel_unshuffle(z, self.patch))
        bridges = [h]
        for level in self.down:
            assert isinstance(level, Level)
            for i in range(len(level.blocks)):
                h = level.stage(i, h, e, condition)
                bridges.append(h)
            if level.resample is not None:
                h = level.resample(h)
                bridges.append(h)
        for i in range(len(self.middle.blocks)):
            h = self.middle.stage(i, h, e, condition)
        for level in self.up:
            assert isinstance(level, Level)
            for i in range(len(level.blocks)):
                h = level.stage(i, torch.cat([h, bridges.pop()], dim=1), e, condition)
            if level.resample is not None:
                h = level.resample(h)
        return F.pixel_shuffle(self.exit(F.silu(self.norm(h))), self.patch)[..., :high, :wide]
