"""The U-Net that denoises: down to a coarse grid, back up, and at every size a bridge from the way down to the way up.

    e = time(t) + W condition.vector                        given to every residual block
    level i:  `blocks` × [residual block, attention?], then half the side          width · mults[i] channels
    middle:   residual block, attention, residual block
    level i:  (blocks + 1) × [residual block on (h, bridge), attention?], then twice the side
    out = W₀ · φ(n(h)),  W₀ = 0 at the start

Attention looks at its own grid; where the net has `context`, it is a transformer block that also looks at
condition.sequence (latent diffusion's "spatial transformer", arXiv:2112.10752). condition.grid is concatenated to z.
Sources: arXiv:2006.11239 (DDPM), arXiv:2105.05233 (ADM: heads, attention at several sizes, scaled blocks).
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from sfumato.core.condition import Condition
from sfumato.core.errors import Misfit
from sfumato.nn.attention import GridAttention
from sfumato.nn.doors import check_doors
from sfumato.nn.embed import TimeEmbedding
from sfumato.nn.layers import Down, Padding, ResBlock, Up, group_norm, zero
from sfumato.nn.transformer import Transformer


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


class UNet(nn.Module):
    """z (B, in_channels, H, W), t (B,) in [0, 1] → (B, out_channels, H, W); sides divisible by 2^(levels − 1).

    width       channels at the first level; level i has width · mults[i]
    attention   per level, from fine to coarse
    head        channels per head; None: one head
    vector, context, grid   widths of condition.vector, .sequence, and the channels of .grid; None: no such door
    scaled      the embedding scales as well as shifts (ADM)
    groups      of the group norms; None: chosen by width
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
    ):
        super().__init__()
        if len(attention) != len(mults):
            raise Misfit(f"{len(mults)} levels need as many answers to 'attention here?', not {len(attention)}.")
        if context is not None and not (middle_attention or any(attention)):
            raise Misfit("A net with a context needs attention somewhere to look at it.")
        self.factor = 2 ** (len(mults) - 1)
        self.in_channels, self.out_channels = in_channels, out_channels
        self.vector_width, self.context_width, self.grid_channels = vector, context, grid
        widths = [width * m for m in mults]
        embedding = 4 * width

        def block(channels: int, out: int) -> ResBlock:
            return ResBlock(channels, out, embedding, scaled=scaled, dropout=dropout, groups=groups, eps=eps)

        def attend(channels: int) -> nn.Module:
            if context is None:
                return GridAttention(channels, head, groups, eps)
            return GridTransformer(channels, context, head, groups)

        self.time = TimeEmbedding(embedding, width, cosine_first=cosine_first, shift=shift)
        self.vector = None if vector is None else nn.Linear(vector, embedding)
        self.enter = nn.Conv2d(in_channels + (grid or 0), width, 3, padding=1)

        bridges, channels = [width], width
        self.down, self.up = nn.ModuleList(), nn.ModuleList()
        for i, out in enumerate(widths):
            last = i == len(widths) - 1
            self.down.append(
                Level(
                    [block(channels if j == 0 else out, out) for j in range(blocks)],
                    [attend(out) for _ in range(blocks) if attention[i]],
                    None if last else Down(out, padding),
                )
            )
            channels = out
            bridges += [out] * (blocks if last else blocks + 1)
        self.middle = Level(
            [block(channels, channels), block(channels, channels)], [attend(channels)] if middle_attention else []
        )
        for i, out in reversed(list(enumerate(widths))):
            inputs = [channels] + [out] * blocks
            self.up.append(
                Level(
                    [block(c + bridges.pop(), out) for c in inputs],
                    [attend(out) for _ in inputs if attention[i]],
                    None if i == 0 else Up(out),
                )
            )
            channels = out
        self.norm = group_norm(channels, groups, eps)
        self.exit = zero(nn.Conv2d(channels, out_channels, 3, padding=1))

    def forward(self, z: Tensor, t: Tensor, condition: Condition) -> Tensor:
        check_doors("U-Net", condition, vector=self.vector_width, sequence=self.context_width, grid=self.grid_channels)
        if z.shape[-2] % self.factor or z.shape[-1] % self.factor:
            raise Misfit(
                f"This U-Net halves the sides until {self.factor} pixels are one; {tuple(z.shape[-2:])} do not divide."
            )
        if condition.grid is not None and self.grid_channels is not None:
            z = torch.cat([z, condition.grid], dim=1)
        e = self.time(t)
        if self.vector is not None:
            e = e + self.vector(condition.vector)
        h = self.enter(z)
        bridges = [h]
        for level in self.down:
            for i in range(len(level.blocks)):
                h = level.stage(i, h, e, condition)
                bridges.append(h)
            if level.resample is not None:
                h = level.resample(h)
                bridges.append(h)
        h = self.middle.stage(0, h, e, condition)
        h = self.middle.stage(1, h, e, condition)
        for level in self.up:
            for i in range(len(level.blocks)):
                h = level.stage(i, torch.cat([h, bridges.pop()], dim=1), e, condition)
            if level.resample is not None:
                h = level.resample(h)
        return self.exit(F.silu(self.norm(h)))
